"""The supervisor's loop: which attempt follows which, what is kept, when it stops. Attempts are scripted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy

from tune_mcp.contract.precheck import Check
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.precheck.gates import Precheck
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import RunState
from tune_mcp.supervise import loop
from tune_mcp.supervise.job import AttemptResult, Blocked, Job
from tune_mcp.supervise.retry import MAX_PASSES, MAX_TRIES
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

Attempt = Callable[[Job], AttemptResult | None]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


def crashed(job: Job) -> AttemptResult:
    """Killed before it wrote its results, each time somewhere else."""
    result = toy.measured(job)
    (job.run.basetemp(job.test_key, job.repeat) / "toy0" / "result.json").unlink()
    stages = {
        key: stage.model_copy(
            update={"metrics": dict.fromkeys(stage.metrics), "total": None, "ok": None, "problems": ("x",)}
        )
        for key, stage in result.stages.items()
    }
    guard = result.guard.model_copy(update={"finished": False, "at": f"look {job.attempt}"})
    return result.model_copy(update={"pytest_rc": -9, "stages": stages, "guard": guard})


def partial(ok: int) -> Attempt:
    return lambda job: toy.measured(job, summary={"evaluated": ok})


def script(*attempts: Attempt, then: Attempt = toy.measured) -> Attempt:
    """One after the other, then the last for ever."""
    queue: Iterator[Attempt] = iter(attempts)
    return lambda job: next(queue, then)(job)


def kinds(run: RunDir) -> list[str]:
    return [event.kind for event in events.read(run.events) if event.kind in events.MILESTONES]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as error:
        call()
    return str(error.value.code)


def observation(run: RunDir, repeat: int, stage: str = "toy_speed") -> dict[str, object]:
    return json.loads(run.observation(stage, repeat).read_text())


@pytest.mark.rule("RTY-07")
def test_five_repeats_are_measured_unless_somebody_says_otherwise(project: Project) -> None:
    with toy.supervised_here() as executor:
        reply = start_run(project, toy.MODEL)

    assert (reply.repeats, [job.repeat for job in executor.jobs]) == (5, [1, 2, 3, 4, 5])


@pytest.mark.rule("STR-16")
def test_a_healthy_run_launches_each_repeat_once(project: Project) -> None:
    with toy.supervised_here() as executor:
        run = toy.start(project, 3)

    assert [(job.repeat, job.attempt) for job in executor.jobs] == [(1, 1), (2, 1), (3, 1)]
    assert kinds(run) == ["planned", "prechecked", "started", *["launched", "observed"] * 3, "finished"]
    assert state.conclude(run).state is RunState.FINISHED
    assert not (run.path / "purged").exists()


def project_of_two_files(folder: Path) -> Project:
    names = ("test_a_ci.py", "test_b_ci.py")
    source = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    config = toy.CONFIG | {"metric_sources": dict.fromkeys(names, source), "gpus_per_test": dict.fromkeys(names, 0)}
    tests = {f"tests/{name}": toy.toy_source() for name in names}
    return toy.make_toy(folder, config=config, files=tests, test_source="# nothing\n")


@pytest.mark.rule("HLT-04", "HLT-05", "POL-06")
def test_after_a_halt_nothing_else_starts_and_what_halted_does_not_count_although_every_number_is_there(
    tmp_path: Path,
) -> None:
    project = project_of_two_files(tmp_path / "repo")

    def rerun(job: Job) -> AttemptResult:
        result = toy.measured(job)
        return result.model_copy(
            update={"guard": result.guard.model_copy(update={"repeated": (f"{job.test}::test_speed",)})}
        )

    with toy.supervised_here(script(toy.measured, then=rerun)) as executor:
        run = toy.start(project, 3, ["b_speed", "a_speed"])

    first = executor.jobs[0].test_key
    assert [(job.test_key, job.repeat) for job in executor.jobs] == [(first, 1), (first, 2)]
    now = status(project, run.run_id)
    assert "tests ran more than once" in now.reason
    assert {gap.reason for gap in now.missing if gap.repeat == 2 and gap.cell == "✗"} == {now.reason}
    assert "✗ the reason above" in now.text() and "status failed" not in now.text()
    (halted,) = [event for event in events.read(run.events) if event.kind == "halted"]
    assert halted.text == now.reason and str(halted.facts["next"]) in now.text()
    lines = strict_audit(project, run.run_id).text().splitlines()
    assert sorted(line.split()[1] for line in lines if "_speed: " in line) == ["———", "✓✗—"]

    fixed = PurgeItem(stage=executor.jobs[0].stages[0].key, repeat=2, reason="the rerun is gone")
    with toy.supervised_here() as executor:
        resume_run(project, run.run_id, [fixed])
    assert [(job.test_key, job.repeat) for job in executor.jobs][:2] == [(first, 2), (first, 3)]
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("STR-19")
def test_the_next_test_file_starts_when_the_one_before_is_whole(tmp_path: Path) -> None:
    project = project_of_two_files(tmp_path / "repo")
    order: list[tuple[str, int]] = []

    def attempt(job: Job) -> AttemptResult | None:
        order.append((job.test_key, job.repeat))
        return partial(3)(job) if len(order) == 2 else toy.measured(job)

    with toy.supervised_here(attempt):
        run = toy.start(project, 2, ["b_speed", "a_speed"])

    first, last = order[0][0], order[-1][0]
    assert {first, last} == {"test_a_ci", "test_b_ci"}
    assert order == [(first, 1), (first, 2), (first, 2), (last, 1), (last, 2)], (
        "no file starts before the other is whole"
    )
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("STR-19", "STR-20")
def test_a_repeat_that_stays_bad_keeps_the_next_test_file_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    project = project_of_two_files(tmp_path / "repo")

    with toy.supervised_here(lambda job: crashed(job) if job.repeat == 1 else toy.measured(job)) as executor:
        run = toy.start(project, 2, ["b_speed", "a_speed"])

    assert {job.test_key for job in executor.jobs} == {"test_a_ci"}
    assert status(project, run.run_id).state == "exhausted"
    assert strict_audit(project, run.run_id).strict_ready == "0/2"


@pytest.mark.rule("RTY-03", "XPY-05")
def test_a_crash_is_tried_again_and_every_log_and_verdict_is_kept(project: Project) -> None:
    with toy.supervised_here(script(crashed, crashed)) as executor:
        run = toy.start(project, 1)

    assert [(job.repeat, job.attempt) for job in executor.jobs] == [(1, 1), (1, 2), (1, 3)]
    found = observation(run, 1)
    assert found["attempts"] == 3
    assert [one["verdict"] for one in found["history"]] == ["retried", "retried", "kept"]
    attempts = run.path / "_pytest/test_toy_ci/attempts"
    assert all((attempts / f"run1_a{number}" / "run1.log").is_file() for number in (1, 2))
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("RTY-03", "RTY-01", "RES-08", "RTY-06", "STR-01", "GAP-06")
def test_four_tries_a_pass_then_the_next_pass_then_exhausted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_PASSES", 2)

    with toy.supervised_here(lambda job: crashed(job) if job.repeat == 1 else toy.measured(job)) as executor:
        run = toy.start(project, 2)

    assert [job.repeat for job in executor.jobs] == [1, 1, 1, 1, 2, 1, 1, 1, 1], "four tries, and repeat 2 only once"
    now = status(project, run.run_id)
    assert (now.state, now.terminal, now.strict_complete) == ("exhausted", False, False)
    assert {(gap.stage_key, gap.repeat, gap.cell) for gap in now.missing} == {(stage, 1, "✗") for stage in toy.STAGES}
    assert "test_toy_ci: repeats [1] are not strict after 2 passes of 4 tries" in now.reason
    assert refused(lambda: report(project, run.run_id)) == "NOT_STRICT"
    assert refused(lambda: apply_plan(project, run.run_id)) == "NOT_STRICT"


@pytest.mark.rule("RTY-01", "RTY-03")
def test_a_runner_that_dies_every_time_is_launched_four_times_and_resume_needs_no_change(project: Project) -> None:
    with toy.supervised_here(lambda _job: None) as executor:
        run = toy.start(project, 2)

    now = status(project, run.run_id)
    assert (now.state, len(executor.jobs)) == ("halted", MAX_TRIES)
    assert "4 launches in a row failed alike: the runner ended" in now.reason and "find who ends it" in now.text()
    with toy.supervised_here():
        resume_run(project, run.run_id)
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("RES-08", "RES-04", "RTY-06")
def test_an_exhausted_run_is_filled_by_resume(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    run = toy.finished_run(project, 2, lambda job: crashed(job) if job.repeat == 1 else toy.measured(job))
    before = run.observation("toy_speed", 2).read_bytes()

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert [job.repeat for job in executor.jobs] == [1], "only the gap is measured"
    assert run.observation("toy_speed", 2).read_bytes() == before
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("RTY-04", "XPY-02")
def test_a_failed_threshold_is_kept_and_never_tried_again(project: Project) -> None:
    def failing(job: Job) -> AttemptResult:
        result = toy.measured(job, speed={"latency_mean_s": 99.0})
        guard = result.guard.model_copy(update={"failed": (f"{job.test}::test_speed",)})
        return result.model_copy(update={"pytest_rc": 1, "guard": guard, "signature": "CUDA out of memory"})

    with toy.supervised_here(failing) as executor:
        run = toy.start(project, 2)

    assert len(executor.jobs) == 2
    assert observation(run, 1)["status"] == "ok"
    assert (
        observation(run, 1)["reason"]
        == "failed_assertion (1 test failed: tests/test_toy_ci.py::test_speed: AssertionError)"
    )
    assert strict_audit(project, run.run_id).ready
    report(project, run.run_id)
    rows = {row.metric_key: row.write_value for row in apply_plan(project, run.run_id).rows}
    assert rows["latency_mean_s"] == 99.0, "the worst counts, whoever likes it"


@pytest.mark.rule("SMP-11", "GAP-03", "GAP-07")
def test_missing_samples_are_measured_again_whole(project: Project) -> None:
    run = toy.finished_run(project, 1, script(partial(3)))

    assert observation(run, 1)["sample_counts"] == {"total": 4, "ok": 4}
    assert observation(run, 1)["attempts"] == 2
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("RTY-01", "RTY-02", "RES-05")
def test_a_repeat_that_stayed_partial_is_put_aside_with_the_reason_and_measured_again_in_the_next_pass(
    project: Project,
) -> None:
    assert (MAX_PASSES, MAX_TRIES) == (10, 4)
    with toy.supervised_here(script(partial(3), partial(2), partial(1), partial(0))) as executor:
        run = toy.start(project, 1)

    assert [(job.repeat, job.attempt) for job in executor.jobs] == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 1)]
    (folder,) = run.purged.iterdir()
    why = json.loads((folder / "purge.json").read_text())
    assert (why["who"], why["reason"]) == ("supervisor", "not strict before pass 2: 0/4 samples")
    assert json.loads((folder / "toy_speed.json").read_text())["sample_counts"] == {"total": 4, "ok": 0}
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("SMP-11", "STR-18")
def test_the_same_missing_samples_twice_halt(project: Project) -> None:
    with toy.supervised_here(partial(3)) as executor:
        run = toy.start(project, 2)

    now = status(project, run.run_id)
    assert (now.state, len(executor.jobs)) == ("halted", 2)
    assert "the same samples were missing twice" in now.reason
    assert "toy_speed: △— (0/2 strict, expected=4)" in strict_audit(project, run.run_id).text()


@pytest.mark.rule("SMP-06", "POL-05", "GAP-04")
@pytest.mark.parametrize("total", [0, 3, 5])
def test_a_wrong_sample_scope_halts_before_the_next_repeat(project: Project, total: int) -> None:
    wrong = {"total_samples": total, "evaluated": total}
    with toy.supervised_here(lambda job: toy.measured(job, summary=wrong)) as executor:
        run = toy.start(project, 2)

    now = status(project, run.run_id)
    assert (now.state, len(executor.jobs)) == ("halted", 1)
    assert f"wrong sample scope, {total}/{total} samples, 4 expected" in now.reason


@pytest.mark.rule("HLT-01", "HLT-03", "SES-18")
@pytest.mark.parametrize("forged", [False, True])
def test_a_halted_run_is_in_the_way_of_a_fresh_one_until_it_is_given_up(project: Project, forged: bool) -> None:
    halted = toy.finished_run(project, 2, partial(3))
    if forged:
        halted.supervisor.write_text(json.dumps({"state": "finished", "heartbeat_at": 0}))

    assert refused(lambda: start_run(project, toy.MODEL)) == "HALT_UNRESOLVED"
    assert [run.run_id for run in list_runs(project).runs] == [halted.run_id], "a refusal leaves nothing behind"

    answer = stop_run(project, halted.run_id, "the samples are broken upstream")
    assert answer.state == "stopped"
    assert strict_audit(project, toy.finished_run(project).run_id).ready


@pytest.mark.rule("SES-18", "HLT-03")
def test_a_halted_run_is_in_the_way_on_its_own_commit_alone_and_without_its_record_too(project: Project) -> None:
    halted = toy.finished_run(project, 2, partial(3))
    halted.supervisor.unlink()

    with pytest.raises(Refusal, match=rf"^HALT_UNRESOLVED \[HLT-03\]: {halted.run_id} halted .* missing twice"):
        start_run(project, toy.MODEL)

    toy.commit(project)
    assert strict_audit(project, toy.finished_run(project).run_id).ready


@pytest.mark.rule("HLT-03")
def test_a_halted_run_whose_plan_was_changed_is_in_the_way_until_it_is_moved(project: Project) -> None:
    halted = toy.finished_run(project, 2, partial(3))
    halted.plan.write_bytes(halted.plan.read_bytes().replace(b'"toy"', b'"tea"'))

    with pytest.raises(Refusal, match=rf"^HALT_UNRESOLVED \[HLT-03\]: .* move {halted.path} away"):
        start_run(project, toy.MODEL)

    halted.path.rename(project.repo_root.with_name("seen"))
    assert strict_audit(project, toy.finished_run(project).run_id).ready


@pytest.mark.rule("HLT-02", "POL-06")
@pytest.mark.parametrize("then", ["nothing", "given up", "record gone", "record forged"])
def test_what_halted_a_run_is_never_measured_again_as_it_was(project: Project, then: str) -> None:
    zero = {"total_samples": 0, "evaluated": 0}
    run = toy.finished_run(project, 2, script(toy.measured, then=lambda job: toy.measured(job, summary=zero)))
    match then:
        case "given up":
            assert "once its cause is fixed" in stop_run(project, run.run_id, "to get past the halt").next
        case "record gone":
            run.supervisor.unlink()
        case "record forged":
            run.supervisor.write_text(json.dumps({"state": "stopped", "heartbeat_at": 0}))
        case _:
            pass
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    with pytest.raises(Refusal, match=r"^HALT_UNRESOLVED \[HLT-02\]: .* test_toy_ci run 2, and neither .* 0/0 samples"):
        resume_run(project, run.run_id)

    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    other = PurgeItem(stage="toy_speed", repeat=2, reason="the data set is complete now")
    with toy.supervised_here():
        resume_run(project, run.run_id, [other])
    assert strict_audit(project, run.run_id).ready
    assert "the data set is complete now" in (next(run.purged.iterdir()) / "purge.json").read_text()


@pytest.mark.rule("HLT-02", "POL-06")
def test_a_halt_is_not_passed_by_with_the_purge_of_another_repeat(project: Project) -> None:
    zero = {"total_samples": 0, "evaluated": 0}
    run = toy.finished_run(project, 3, script(toy.measured, then=lambda job: toy.measured(job, summary=zero)))
    third = PurgeItem(stage="toy_speed", repeat=3, reason="fixed")

    assert refused(lambda: resume_run(project, run.run_id, [third])) == "HALT_UNRESOLVED"
    assert not run.purged.exists()


@pytest.mark.rule("HLT-02", "HLT-08", "GAP-02", "GAP-04")
def test_a_halted_run_goes_on_after_its_config_was_fixed(tmp_path: Path) -> None:
    config = json.loads(json.dumps(toy.CONFIG))
    paths = config["metric_sources"]["test_toy_ci.py"]["paths"]
    paths["latency_mean_s"] = "speed.latency"
    project = toy.make_toy(tmp_path / "repo", config=config)
    run = toy.finished_run(project)
    now = status(project, run.run_id)
    assert now.state == "halted" and "no 'latency' in speed (near: latency_mean_s)" in now.reason
    assert "no 'latency' in speed" in str(observation(run, 1)["reason"]), "and stays with the repeat"

    path = project.repo_root / ".tune/models/toy/config.yaml"
    path.write_text(json.dumps(toy.CONFIG))
    discover(project, toy.MODEL)
    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert status(project, run.run_id).state == "finished"
    assert strict_audit(project, run.run_id).ready
    assert [job.repeat for job in executor.jobs] == [2], "what was measured is read again, not launched again"
    assert not run.purged.exists()


@pytest.mark.rule("HLT-08", "STR-02")
def test_a_definition_is_never_changed_under_strict_repeats(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, script(toy.measured, then=partial(3)))
    assert status(project, run.run_id).state == "halted"
    before = run.plan.read_bytes()

    test = project.repo_root / toy.TEST_FILE
    test.write_text(test.read_text().replace("NUM_SAMPLES = 4", "NUM_SAMPLES = 3"))
    assert refused(lambda: resume_run(project, run.run_id)) == "STAGES_STALE"
    discover(project, toy.MODEL)
    assert refused(lambda: resume_run(project, run.run_id)) == "STAGES_CHANGED"

    assert run.plan.read_bytes() == before


@pytest.mark.rule("RES-02", "SES-07", "SES-18")
def test_a_run_is_not_resumed_on_another_commit(project: Project) -> None:
    run = toy.finished_run(project, 2, partial(3))
    old = project.plan(run).calibration_git_sha
    new = toy.commit(project)
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))

    with pytest.raises(Refusal, match=rf"COMMIT_MOVED \[RES-02\].*{old}.*{new}"):
        resume_run(project, run.run_id)

    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before, "refused before it writes"


@pytest.mark.rule("RES-06", "STR-20", "GAP-11")
def test_a_purge_names_a_repeat_and_a_reason_and_never_takes_a_strict_one(project: Project) -> None:
    run = toy.finished_run(project, 2)

    def purged(stage: str, repeat: int, reason: str = "cold cache") -> str:
        return refused(lambda: resume_run(project, run.run_id, [PurgeItem(stage=stage, repeat=repeat, reason=reason)]))

    assert purged("toy_speed", 1) == "REPEAT_IS_STRICT"
    assert purged("toy_speed", 3) == purged("toy_speed", 0) == purged("toy_speed", 1, " ") == "INVALID_ARGUMENT"
    assert purged("@speed", 1) == purged("nothing", 1) == "UNKNOWN_STAGE"
    assert not run.purged.exists() and strict_audit(project, run.run_id).ready


@pytest.mark.rule("GAP-05", "GAP-02", "GAP-11", "STR-22", "GAP-10")
def test_a_bad_stage_takes_its_whole_repeat_out_and_nothing_is_deleted(project: Project) -> None:
    run = toy.finished_run(project, 2)
    toy.rewrite_observation(run, "toy_speed", 2, lambda o: o["metrics"].update(latency_mean_s=None))
    sibling = run.observation("toy_accuracy", 2).read_bytes()

    with toy.supervised_here() as executor:
        item = PurgeItem(stage="toy_accuracy", repeat=2, reason="edited by hand")
        resume_run(project, run.run_id, [item], person="a person")

    assert [job.repeat for job in executor.jobs] == [2]
    (folder,) = run.purged.iterdir()
    assert {path.name for path in folder.iterdir()} == {"purge.json", "toy_accuracy.json", "toy_speed.json", "run2_a1"}
    assert {path.name for path in (folder / "run2_a1").iterdir()} >= {"run2.log", "basetemp_run2", "guard_run2.jsonl"}
    assert (folder / "toy_accuracy.json").read_bytes() == sibling
    why = json.loads((folder / "purge.json").read_text())
    assert (why["test"], why["repeat"], why["who"], why["reason"]) == ("test_toy_ci", 2, "a person", "edited by hand")
    assert strict_audit(project, run.run_id).ready
    report(project, run.run_id)
    assert "| a person | edited by hand |" in run.report_md.read_text()


@pytest.mark.rule("RES-04", "RES-05", "STR-25", "GAP-01", "GAP-03", "GAP-06")
@pytest.mark.parametrize("harm", ["missing", "partial", "foreign", "broken"])
def test_resume_measures_whatever_is_not_strict_without_being_told(project: Project, harm: str) -> None:
    run = toy.finished_run(project, 3)
    (run.attempt("test_toy_ci", 2, 1) / "result.json").unlink()  # or it would be read again from there
    path = run.observation("toy_speed", 2)
    match harm:
        case "missing":
            path.unlink()
        case "partial":
            toy.rewrite_observation(run, "toy_speed", 2, lambda o: o["sample_counts"].update(ok=3))
        case "foreign":
            toy.rewrite_observation(run, "toy_speed", 2, lambda o: o["metrics"].update(latency_mean_s=0.001))
        case _:
            path.write_text("[]")
    assert not strict_audit(project, run.run_id).ready

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert [job.repeat for job in executor.jobs] == [2]
    assert strict_audit(project, run.run_id).ready
    (folder,) = run.purged.iterdir()
    assert (folder / "toy_accuracy.json").is_file(), "the whole repeat leaves"
    assert "3/4 samples" in (folder / "purge.json").read_text() or harm != "partial"
    assert observation(run, 2)["metrics"] == {"throughput_qps": 10.25, "latency_mean_s": 0.25}


@pytest.mark.rule("SES-11")
def test_a_commit_that_moved_during_pytest_halts_and_leaves_no_tick(project: Project) -> None:
    run = toy.finished_run(
        project, 2, lambda job: toy.measured(job).model_copy(update={"moved": "HEAD is b, the run calibrates a"})
    )

    now = status(project, run.run_id)
    assert (now.state, "HEAD is b" in now.reason) == ("halted", True)
    assert state.conclude(run).record.halt.code == "COMMIT_MOVED"
    assert "✓" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("PRE-01", "PRE-08")
@pytest.mark.parametrize("outcome", ["missing", "mismatch", "busy", "unknown"])
def test_a_gap_found_by_the_precheck_ends_the_run_before_its_first_pytest(project: Project, outcome: str) -> None:
    def not_ready(run: RunDir, plan: Plan) -> Precheck:
        gap = Check(id="gpu.free", status=outcome, detail="all busy", fix="nvidia-smi")
        return toy.ready(run, plan).model_copy(update={"checks": (gap,)})

    with toy.supervised_here(precheck=not_ready) as executor:
        run = toy.start(project)

    now = status(project, run.run_id)
    assert (now.state, now.terminal, executor.jobs) == ("failed", True, [])
    assert f"PRECHECK_FAILED: gpu.free {outcome}: all busy" in now.reason
    assert json.loads(run.precheck.read_text())["checks"][0]["fix"] == "nvidia-smi"

    with toy.supervised_here():
        resume_run(project, run.run_id)
    assert status(project, run.run_id).state == "finished"


@pytest.mark.rule("SES-05")
def test_the_precheck_is_the_runs_own_and_one_of_another_run_does_not_stand_in_for_it(project: Project) -> None:
    def not_ready(run: RunDir, plan: Plan) -> Precheck:
        return toy.ready(run, plan).model_copy(update={"checks": (Check(id="gpu.free", status="busy", detail="x"),)})

    green = toy.finished_run(project, 1)
    with toy.supervised_here(precheck=not_ready) as executor:
        run = toy.start(project, 1)
        assert run.precheck.read_bytes() != green.precheck.read_bytes()
        run.precheck.write_bytes(green.precheck.read_bytes())
        resume_run(project, run.run_id)

    assert (status(project, run.run_id).state, executor.jobs) == ("failed", [])
    assert json.loads(run.precheck.read_text())["checks"][0]["status"] == "busy"
    assert not (run.path.parent / "precheck.json").exists()


def test_a_bug_in_the_supervisor_is_a_failed_run_and_not_a_silent_one(project: Project) -> None:
    def buggy(_: Job) -> AttemptResult:
        raise ZeroDivisionError("a bug")

    run = toy.finished_run(project, 1, buggy)

    now = status(project, run.run_id)
    assert (now.state, "ZeroDivisionError" in now.reason) == ("failed", True)
    assert "Traceback" in run.supervisor_log.read_text()


def test_a_supervisor_that_cannot_be_started_leaves_a_failed_run_and_free_locks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_start(*_: object) -> int:
        raise OSError("no more processes")

    with monkeypatch.context() as patch:
        patch.setattr("tune_mcp.supervise.launcher.start", no_start)
        with pytest.raises(OSError, match="no more processes"):
            start_run(project, toy.MODEL)
    (entry,) = list_runs(project).runs
    assert entry.state == "failed"

    with toy.supervised_here():
        resume_run(project, entry.run_id)
    assert status(project, entry.run_id).strict_complete


@pytest.mark.rule("RTY-07", "STG-01")
@pytest.mark.parametrize("repeats", [0, -1, 101])
def test_an_impossible_number_of_repeats_is_refused_and_leaves_nothing(project: Project, repeats: int) -> None:
    assert refused(lambda: start_run(project, toy.MODEL, repeats=repeats)) == "INVALID_ARGUMENT"
    assert not (project.repo_root / ".tune-runs").exists()


@pytest.mark.rule("SCP-04", "STG-01")
@pytest.mark.parametrize(
    "stages",
    [[], [","], [""], ["nothing"], ["tests/test_toy_ci.py"], ["@nothing"], ["toy_speed", "tests/test_other.py"]],
)
def test_an_unknown_stage_is_refused_and_leaves_nothing(project: Project, stages: list[str]) -> None:
    assert refused(lambda: start_run(project, toy.MODEL, stages)) in ("UNKNOWN_STAGE", "INVALID_ARGUMENT")
    assert not (project.repo_root / ".tune-runs").exists()


@pytest.mark.rule("SES-02")
@pytest.mark.parametrize("label", ["../x", "a/b", " ", "x" * 61])
def test_a_bad_label_is_refused_and_the_host_is_free_again(project: Project, label: str) -> None:
    assert refused(lambda: start_run(project, toy.MODEL, label=label)) == "INVALID_ARGUMENT"
    assert toy.finished_run(project, 1).plan.exists()


@pytest.mark.rule("SES-01", "SES-14")
def test_each_start_makes_a_new_directory(project: Project) -> None:
    first, second = toy.finished_run(project, 1), toy.finished_run(project, 1)

    assert first.path != second.path
    assert all(strict_audit(project, run.run_id).ready for run in (first, second))


@pytest.mark.rule("DSC-02", "SMP-08")
def test_a_run_is_refused_while_the_catalogue_is_older_than_the_test(project: Project) -> None:
    test = project.repo_root / toy.TEST_FILE
    test.write_text(test.read_text() + "\n# changed\n")

    assert refused(lambda: start_run(project, toy.MODEL)) == "STAGES_STALE"
    discover(project, toy.MODEL)
    assert project.plan(toy.finished_run(project, 1)).dirty


@pytest.mark.rule("SES-03")
def test_a_run_in_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    toy.git(project.repo_root, "update-ref", "-d", "HEAD")

    assert refused(lambda: start_run(project, toy.MODEL)) == "NO_HEAD"


def blocked(job: Job) -> AttemptResult:
    why = Blocked(code="GPU_NOT_CLEAR", rule="GPU-02", reason="1 GPU needed, 0 free", next="free GPU 0")
    return AttemptResult(key=job.key, started_at="", ended_at="", blocked=why)


@pytest.mark.rule("GPU-06", "RTY-03", "GPU-02")
def test_a_machine_without_a_free_gpu_is_asked_four_times_and_then_the_run_halts(project: Project) -> None:
    with toy.supervised_here(script(toy.measured, then=blocked)) as executor:
        run = toy.start(project, 3)

    assert [job.repeat for job in executor.jobs] == [1, 2, 2, 2, 2], "and repeat 3 is not even tried"
    now = status(project, run.run_id)
    assert (now.state, now.terminal, now.reason) == ("halted", False, "1 GPU needed, 0 free")
    assert now.next.startswith("free GPU 0")
    assert {one["verdict"] for one in observation(run, 2)["history"]} == {"not started", "halted"}
    with toy.supervised_here():
        resume_run(project, run.run_id)
    assert strict_audit(project, run.run_id).ready, "nothing was lost"


@pytest.mark.rule("GPU-06", "RTY-03")
def test_a_launch_that_the_gpu_gate_refused_uses_up_no_try(project: Project) -> None:
    with toy.supervised_here(script(crashed, crashed, blocked, crashed, blocked)) as executor:
        run = toy.start(project, 1)

    assert len(executor.jobs) == 6, "the fourth try is the one that counts"
    assert strict_audit(project, run.run_id).ready
