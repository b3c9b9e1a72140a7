"""Sealed evidence is read again after a fix of config: what is whole counts, and nothing is launched for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.contract.start_run import RunReply
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events
from tune_mcp.supervise import loop
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import replacing, resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")

SLOW = {"speed": {"throughput_qps": 2.5, "latency_mean_s": 7.5}}
"""Worse than every value that the toy measures by itself."""


def config(**source: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(toy.CONFIG))
    for key, value in source.items():
        entry = found["metric_sources"]["test_toy_ci.py"]
        entry[key] = entry[key] | value if isinstance(value, Mapping) else value
    return found


WRONG: dict[str, dict[str, Any]] = {
    "a path": {"paths": {"latency_mean_s": "speed.latency"}},
    "a whole part": {"paths": {"accuracy": "results.accuracy"}},
    "the file": {"json_file": "toy0/results.json"},
    "the counts": {"sample_counts": {"total": "summary.samples", "ok": "summary.good"}},
    "a text": {"paths": {"accuracy": "note"}},
}


def fix(project: Project, to: Mapping[str, Any] = toy.CONFIG) -> None:
    (project.repo_root / ".tune/models/toy/config.yaml").write_text(json.dumps(to))
    discover(project, toy.MODEL)


def halted(tmp_path: Path, wrong: Mapping[str, Any], attempt: Callable[[Job], AttemptResult | None]) -> RunDir:
    project = toy.make_toy(tmp_path / "repo", config=config(**wrong))
    run = toy.finished_run(project, 3, attempt)
    assert status(project, run.run_id).state == "halted", toy.told(run)
    return run


def project_of(run: RunDir) -> Project:
    return toy.open_project(run.repo_root)


def resumed(run: RunDir, *purge: PurgeItem, attempt: Any = toy.measured) -> tuple[RunReply, list[tuple[int, int]]]:
    """The reply, and (repeat, attempt) of every launch."""
    with toy.supervised_here(attempt) as executor:
        reply = resume_run(project_of(run), run.run_id, purge)
    return reply, [(job.repeat, job.attempt) for job in executor.jobs]


def values(run: RunDir, metric: str = "latency_mean_s", stage: str = "toy_speed") -> list[float]:
    return [json.loads(path.read_text())["metrics"][metric] for path in sorted((run.path / stage).glob("run*.json"))]


def slow_first(job: Job) -> AttemptResult:
    return toy.measured(job, **(SLOW if (job.repeat, job.attempt) == (1, 1) else {}))


@pytest.mark.rule("HLT-02", "HLT-08", "RES-04", "STR-16")
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_after_a_fix_of_config_the_halted_repeat_counts_as_it_was_measured(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    run = halted(tmp_path, wrong, slow_first)
    fix(project_of(run))

    reply, launched = resumed(run)

    assert launched == [(2, 1), (3, 1)]
    assert (reply.kept, reply.read_again, reply.measured_again) == ({}, {"test_toy_ci": [1]}, {"test_toy_ci": [2, 3]})
    assert "read again from sealed files, not launched: test_toy_ci 1" in reply.text()
    assert "to be measured: test_toy_ci 2-3" in reply.text()
    assert strict_audit(project_of(run), run.run_id).ready
    assert values(run) == [7.5, 0.25, 0.1875]
    report(project_of(run), run.run_id)
    rows = {row.metric_key: row.worst_raw for row in apply_plan(project_of(run), run.run_id).rows}
    assert (rows["latency_mean_s"], rows["throughput_qps"]) == (7.5, 2.5), "no value is tighter than what was seen"


@pytest.mark.rule("HLT-02", "RES-04")
@pytest.mark.usefixtures("warm")
def test_with_a_real_pytest_and_a_detached_supervisor_nothing_is_launched_for_it(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", config=config(json_file="toy0/other.json"))
    toy.steer(project, 1, **SLOW)
    run = toy.start(project, 2)
    assert toy.wait_until_rest(project, run.run_id).state == "halted"
    toy.steer(project, 1, speed={"latency_mean_s": 0.01})
    fix(project)

    reply = resume_run(project, run.run_id)
    now = toy.wait_until_rest(project, run.run_id)

    assert now.strict_complete, toy.told(run)
    assert reply.read_again == {"test_toy_ci": [1]}
    assert (len(toy.launches(project, 1)), len(toy.launches(project, 2))) == (1, 1)
    assert values(run)[0] == 7.5


@pytest.mark.rule("RES-04", "GAP-05", "RTY-06")
@pytest.mark.parametrize("passes", [1, 2], ids=["in the live set", "in purged"])
def test_of_several_attempts_the_first_complete_one_counts_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 2)
    monkeypatch.setattr(loop, "MAX_PASSES", passes)
    made: list[Job] = []

    def attempt(job: Job) -> AttemptResult:
        made.append(job)
        number = len(made)
        # Under the wrong key 1, 2, 3 ... of 4 were good; in truth only the first attempt missed one.
        summary = {"good": number % 4, "evaluated": 3 if number == 1 else 4}
        return toy.measured(job, summary=summary, speed={"latency_mean_s": 8.0 - number})

    project = toy.make_toy(tmp_path / "repo", config=config(sample_counts={"ok": "summary.good"}))
    run = toy.finished_run(project, 1, attempt)
    assert status(project, run.run_id).state == "exhausted", toy.told(run)
    assert len(made) == 2 * passes and run.purged.exists() is (passes == 2)
    fix(project)

    reply, launched = resumed(run)

    assert (launched, reply.read_again) == ([], {"test_toy_ci": [1]})
    assert values(run) == [6.0], "the second attempt was the first complete one"
    assert strict_audit(project, run.run_id).ready
    assert report(project, run.run_id)
    assert (run.path / json.loads(run.observation("toy_speed", 1).read_text())["pytest_log"]).is_file()


@pytest.mark.rule("STR-14", "SES-10", "GAP-10")
@pytest.mark.parametrize(
    "lose",
    [
        lambda path, _: path.unlink(),
        lambda path, _: path.write_bytes(path.read_bytes() + b" "),
        lambda path, _: path.write_text("{}"),
        lambda _, run: [events.append(run, "withdrawn", utc_now(), "x", stage=key, repeat=1) for key in toy.STAGES],
        lambda path, run: (path.unlink(), events.append(run, "withdrawn", utc_now(), "x", stage="toy_speed", repeat=1)),
    ],
    ids=["deleted", "a blank appended", "emptied", "withdrawn lines", "deleted and withdrawn"],
)
def test_an_artifact_that_was_lost_is_written_once_more_from_the_sealed_attempt(
    tmp_path: Path, lose: Callable[[Path, RunDir], object]
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 3, slow_first)
    before = values(run)
    lose(run.observation("toy_speed", 1), run)
    assert not strict_audit(project, run.run_id).ready

    reply, launched = resumed(run)

    assert (launched, reply.read_again) == ([], {"test_toy_ci": [1]})
    assert values(run) == before == [7.5, 0.25, 0.1875]
    assert strict_audit(project, run.run_id).ready


def edit(path: Path) -> None:
    text = path.read_text()
    changed = text.replace("7.5", "0.5").replace("2.5", "20.5")
    assert changed != text
    path.write_text(changed)


@pytest.mark.rule("STR-14", "MET-02")
@pytest.mark.parametrize(
    "change",
    [
        lambda run: edit(run.basetemp("test_toy_ci", 1) / "toy0/result.json"),
        lambda run: (run.basetemp("test_toy_ci", 1) / "toy0/result.json").unlink(),
        lambda run: edit(run.attempt("test_toy_ci", 1, 1) / "result.json"),
        lambda run: run.log("test_toy_ci", 1).write_text("another log\n"),
        lambda run: (run.path.parents[1] / toy.TEST_FILE).write_text(toy.toy_source() + "\n# fixed\n"),
    ],
    ids=["result file", "result file gone", "sealed result", "log", "test file"],
)
def test_evidence_that_is_not_as_it_was_sealed_is_measured_again(
    tmp_path: Path, change: Callable[[RunDir], object]
) -> None:
    run = halted(tmp_path, {"paths": {"latency_mean_s": "speed.latency"}}, slow_first)
    change(run)
    fix(project_of(run))

    reply, launched = resumed(run)

    assert launched[0][0] == 1 and reply.read_again == {}
    assert reply.measured_again == {"test_toy_ci": [1, 2, 3]}


@pytest.mark.rule("MET-07")
def test_a_file_that_appeared_after_the_seal_is_no_evidence(tmp_path: Path) -> None:
    run = halted(tmp_path, {"json_file": "toy0/other.json"}, slow_first)
    folder = run.basetemp("test_toy_ci", 1) / "toy0"
    (folder / "late.json").write_text((folder / "result.json").read_text())
    fix(project_of(run), config(json_file="toy0/late.json"))

    reply, launched = resumed(run)

    assert launched[0] == (1, 1) and reply.read_again == {}


@pytest.mark.rule("HLT-02", "POL-06", "HLT-04")
def test_a_fix_that_does_not_fit_the_files_is_refused_and_costs_no_launch(tmp_path: Path) -> None:
    run = halted(tmp_path, {"paths": {"latency_mean_s": "speed.latency"}}, slow_first)
    fix(project_of(run), config(paths={"latency_mean_s": "speed.mean_latency"}))

    with pytest.raises(Refusal) as error, toy.supervised_here() as executor:
        resume_run(project_of(run), run.run_id)

    assert str(error.value.code) == "HALT_UNRESOLVED" and executor.jobs == []
    assert "no 'mean_latency' in speed (near: latency_mean_s)" in error.value.message
    fix(project_of(run))
    assert resumed(run)[0].read_again == {"test_toy_ci": [1]}, "nothing was lost by the refusal"


@pytest.mark.rule("GAP-11", "RES-06", "STR-20")
@pytest.mark.parametrize("how", ["config was wrong", "artifact edited"])
def test_a_repeat_that_its_sealed_files_show_to_be_complete_is_purged_on_a_persons_word_only(
    tmp_path: Path, how: str
) -> None:
    if how == "artifact edited":
        run = toy.finished_run(toy.make_toy(tmp_path / "repo"), 3, slow_first)
        run.observation("toy_speed", 1).write_text("{}")
    else:
        run = halted(tmp_path, {"paths": {"latency_mean_s": "speed.latency"}}, slow_first)
        fix(project_of(run))
    item = PurgeItem(stage="toy_speed", repeat=1, reason="the disk was full")

    with pytest.raises(Refusal) as error:
        resumed(run, item)
    assert str(error.value.code) == "REPEAT_IS_STRICT"
    assert list(replacing(project_of(run), run.run_id, [item])) == [("test_toy_ci", 1)], "and is asked for"

    with toy.supervised_here() as executor:
        reply = resume_run(project_of(run), run.run_id, [item], person="a person")
    assert (executor.jobs[0].repeat, reply.read_again) == (1, {})
    assert 1 in reply.measured_again["test_toy_ci"]


def crashed(job: Job) -> AttemptResult:
    """Killed in the middle, with every file written."""
    result = toy.measured(job, speed={"latency_mean_s": 0.01})
    guard = result.guard.model_copy(update={"executed": result.guard.executed[:1], "finished": False})
    return result.model_copy(update={"pytest_rc": -9, "guard": guard})


@pytest.mark.rule("RTY-03", "XPY-05")
def test_a_crashed_attempt_is_no_observation_under_any_config(tmp_path: Path) -> None:
    run = halted(
        tmp_path,
        {"paths": {"latency_mean_s": "speed.latency"}},
        lambda job: crashed(job) if job.attempt == 1 else toy.measured(job, **SLOW),
    )
    fix(project_of(run))

    reply, launched = resumed(run)

    assert (launched, reply.read_again) == ([(2, 1), (3, 1)], {"test_toy_ci": [1]})
    history = json.loads(run.observation("toy_speed", 1).read_text())["history"]
    assert [(one["attempt"], one["verdict"]) for one in history] == [(1, "retried"), (2, "kept")]
    assert values(run)[0] == 7.5


def test_a_stray_folder_beside_the_attempts_is_ignored(tmp_path: Path) -> None:
    run = halted(tmp_path, {"paths": {"latency_mean_s": "speed.latency"}}, slow_first)
    attempts = run.test_folder("test_toy_ci") / "attempts"
    for name in ("run1_a1.bak", "run2_a1.bak", "run1_a", "run1_aa", "run3_a0", "notes"):
        (attempts / name).mkdir()
    fix(project_of(run))

    reply, launched = resumed(run)

    assert (launched, reply.read_again) == ([(2, 1), (3, 1)], {"test_toy_ci": [1]})


def read_by_an_older_version(job: Job) -> AttemptResult:
    """The files are whole, but the version that sealed them could not read one."""
    found = toy.measured(job)
    if job.repeat > 1:
        return found
    stages = {
        key: stage.model_copy(update={"metrics": dict.fromkeys(stage.metrics), "problems": ("not strict JSON",)})
        for key, stage in found.stages.items()
    }
    return found.model_copy(update={"stages": stages})


@pytest.mark.rule("HLT-02", "RES-04")
def test_what_an_older_version_could_not_read_counts_without_a_fix_and_without_a_launch(tmp_path: Path) -> None:
    run = halted(tmp_path, {}, read_by_an_older_version)

    reply, launched = resumed(run)

    assert reply.read_again == {toy.TEST_KEY: [1]}
    assert [repeat for repeat, _ in launched] == [2, 3]
    assert strict_audit(project_of(run), run.run_id).ready


def test_status_precheck_and_report_agree_on_a_tree_that_was_fixed_and_on_the_launches(tmp_path: Path) -> None:
    run = halted(tmp_path, WRONG["a path"], toy.measured)
    project = project_of(run)
    fix(project)
    (tree,) = [check.detail for check in precheck(project, toy.MODEL).checks if check.id == "repo.tree"]
    resumed(run)
    report(project, run.run_id)

    told = run.report_md.read_text()
    files = ".tune/models/toy/config.yaml, .tune/models/toy/stages.yaml"
    assert "2 tracked files changed, 0 untracked" in tree
    assert f"- Dirty: no (clean at the start; fixed before it was resumed: {files})" in told
    launched = [event for event in events.read(run.events) if event.kind == "launched"]
    assert f"{len(launched)} launches of pytest: 3 kept" in told
    assert not any("dirty" in alert for alert in status(project, run.run_id).alerts)


def test_a_test_that_was_changed_before_a_resume_makes_the_tree_dirty_everywhere(tmp_path: Path) -> None:
    run = halted(tmp_path, WRONG["a path"], toy.measured)
    project = project_of(run)
    file = project.repo_root / toy.TEST_FILE
    file.write_text(file.read_text().replace("a bare threshold", "a threshold"))
    fix(project)
    reply, _ = resumed(run)
    made = report(project, run.run_id)

    assert reply.dirty and any("dirty" in note for note in made.notes)
    assert any("dirty" in alert for alert in status(project, run.run_id).alerts)
    (line,) = [line for line in run.report_md.read_text().splitlines() if line.startswith("- Dirty: yes")]
    assert (
        f"fixed before it was resumed: .tune/models/toy/config.yaml, .tune/models/toy/stages.yaml, {toy.TEST_FILE}"
        in line
    )
