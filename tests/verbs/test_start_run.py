"""Starting, resuming and stopping: what is refused, what a refusal leaves behind, what is kept."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.status import MAX_WAIT_S
from tune_mcp.errors import Refusal
from tune_mcp.files import FileLock
from tune_mcp.precheck import gates
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import host_lock, leftovers, loop
from tune_mcp.verbs import machine, tail_pytest
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import STOP_WAIT_S, stop_run
from tune_mcp.verbs.strict_audit import strict_audit


def second_fails(job: Any) -> Any:
    return None if job.repeat == 2 else toy.measured(job)


def runs(project: Project) -> list[str]:
    folder = project.repo_root / ".tune-runs"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


@pytest.mark.rule("SES-01", "SES-02", "SES-14")
def test_every_start_makes_a_new_directory_even_within_one_second(project: Project) -> None:
    names = [toy.finished_run(project).run_id for _ in range(3)]

    assert len(set(names)) == 3 and runs(project) == sorted(names)
    assert [entry.run_id for entry in list_runs(project).runs] == sorted(names, reverse=True)


@pytest.mark.rule("ASK-10", "SES-03")
def test_the_answer_to_a_start_is_the_plan_line_and_two_commands(project: Project) -> None:
    with toy.supervised_here():
        reply = start_run(project, "toy", ["@speed"], 3)

    lines = reply.text().splitlines()
    head = toy.git(project.repo_root, "rev-parse", "HEAD")
    assert lines[0] == f"Running toy: toy_speed, 3 repeats on commit {head}, run-dir {reply.run_dir}"
    assert f"tune-mcp tail {reply.run_id} --repo {project.repo_root}" in reply.text()
    assert f"tune-mcp watch {reply.run_id} --repo {project.repo_root}" in reply.text()
    assert (reply.commit, reply.stages, reply.repeats, reply.dirty) == (head, ("toy_speed",), 3, False)


def test_a_dirty_tree_is_recorded_and_told(project: Project) -> None:
    (project.repo_root / "notes.txt").write_text("untracked")
    (project.repo_root / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n.tune-runs/\n*.log\n")

    run = toy.finished_run(project)

    assert project.plan(run).dirty and run.workspace_diff.is_file()
    assert any("dirty" in alert for alert in status(project, run.run_id).alerts)


@pytest.mark.rule("DSC-02", "SMP-08", "PRE-01", "SES-02")
def test_a_refused_start_leaves_nothing_behind(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def code(**more: Any) -> str:
        with pytest.raises(Refusal) as caught:
            start_run(project, **{"model": "toy", **more})
        assert runs(project) == []
        assert host_lock.current() is None
        return str(caught.value.code)

    config = project.repo_root / ".tune/models/toy/config.yaml"
    assert code(model="nope") == "UNKNOWN_MODEL"
    assert code(stages=["nope"]) == "UNKNOWN_STAGE"
    assert code(repeats=0) == "INVALID_ARGUMENT"
    assert code(label="a/b") == code(label="") == "INVALID_ARGUMENT"
    text = config.read_text()
    config.write_text(json.dumps({**toy.CONFIG, "default_venv_python": ["/nowhere/python"]}))
    assert code() == "PRECHECK_FAILED"
    config.write_text("{")
    assert code() == "INVALID_CONFIG"
    config.write_text(json.dumps({**toy.CONFIG, "surprise": 1}))
    assert code() == "INVALID_CONFIG"
    config.write_text(text)
    path = project.repo_root / toy.TEST_FILE
    path.write_text(path.read_text().replace("NUM_SAMPLES = 4", "NUM_SAMPLES = 8"))
    assert code() == "STAGES_STALE"
    assert catalog(project, "toy").stages[0].stale
    discover(project, "toy")
    with toy.supervised_here():
        assert start_run(project, "toy", repeats=1).dirty


@pytest.mark.rule("HLT-07")
def test_a_metric_that_nobody_can_find_is_named_before_anything_is_made(tmp_path: Path) -> None:
    config = json.loads(json.dumps(toy.CONFIG))
    del config["metric_sources"]["test_toy_ci.py"]["paths"]["latency_mean_s"]
    source = toy.toy_source().replace('    assert results["speed"]["latency_mean_s"] <= ', "    assert ")
    project = toy.make_toy(tmp_path / "repo", config=config, test_source=source)

    with pytest.raises(Refusal, match=r"^NEEDS_CONFIG \[HLT-07\]: .*toy_speed.*latency_mean_s"):
        start_run(project, "toy")
    assert runs(project) == [] and host_lock.current() is None
    with toy.supervised_here():
        assert start_run(project, "toy", ["toy_accuracy"], 1).stages == ("toy_accuracy",)


@pytest.mark.rule("DSC-01", "MOD-02", "SMP-01", "SMP-08")
@pytest.mark.parametrize(
    ("place", "old", "new", "told"),
    [
        ("stages", "worst: max", "worst: min", "toy_speed: metrics"),
        ("stages", "json_path: summary.accuracy", "json_path: summary.evaluated", "toy_accuracy: metrics"),
        ("stages", "source: TOY_ACC_MIN", "source: CONCURRENCY", "toy_accuracy: metrics"),
        ("stages", "expected_samples: 4", "expected_samples: null", "toy_accuracy: expected_samples"),
        ("stages", "group: accuracy", "group: wer", "toy_accuracy: group"),
        ("stages", "toy_speed:", "toy_pace:", "toy_pace: no such stage"),
        ("config", '"summary.accuracy"', '"summary.evaluated"', "toy_accuracy: metrics"),
    ],
)
def test_a_table_that_discover_would_not_write_starts_nothing(
    project: Project, place: str, old: str, new: str, told: str
) -> None:
    path = project.repo_root / f".tune/models/toy/{place}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))

    with pytest.raises(Refusal, match=rf"^STAGES_STALE \[DSC-01\].*differs from what discover finds: {told}") as caught:
        start_run(project, "toy")
    fresh = next(check for check in precheck(project, "toy").checks if check.id == "stages.fresh")

    assert runs(project) == [] and "call discover" in caught.value.next
    assert (fresh.status, told in fresh.detail) == ("mismatch", True)
    discover(project, "toy")
    with toy.supervised_here():
        assert start_run(project, "toy", repeats=1).stages == ("toy_accuracy", "toy_speed")


@pytest.mark.rule("DSC-01", "HLT-07")
def test_what_discover_cannot_know_is_the_table_s_own(project: Project) -> None:
    path = project.repo_root / ".tune/models/toy/stages.yaml"
    config = json.loads(json.dumps(toy.CONFIG))
    del config["metric_sources"]["test_toy_ci.py"]["paths"]["accuracy"]
    (project.repo_root / ".tune/models/toy/config.yaml").write_text(json.dumps(config))
    whole = path.read_text()
    path.write_text(whole.replace("title: ", "title: our own ").replace("status: OK", "status: NEEDS_CONFIG", 1))
    with pytest.raises(Refusal, match=r"^NEEDS_CONFIG "):
        start_run(project, "toy")

    path.write_text(whole.replace("title: ", "title: our own "))
    with toy.supervised_here():
        assert start_run(project, "toy", repeats=1).repeats == 1


@pytest.mark.rule("STG-01", "TTS-02", "SMP-08")
def test_a_table_that_leaves_a_stage_out_is_refused_where_its_file_or_all_is_selected(project: Project) -> None:
    path = project.repo_root / ".tune/models/toy/stages.yaml"
    accuracy, speed, rest = path.read_text().partition("toy_speed:\n")
    path.write_text(accuracy)
    assert speed and rest

    for stages in (["ALL"], ["toy_accuracy"]):
        with pytest.raises(Refusal, match=r"^STAGES_STALE .*toy_speed: left out"):
            start_run(project, "toy", stages)

    discover(project, "toy")
    (project.repo_root / "tests/test_other_ci.py").write_text("OTHER_ACC_MIN = 0.5\n")
    with pytest.raises(Refusal, match=r"^STAGES_STALE .*other_accuracy: left out"):
        start_run(project, "toy")
    with toy.supervised_here():
        assert start_run(project, "toy", ["@speed"], 1).stages == ("toy_speed",)


@pytest.mark.rule("DSC-01", "MOD-02")
def test_tests_that_discover_cannot_read_are_one_gap_among_others_and_start_nothing(project: Project) -> None:
    (project.repo_root / "tests/test_other_ci.py").write_text("def (\n")

    fresh = next(check for check in precheck(project, "toy").checks if check.id == "stages.fresh")
    with pytest.raises(Refusal, match=r"^INVALID_CONFIG .*tests/test_other_ci.py does not parse"):
        start_run(project, "toy")

    assert fresh.status == "mismatch" and "tests/test_other_ci.py does not parse" in fresh.detail
    assert runs(project) == []


@pytest.mark.rule("SES-03")
def test_a_repository_without_a_commit_cannot_be_calibrated(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    toy.git(project.repo_root, "update-ref", "-d", "HEAD")

    with pytest.raises(Refusal, match=r"^NO_HEAD"):
        start_run(project, "toy")
    assert runs(project) == []


@pytest.mark.rule("GPU-14", "STR-18")
def test_a_busy_host_is_named_with_the_run_that_holds_it(project: Project, tmp_path: Path) -> None:
    other = toy.make_toy(tmp_path / "other")
    held = host_lock.take(host_lock.LockHolder("20260423T050000Z_x", "/d", str(other.repo_root)))
    assert not isinstance(held, host_lock.LockHolder)
    try:
        with pytest.raises(Refusal, match=r"^HOST_BUSY .*20260423T050000Z_x") as caught:
            start_run(project, "toy")
        assert caught.value.details["repo_root"] == str(other.repo_root)
        checks = {check.id: check for check in precheck(project, "toy").checks}
        assert checks["host.free"].status == "busy" and "tune-mcp status" in checks["host.free"].fix
        assert checks["venv.imports"].fix.startswith("when it has ended: tune-mcp precheck toy --repo ")
    finally:
        held.release()
    assert runs(project) == []


@pytest.mark.rule("RES-01", "RES-06", "RES-04")
def test_a_resume_measures_only_what_is_not_strict(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)  # else the run halts at the fourth, before repeat 3
    run = toy.finished_run(project, 3, second_fails)
    assert status(project, run.run_id).state == "exhausted"
    kept = {k: run.observation("toy_speed", k).read_bytes() for k in (1, 3)}

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert {job.repeat for job in executor.jobs} == {2}
    assert {k: run.observation("toy_speed", k).read_bytes() for k in (1, 3)} == kept
    now = status(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True)


@pytest.mark.rule("RES-02", "SES-18", "SES-13", "GPU-14", "SES-04")
def test_a_resume_on_another_commit_of_an_edited_plan_or_of_an_active_run_is_refused(project: Project) -> None:
    run = toy.finished_run(project, 3, second_fails)
    evidence = {path: path.read_bytes() for path in run.path.rglob("*.json")}
    head = toy.git(project.repo_root, "rev-parse", "HEAD")

    def code() -> str:
        with pytest.raises(Refusal) as caught:
            resume_run(project, run.run_id)
        return str(caught.value.code)

    toy.commit(project)
    assert code() == "COMMIT_MOVED"
    toy.git(project.repo_root, "reset", "-q", "--hard", head)
    plan = run.plan.read_bytes()
    run.plan.write_bytes(plan + b" ")
    assert code() == "PLAN_TAMPERED"
    run.plan.write_bytes(plan)
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock
    record = run.supervisor.read_bytes()
    run.supervisor.write_text(json.dumps({**json.loads(record), "state": "running"}))
    assert code() == "RUN_ACTIVE"
    run.supervisor.write_bytes(record)
    lock.release()
    assert {path: path.read_bytes() for path in run.path.rglob("*.json")} == evidence


@pytest.mark.rule("GAP-11", "RES-06", "STR-20", "STG-01")
def test_purge_takes_the_whole_repeat_aside_and_never_a_strict_one(project: Project) -> None:
    run = toy.finished_run(project, 3, lambda job: toy.measured(job, summary={"evaluated": 3}) if job.repeat == 2 else
                           toy.measured(job))  # fmt: skip
    old = run.observation("toy_speed", 2).read_bytes()

    def code(stage: str, repeat: int, reason: str = "noisy") -> str:
        with pytest.raises(Refusal) as caught:
            resume_run(project, run.run_id, [PurgeItem(stage=stage, repeat=repeat, reason=reason)])
        return str(caught.value.code)

    assert code("toy_speed", 1) == "REPEAT_IS_STRICT"
    assert code("nope", 2) == "UNKNOWN_STAGE"
    assert code("ALL", 2) == "UNKNOWN_STAGE"
    assert code("toy_speed", 0) == code("toy_speed", 4) == code("toy_speed", 2, " ") == "INVALID_ARGUMENT"
    assert not run.purged.exists() or not any(run.purged.iterdir())

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id, [PurgeItem(stage="toy_speed", repeat=2, reason="noisy")])

    again = {job.repeat for job in executor.jobs}
    assert 2 in again and 1 not in again
    assert old in [path.read_bytes() for path in run.purged.rglob("*.json")]
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("HLT-03", "SES-18", "GPU-20")
def test_an_exhausted_run_can_be_given_up(project: Project) -> None:
    run = toy.finished_run(project, 2, second_fails)

    stopped = stop_run(project, run.run_id, "good enough")

    assert (stopped.state, stopped.strict_ready) == ("stopped", "0/2")
    assert stopped.kept_cells == 2
    now = status(project, run.run_id)
    assert now.terminal and "given up: good enough" in now.reason
    assert stop_run(project, run.run_id, "again").state == "stopped"


@pytest.mark.rule("POL-11")
def test_no_wait_of_a_tool_is_longer_than_its_answer_may_take(project: Project, run: RunDir) -> None:
    grace = leftovers.GRACE
    ends_leftovers = grace.interrupt_s + grace.terminate_s + grace.kill_s
    waits = (MAX_WAIT_S, STOP_WAIT_S, gates.DEADLINE_S, tail_pytest.DEADLINE_S, ends_leftovers)

    assert max(waits) <= 50
    for wait_s in (50.5, 120, 1e9, float("inf"), float("nan"), -1):
        with pytest.raises(Refusal, match=r"^(WAIT_TOO_LONG|INVALID_ARGUMENT) \[POL-02\]"):
            status(project, run.run_id, wait_s)


@pytest.mark.rule("POL-02")
def test_status_returns_at_once_when_nothing_can_change_and_waits_only_for_an_active_run(
    project: Project, run: RunDir
) -> None:
    def never(_: float) -> None:
        raise AssertionError("a run at rest is not waited for")

    now = status(project, run.run_id, 50, sleep=never)
    assert not now.timed_out and now.terminal

    ended = run.supervisor.read_text()
    at_work = json.dumps({**json.loads(ended), "state": "running"})
    run.supervisor.write_text(at_work)
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock
    looks: list[float] = []

    def ends(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            run.supervisor.write_text(ended)
            assert lock
            lock.release()

    now = status(project, run.run_id, 50, sleep=ends)
    assert (now.timed_out, now.terminal, len(looks)) == (False, True, 3)
    run.supervisor.write_text(at_work)
    lock = FileLock.take(run.supervisor_lock, {})
    assert lock
    gone: list[bool] = []
    known = status(project, run.run_id).mark
    now = status(project, run.run_id, 50, known=known, sleep=lambda _: gone.append(True), cancelled=lambda: bool(gone))
    assert now.timed_out
    said = now.text().splitlines()
    assert said[0].startswith("STRICT 2/2 stages · 4/4 cells ✓ · 2/2 repeats whole · unchanged · running")
    assert [line[:5] for line in said[1:]] == ["Next:"]
    lock.release()
    assert status(project, run.run_id).state == "lost"


def test_the_repository_comes_from_option_environment_or_the_place_where_one_stands(
    project: Project, tmp_path: Path
) -> None:
    root, elsewhere = project.repo_root, tmp_path / "elsewhere"
    elsewhere.mkdir()
    toy.git(elsewhere, "init", "-q")
    env = {"TUNE_REPO_ROOT": str(root)}
    assert Project.resolve(Options(repo=elsewhere), env, root).repo_root == elsewhere
    assert Project.resolve(Options(), env, elsewhere).repo_root == root
    assert Project.resolve(Options(), {}, root / "tests").repo_root == root
    for options, cwd in ((Options(), Path("/")), (Options(repo=tmp_path / "nowhere"), root)):
        with pytest.raises(Refusal, match=r"^OUTSIDE_REPO"):
            Project.resolve(options, {}, cwd)


def test_the_interpreter_comes_from_option_environment_or_the_model(project: Project) -> None:
    model = project.places.model("toy")
    exists, missing = "/bin/sh", "/nowhere/python"

    def found(option: str | None, variable: str | None) -> tuple[str | None, str]:
        env = {"TUNE_VENV_PYTHON": variable} if variable else {}
        one = Project.resolve(Options(repo=project.repo_root, venv_python=option), env).interpreter(model)
        return (str(one.path) if one.path else None), one.source

    assert found(exists, missing) == (exists, "--venv-python")
    assert found(missing, exists) == (None, "--venv-python"), "what was named is never replaced by something else"
    assert found(None, exists) == (exists, "TUNE_VENV_PYTHON")
    assert found(None, None)[1] == "default_venv_python"


@pytest.mark.rule("GPU-14", "STR-18")
def test_a_start_waits_for_a_supervisor_that_has_written_its_end_and_is_about_to_go(project: Project) -> None:
    run = toy.finished_run(project, 1)
    holder = host_lock.LockHolder(run.run_id, str(run.path), str(project.repo_root))
    lock = host_lock.take(holder)
    assert isinstance(lock, host_lock.HostClaim)
    lock.describe(holder)
    waits: list[float] = []

    machine.take_host(project, lambda seconds: waits.append(seconds) or lock.release()).release()

    assert len(waits) == 1


@pytest.mark.rule("GPU-14")
def test_a_refusal_waits_until_the_holder_has_named_itself(project: Project) -> None:
    lock = FileLock.take(host_lock.lock_path(), {})
    assert lock is not None

    def name_itself(_: float) -> None:
        host_lock.HostClaim(lock).describe(host_lock.LockHolder("?", "?", str(project.repo_root)))

    with pytest.raises(Refusal, match="RUN_ACTIVE"):
        machine.take_host(project, name_itself)
    lock.release()


@pytest.mark.rule("RES-03", "SES-13")
def test_a_resume_takes_model_stages_and_repeats_from_the_plan_and_has_no_argument_for_them(project: Project) -> None:
    with toy.supervised_here(second_fails):
        run = project.run(start_run(project, "toy", ["@speed"], 3).run_id)

    with toy.supervised_here() as executor:
        reply = resume_run(project, run.run_id)

    assert (reply.model, reply.stages, reply.repeats) == ("toy", ("toy_speed",), 3)
    assert {stage.key for job in executor.jobs for stage in job.stages} == {"toy_speed"}
    assert list(inspect.signature(resume_run).parameters) == ["project", "run_id", "purge", "person"]


@pytest.mark.rule("GPU-14")
def test_a_start_that_meets_one_whose_directory_has_no_plan_yet_is_refused_like_any_other(project: Project) -> None:
    young = project.repo_root / ".tune-runs" / "20260423T050000Z_young"
    young.mkdir(parents=True)
    lock = host_lock.take(host_lock.LockHolder(young.name, str(young), str(project.repo_root)))
    assert isinstance(lock, host_lock.HostClaim)

    with pytest.raises(Refusal, match=rf"RUN_ACTIVE \[GPU-14\]: {young.name} of "):
        machine.take_host(project, lambda _: None)

    lock.release()
