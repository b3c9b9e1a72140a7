"""Nothing worse than what is written lies unmentioned among what was purged or superseded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.report.facts import ReportFacts, UncountedFacts
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")

SLOW = {"speed": {"throughput_qps": 2.5, "latency_mean_s": 7.5}}


def facts(project: Project, run: RunDir) -> ReportFacts:
    report(project, run.run_id)
    return ReportFacts.model_validate_json(run.report_json.read_bytes())


def told(one: UncountedFacts) -> dict[str, tuple[float, bool]]:
    return {value.metric: (value.value, value.worse) for value in one.values}


def section(run: RunDir) -> str:
    return run.report_md.read_text().split("## Superseded repeats and incidents")[1].split("\n## ")[0]


@pytest.mark.rule("GAP-10", "STR-22", "GAP-11")
def test_a_worse_value_in_purged_is_called_out_with_who_when_and_why(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(
        project, 2, lambda job: toy.measured(job, **(SLOW if (job.repeat, job.attempt) == (1, 1) else {}))
    )
    item = PurgeItem(stage="toy_speed", repeat=1, reason="a neighbour was busy")
    with toy.supervised_here():
        resume_run(project, run.run_id, [item], person="somebody at the terminal")

    found = facts(project, run)

    (one,) = found.uncounted
    assert (one.test, one.repeat, one.attempt, one.who) == ("test_toy_ci", 1, 1, "somebody at the terminal")
    assert told(one) == {"accuracy": (0.75, False), "throughput_qps": (2.5, True), "latency_mean_s": (7.5, True)}
    assert one.reason == "a neighbour was busy" and one.t and (run.path / one.where).is_dir()
    text = run.report_md.read_text()
    assert "**Worse values that do not count:**" in text.split("## Conclusions")[0]
    assert "toy_speed/latency_mean_s 7.5 (worse than 0.25)" in section(run)
    assert "worse than 0.25" in run.report_html.read_text()


def crash(job: Job) -> AttemptResult:
    """Killed in the middle; its result file is there all the same."""
    result = toy.measured(job, **SLOW)
    guard = result.guard.model_copy(update={"executed": result.guard.executed[:1], "finished": False})
    return result.model_copy(update={"pytest_rc": -9, "guard": guard})


def partial(job: Job) -> AttemptResult:
    return toy.measured(job, summary={"evaluated": 3}, **SLOW)


@pytest.mark.rule("GAP-10", "STR-22", "RTY-03")
@pytest.mark.parametrize("bad", [crash, partial], ids=["a crash", "a partial one"])
def test_the_values_of_an_attempt_that_was_tried_again_are_shown(
    tmp_path: Path, bad: Callable[[Job], AttemptResult]
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, lambda job: (bad if (job.repeat, job.attempt) == (2, 1) else toy.measured)(job))

    (one,) = facts(project, run).uncounted

    assert (one.repeat, one.attempt, one.who) == (2, 1, "supervisor")
    assert told(one)["latency_mean_s"] == (7.5, True)
    assert one.reason.startswith("retried: ")


@pytest.mark.rule("GAP-10")
def test_an_attempt_that_left_nothing_to_read_is_listed_too(tmp_path: Path) -> None:
    def nothing(job: Job) -> AttemptResult:
        result = crash(job)
        (job.run.basetemp(job.test_key, job.repeat) / "toy0" / "result.json").unlink()
        empty = {
            key: one.model_copy(update={"metrics": dict.fromkeys(one.metrics), "problems": ("x",)})
            for key, one in result.stages.items()
        }
        return result.model_copy(update={"stages": empty})

    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 1, lambda job: (nothing if job.attempt == 1 else toy.measured)(job))

    (one,) = facts(project, run).uncounted
    assert one.values == () and "nothing can be read" in section(run)


@pytest.mark.rule("GAP-10")
def test_a_run_in_which_everything_counts_has_no_such_table(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2)

    assert facts(project, run).uncounted == ()
    assert "not counted" not in run.report_md.read_text()


@pytest.mark.rule("GAP-10", "GPU-20")
@pytest.mark.usefixtures("warm")
def test_what_a_stopped_attempt_had_written_is_shown_although_it_was_never_sealed(tmp_path: Path) -> None:
    write = '(folder / "result.json").write_text(json.dumps(found))'
    source = toy.toy_source().replace("    held(k)\n", "", 1).replace(write, f"{write}\n    held(k)", 1)
    project = toy.make_toy(tmp_path / "repo", test_source=source)
    toy.steer(project, 1, **SLOW)
    run = toy.start_and_hold(project, 1)
    stop_run(project, run.run_id, "it was slow")
    toy.let_go(project, 1)
    toy.wait_until_rest(project, run.run_id)
    (toy.state_folder(project) / "run1.json").unlink()

    resume_run(project, run.run_id)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)

    (one,) = facts(project, run).uncounted
    assert told(one)["latency_mean_s"] == (7.5, True)
    assert "stopped before it was sealed" in one.reason and one.t != "?"


@pytest.mark.parametrize("place", ["basetemp_run1", "run1.log", "attempts/run1_a1/basetemp", "attempts/run2_a1"])
def test_links_that_lead_round_in_a_circle_are_no_bug_for_any_reader(tmp_path: Path, place: str) -> None:
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project)
    path = run.test_folder(toy.TEST_KEY) / place
    if path.is_dir() and not path.is_symlink():
        path.rename(tmp_path / "aside")
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(path.with_name(f"{path.name}-round"))
    path.with_name(f"{path.name}-round").symlink_to(path)

    for ask in (report, apply_plan, status, strict_audit):
        with suppress(Refusal):
            ask(project, run.run_id)
    with suppress(Refusal), toy.supervised_here():
        resume_run(project, run.run_id)
