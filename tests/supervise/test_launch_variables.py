"""The shell that an agent happens to run in never decides a measurement; the command line never cuts a file short."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.config.stages import Stage
from tune_mcp.run_dir import RunDir
from tune_mcp.session.drift import Baseline
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.launch_variables import LaunchVariables, build
from tune_mcp.supervise.pytest_session import pytest_argv

SHELL = {
    "PATH": "/usr/bin", "HOME": "/root", "LANG": "C.UTF-8", "LC_ALL": "C", "HF_TOKEN": "hf_x",
    "PYTEST_ADDOPTS": "-x", "PYTEST_PLUGINS": "evil", "PYTHONPATH": "/evil", "PYTHONSTARTUP": "/evil.py",
    "PYTHONHOME": "/evil", "PYTEST_XDIST_WORKER": "gw0", "PYTEST_DEBUG_TEMPROOT": "/evil",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": "7", "CUDA_MPS_PIPE_DIRECTORY": "/mps",
    "TORCHINDUCTOR_CACHE_DIR": "/stale", "LD_PRELOAD": "/evil.so", "VIRTUAL_ENV": "/other", "GIT_DIR": "/x",
    "TUNE_GUARD_RECORD": "/evil.jsonl", "OPENAI_API_KEY": "secret",
}  # fmt: skip


def built(settings: dict[str, str] | None = None, gpus: tuple[int, ...] = ()) -> LaunchVariables:
    return build(SHELL, settings or {}, Path("/venv/bin/python"), (Path("/guard"), Path("/repo")), gpus)


@pytest.mark.rule("XPY-01", "GPU-17")
def test_only_what_is_allowed_comes_from_the_callers_shell() -> None:
    found = built()

    kept = {name for name in SHELL if found.variables.get(name) == SHELL[name]}
    assert kept == {"HOME", "LANG", "LC_ALL", "HF_TOKEN"}
    assert set(SHELL) - set(found.dropped) == kept | {"PATH"}
    assert set(found.variables) - set(SHELL) == {
        "PYTHONUNBUFFERED", "SPT_NOENV", "CUDA_DEVICE_ORDER", "NO_PROXY", "no_proxy"
    }  # fmt: skip


@pytest.mark.rule("XPY-01")
def test_no_variable_of_pytest_survives() -> None:
    assert not [name for name in built().variables if name.startswith("PYTEST")]


@pytest.mark.rule("ENV-25")
def test_the_projects_interpreter_and_the_guard_come_first() -> None:
    variables = built().variables

    assert variables["PATH"] == "/venv/bin:/usr/bin"
    assert variables["VIRTUAL_ENV"] == "/venv"
    assert variables["PYTHONPATH"] == "/guard:/repo"


@pytest.mark.rule("MOD-07")
def test_settings_of_model_and_host_win_over_the_shell_and_ours_over_all() -> None:
    variables = built({"HOME": "/github/home", "CUDA_VISIBLE_DEVICES": "5", "PYTHONPATH": "/x", "OMP_NUM_THREADS": "1"})

    assert variables.variables["HOME"] == "/github/home"
    assert variables.variables["OMP_NUM_THREADS"] == "1"
    assert variables.variables["CUDA_VISIBLE_DEVICES"] == ""
    assert variables.variables["PYTHONPATH"] == "/guard:/repo"


@pytest.mark.rule("GPU-17")
@pytest.mark.parametrize(("gpus", "value"), [((), ""), ((3,), "3"), ((0, 2), "0,2")])
def test_the_granted_gpus_are_the_visible_ones(gpus: tuple[int, ...], value: str) -> None:
    variables = built(gpus=gpus).variables
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["CUDA_DEVICE_ORDER"]) == (value, "PCI_BUS_ID")


@pytest.mark.rule("GPU-14")
def test_a_measured_gpu_is_shared_with_nobody_whoever_asks_for_it() -> None:
    found = built({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "OMP_NUM_THREADS": "1"}, gpus=(0,))

    assert [name for name in found.variables if name.startswith("CUDA_MPS")] == []
    assert {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"} <= set(found.dropped), "and that is told"


@pytest.mark.rule("ENV-27")
@pytest.mark.parametrize(
    ("set_", "merged"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "example.org, localhost"}, "example.org,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "a.org", "no_proxy": "b.org,a.org"}, "a.org,b.org,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_a_proxy_never_stands_between_a_test_and_its_own_server(set_: dict[str, str], merged: str) -> None:
    found = built(set_).variables
    assert (found["NO_PROXY"], found["no_proxy"]) == (merged, merged), "programs differ in which of the two they read"


@pytest.mark.rule("ENV-11", "ENV-27")
def test_a_proxy_of_the_shell_reaches_the_test_unchanged() -> None:
    proxies = {name: f"http://proxy:1/{name}" for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")}

    found = build(SHELL | proxies, {}, Path("/venv/bin/python"), (), ())

    assert {name: found.variables[name] for name in proxies} == proxies


@pytest.mark.rule("ENV-28")
def test_nothing_wraps_the_sockets_of_pytest() -> None:
    wrapper = {"LD_PRELOAD": "/usr/lib/libproxychains4.so", "PROXYCHAINS_CONF_FILE": "/etc/proxychains.conf"}
    for shell, settings in ((wrapper, {}), ({}, wrapper)):
        found = build(shell, settings, Path("/venv/bin/python"), (), ())
        assert not set(wrapper) & set(found.variables), "neither a shell nor a config wraps them"
        assert found.dropped == tuple(wrapper)
    assert build({}, {"LD_PRELOAD": "/usr/lib/jemalloc.so"}, BASE, (), ()).variables["LD_PRELOAD"]
    assert pytest_argv(job(), RUN)[0] == "python"


@pytest.mark.rule("ENV-10", "ENV-23")
def test_the_caches_of_the_slice_win_over_what_a_shell_exports() -> None:
    ours = {"TORCHINDUCTOR_CACHE_DIR": "/slice/.torchinductor", "HOME": "/github/home", "OMNI_CI_HOME": "/slice"}
    shell = SHELL | {"TORCHINDUCTOR_CACHE_DIR": "/.torchinductor", "OMNI_CI_HOME": "/stale", "XDG_CACHE_HOME": "/stale"}

    found = build(shell, ours, Path("/venv/bin/python"), (), ())

    assert {name: found.variables[name] for name in ours} == ours
    assert "XDG_CACHE_HOME" not in found.variables and "XDG_CACHE_HOME" in found.dropped


@pytest.mark.rule("MOD-07")
def test_what_config_sets_for_one_test_reaches_that_test_alone(tmp_path: Path) -> None:
    sources = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    config = {
        **toy.CONFIG,
        "auto_env": {"HF_HUB_DISABLE_XET": "1"},
        "extra_env": {"test_two_ci.py": {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}},
        "metric_sources": {"test_toy_ci.py": sources, "test_two_ci.py": sources},
        "gpus_per_test": {"test_toy_ci.py": 0, "test_two_ci.py": 0},
    }
    files = {"tests/test_two_ci.py": toy.toy_source()}
    project = toy.make_toy(tmp_path / "repo", config=config, files=files)
    seen: dict[str, tuple[str | None, str | None]] = {}

    def look(job: Job) -> AttemptResult:
        seen[job.test_key] = job.env.get("HF_HUB_DISABLE_XET"), job.env.get("PYTORCH_ALLOC_CONF")
        return toy.measured(job)

    toy.finished_run(project, 1, attempt=look)

    assert seen == {"test_toy_ci": ("1", None), "test_two_ci": ("1", "expandable_segments:True")}


def job(extra: tuple[str, ...] = (), plugins: tuple[str, ...] = ()) -> Job:
    stage = Stage(key="toy_speed", test="tests/test_toy_ci.py", group="speed", test_file_sha256="0" * 64, metrics={})
    return Job(
        run_dir="/repo/.tune-runs/20260423T050000Z_toy", repo_root="/repo", test=stage.test, test_key="test_toy_ci",
        repeat=2, attempt=1, stages=(stage,), tree=TREE, venv_python="/venv/bin/python", env={},
        pytest_extra_args=extra, plugins=plugins, timeout_s=60,
    )  # fmt: skip


TREE = Baseline(git_sha="0" * 40, changed={}, untracked={}, file_sha256={}, config_sha256={})
RUN = RunDir(Path("/tmp/tune-0123456789ab/run"))
BASE = RUN.attempt("test_toy_ci", 2, 1) / "basetemp_run2"


@pytest.mark.rule("XPY-01", "MET-01", "XPY-03")
@pytest.mark.parametrize("plugins", [(), ("xdist",), ("rerunfailures", "randomly", "xdist", "anyio")])
@pytest.mark.parametrize("extra", [(), ("--timeout=60", "-p", "no:warnings")])
def test_the_command_line_runs_the_whole_file_once_and_never_stops_early(
    extra: tuple[str, ...], plugins: tuple[str, ...]
) -> None:
    argv = pytest_argv(job(extra, plugins), RUN)

    assert argv[:6] == ["python", "-m", "pytest", "tests/test_toy_ci.py", "-v", "-s"]
    assert not {"-x", "--exitfirst"} & set(argv)
    assert f"--basetemp={BASE}" in argv
    assert argv.index("--maxfail=0") > argv.index("-s") + len(extra), "the last option wins"
    assert ("-n0" in argv, "--reruns=0" in argv, "no:randomly" in argv) == (
        "xdist" in plugins, "rerunfailures" in plugins, "randomly" in plugins
    )  # fmt: skip


def test_the_cache_of_an_attempt_is_its_own() -> None:
    argv = pytest_argv(job(), RUN)
    assert any(word.startswith("cache_dir=") and "attempts/run2_a1" in word for word in argv)


@pytest.mark.rule("GPU-17")
def test_a_probe_that_hides_no_gpu_takes_no_ones_choice_of_them() -> None:
    settings = {"CUDA_VISIBLE_DEVICES": "5"}

    found = build(SHELL, settings, Path("/venv/bin/python"), (Path("/repo"),), None)

    assert "CUDA_VISIBLE_DEVICES" not in found.variables
