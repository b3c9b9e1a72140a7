"""Every way to change a measurement between two repeats, or within one, that we could think of, and what notices it.

``by`` is the module that notices or prevents it and ``test`` a test that tries, as ``file::name``; or ``why`` says why
nothing can from user space: those stand in docs/explanation/never.md, which tells users.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """One way to change a measurement."""

    what: str
    by: str = ""
    test: str = ""
    why: str = ""


LOADED = "supervise/loaded_comparison.py"
ELSEWHERE = "supervise/test_loaded.py::test_what_is_loaded_from_outside_the_repository_is_the_same_in_every_repeat"
IGNORED = "supervise/test_loaded.py::test_what_git_ignores_in_the_repository_is_the_same_in_every_repeat"
USER_SITE = (
    "supervise/test_loaded.py::test_what_a_systems_python_loads_from_the_users_own_folder_is_the_same_in_every_repeat"
)
MACHINE = "precheck/test_fingerprint.py::test_whatever_moves_numbers_makes_two_machines_incomparable"
LIMITS = (
    "precheck/test_fingerprint.py::"
    "test_another_limit_of_the_kernel_is_named_and_one_that_nobody_recorded_is_no_difference"
)
READ_LIMITS = (
    "precheck/test_host_limits.py::test_the_least_limit_of_all_groups_above_counts_and_what_is_missing_is_left_out"
)
TREE = "session/test_drift.py::test_whatever_could_change_a_measurement_is_named"
BETWEEN = "session/test_drift.py::test_a_tree_that_was_another_one_in_between_is_noticed"
SHELL = "supervise/test_launch_variables.py::test_only_what_is_allowed_comes_from_the_callers_shell"
CARRIED = (
    "faults/test_same_launch.py::test_language_time_zone_and_search_path_are_those_of_the_shell_that_started_the_run"
)
CUT = "supervise/test_guard.py::test_what_would_cut_the_file_short_is_taken_back"
HALTED = "supervise/test_guard.py::test_what_cannot_be_taken_back_halts_and_is_named"
TWICE = "supervise/test_planned.py::test_a_test_that_ran_more_than_once_is_no_observation"
UNCALLED = "supervise/test_planned.py::test_a_test_whose_function_was_never_called_is_no_observation"
OF_LAUNCH = "supervise/test_of_launch.py::test_a_result_of_another_launch_is_no_observation"
TAMPERED = "faults/test_tampering.py::test_no_observation_disappears_whatever_somebody_does_to_the_files_of_a_run"

WAYS = (
    # the environment of the launch
    Way("a variable of the shell (PYTEST_ADDOPTS, PYTHONPATH …)", "supervise/launch_variables.py", SHELL),
    Way("LD_PRELOAD", "supervise/launch_variables.py", SHELL),
    Way("LD_LIBRARY_PATH, CUDA_HOME", "precheck/fingerprint.py", MACHINE),
    Way("a variable that the model or host sets", "precheck/fingerprint.py", MACHINE),
    Way("language, LC_*, time zone", "supervise/comparing.py", CARRIED),
    Way("the order of PATH", "supervise/comparing.py", CARRIED),
    Way("the virtual environment's place in PATH", "supervise/launch_variables.py",
        "supervise/test_launch_variables.py::test_the_projects_interpreter_and_the_guard_come_first"),
    Way("TMPDIR", "supervise/scratch.py",
        "supervise/test_scratch.py::test_the_tmpdir_lies_where_it_is_short_and_can_be_written"),
    Way("which GPUs are visible", "supervise/launch_variables.py",
        "supervise/test_launch_variables.py::test_the_granted_gpus_are_the_visible_ones"),
    Way("a GPU that MPS shares", "supervise/launch_variables.py",
        "supervise/test_launch_variables.py::test_a_measured_gpu_is_shared_with_nobody_whoever_asks_for_it"),
    # what Python loads
    Way("an installed module edited, also with its old time", LOADED, ELSEWHERE),
    Way("a wheel installed again, a RECORD edited", LOADED, ELSEWHERE),
    Way("a package installed or upgraded", "precheck/fingerprint.py",
        "precheck/test_fingerprint.py::test_a_package_that_was_installed_meanwhile_is_noticed"),
    Way("sitecustomize, usercustomize", LOADED, ELSEWHERE),
    Way("a .pth file", LOADED, ELSEWHERE),
    Way("the user's own site folder", LOADED, USER_SITE),
    Way("an editable install elsewhere", LOADED, ELSEWHERE),
    Way("a wrapper around the interpreter", LOADED, ELSEWHERE),
    Way("another interpreter", "precheck/fingerprint.py", MACHINE),
    Way("packages of the system that show through", "precheck/fingerprint.py",
        "precheck/test_fingerprint.py::test_packages_of_the_system_count_where_they_show_through"),
    Way("stale bytecode", "supervise/caches.py",
        "supervise/test_bytecode.py::test_no_code_of_another_commit_is_loaded_from_a_compiled_file"),
    Way("a file's times only", LOADED,
        "supervise/test_loaded.py::test_files_that_were_only_touched_or_are_the_tests_own_output_halt_nothing"),
    Way("the record of loaded files edited or deleted", "supervise/loaded.py",
        "supervise/test_loaded.py::test_a_record_that_is_not_the_sealed_one_is_put_back"),
    # models and data
    Way("another revision of the weights or a data set", LOADED, ELSEWHERE),
    Way("other bytes in the Hugging Face cache", LOADED, ELSEWHERE),
    Way("a kernel cache that is warm in one repeat only", "supervise/caches.py",
        "supervise/test_caches.py::test_each_repeat_of_a_run_finds_the_cache_cold"),
    # the tree
    Way("a test, threshold, catalogue or imported file", "session/drift.py", TREE),
    Way("a conftest, an ini file or a .env that appears", "session/drift.py", TREE),
    Way("an ignored conftest, data file or .env", LOADED, IGNORED),
    Way("settings above the repository", LOADED, ELSEWHERE),
    Way("another commit, also one that comes back", "session/drift.py", BETWEEN),
    Way("a file that git was told not to look at", "session/provenance.py",
        "session/test_provenance.py::test_a_change_that_git_was_told_not_to_look_at_makes_the_tree_dirty"),
    Way("a sparse checkout", "session/provenance.py",
        "session/test_provenance.py::test_a_file_that_a_sparse_checkout_leaves_out_is_no_change"),
    Way("a git filter: smudge, git-lfs pointers", LOADED,
        "faults/test_same_launch.py::test_a_filter_of_git_hides_no_change_of_a_file"),
    Way("a text conversion of git", "session/provenance.py",
        "session/test_provenance.py::test_a_text_conversion_of_the_users_never_hides_a_change"),
    Way("git's own variables and hooks' environment", "session/provenance.py",
        "session/test_provenance.py::test_the_callers_git_variables_and_pagers_do_not_lead_elsewhere"),
    Way("a submodule, a nested repository", "session/provenance.py",
        "session/test_drift.py::test_a_change_inside_a_submodule_and_inside_a_repository_that_git_does_not_know_is_seen"),
    Way("the part of a larger repository above the project", "session/provenance.py",
        "supervise/test_outputs_in_the_tree.py::test_a_project_in_a_folder_of_a_larger_repository_sees_later_edits"),
    Way("what the tests themselves rewrite in the tree", "session/drift.py",
        "supervise/test_outputs_in_the_tree.py::test_what_python_or_pytest_loads_is_never_an_output"),
    # what pytest does
    Way("-x, --maxfail, -k, -m, --lf, --stepwise in ini, variables or conftests", "supervise/guard.py", CUT),
    Way("tests deselected, --co, items deleted", "supervise/guard_record.py", HALTED),
    Way("a test file of the same name in another folder", "supervise/guard_record.py",
        "supervise/test_planned.py::test_a_file_of_the_same_name_in_another_folder_is_another_file"),
    Way("another test file beside", "supervise/retry.py",
        "supervise/test_guard.py::test_numbers_beside_which_another_file_ran_halt_and_the_file_is_named"),
    Way("skip, missing tests", "supervise/guard_record.py",
        "supervise/test_guard.py::test_a_test_file_that_yields_less_than_planned_halts_and_says_what_is_missing"),
    Way("xfail", "supervise/guard_record.py",
        "supervise/test_guard.py::test_an_expected_failure_says_nothing_because_nobody_looks_at_its_cause"),
    Way("retries: pytest-retry, flaky, a conftest that runs the protocol again", "supervise/guard_record.py", TWICE),
    Way("pytest-xdist workers, pytest-rerunfailures, from an ini file", "supervise/guard_record.py",
        "faults/test_same_launch.py::test_workers_and_reruns_of_installed_plugins_are_no_observation"),
    Way("a test that is collected but not called", "supervise/guard_record.py", UNCALLED),
    Way("another set of parameters in another repeat", "supervise/guard_record.py",
        "supervise/test_planned.py::test_every_repeat_runs_the_same_tests_by_their_whole_node_ids"),
    Way("a process that ends itself (pytest-timeout in thread mode, os._exit)", "supervise/retry.py",
        "supervise/test_guard.py::test_a_test_that_ends_the_process_without_a_word_costs_two_launches_and_halts"),
    Way("a plugin in random order (it is turned off)", "supervise/pytest_session.py",
        "supervise/test_launch_variables.py::test_the_command_line_runs_the_whole_file_once_and_never_stops_early"),
    # results
    Way("a result cached, copied, hard-linked, or written after the session", "observe/result_files.py", OF_LAUNCH),
    Way("a result moved here from before", "observe/result_files.py",
        "supervise/test_of_launch.py::test_a_file_that_was_moved_here_from_before_is_known_by_its_birth"),
    Way("another number of samples", "observe/audit.py",
        "observe/test_one_scope.py::test_repeats_of_different_sizes_halt_and_are_never_one_strict_run"),
    Way("files of the run deleted, edited, copied or moved", "supervise/rereading.py", TAMPERED),
    Way("an artifact of another run", "observe/audit.py",
        "supervise/test_comparing.py::test_an_artifact_of_another_run_that_was_copied_in_is_foreign"),
    # the machine
    Way("kernel, CPU model, number and set of CPUs", "precheck/fingerprint.py", MACHINE),
    Way("container image, where it says which it is", "precheck/fingerprint.py", MACHINE),
    Way("GPU driver", "precheck/fingerprint.py", MACHINE),
    Way("another GPU, also one of the same model", "precheck/fingerprint.py",
        "precheck/test_fingerprint.py::test_another_gpu_is_named_also_one_of_the_same_model"),
    Way("nice value and scheduler", "precheck/host_limits.py", READ_LIMITS),
    Way("CPU governor, turbo, boost", "precheck/host_limits.py", READ_LIMITS),
    Way("cgroup limits of CPU and memory", "precheck/host_limits.py", READ_LIMITS),
    Way("cgroup limits of the first version", "precheck/host_limits.py",
        "precheck/test_host_limits.py::test_cgroups_of_the_first_version_are_read_too"),
    Way("ulimits of address space, data and CPU time", "precheck/fingerprint.py", LIMITS),
    Way("huge pages, NUMA balancing", "precheck/host_limits.py", READ_LIMITS),
    Way("the wall clock set, the machine asleep", "supervise/pytest_session.py",
        "faults/test_same_launch.py::test_an_attempt_during_which_the_clock_was_set_is_made_again"),
    Way("GPU clocks held down", "supervise/gpu/use.py",
        "supervise/test_gpu_use.py::test_what_slowed_the_gpus_is_noted_whenever_it_was_seen"),
    Way("another process on the GPU", "supervise/gpu/gate.py",
        "supervise/test_gpu_use.py::test_a_gpu_that_is_taken_between_two_repeats_is_left_to_its_holder"),
    Way("another measuring run of ours", "supervise/neighbours.py",
        "supervise/test_neighbours.py::test_a_run_under_another_lock_folder_is_on_record_in_both"),
    Way("servers of an earlier launch that still run", "supervise/leftovers.py",
        "supervise/test_leftovers.py::test_resuming_a_lost_run_ends_what_it_left_before_it_measures"),
    # nothing can
    Way("another person's program that loads CPU, memory bus or disk for a moment",
        why="the kernel counts time, not what a neighbour's cache misses cost"),
    Way("the network and a remote service", why="the other end can answer otherwise without a trace here"),
    Way("data that a program other than pytest's own process reads",
        why="only a privileged tracer sees the files of other processes"),
    Way("a shared library replaced below the linker's own folders",
        why="it is loaded by the kernel and the linker, without Python noticing"),
    Way("firmware, microcode, power limit of the rack, temperature",
        why="the machine reports them, if at all, to its administrator"),
    Way("a container image that does not say which it is", why="an image's digest is known outside of it only"),
    Way("the host under a virtual machine", why="a guest cannot see who else is served"),
    Way("root, or the debugger of the same user", why="they can change the records of tune-mcp"),
)  # fmt: skip
