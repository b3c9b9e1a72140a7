"""What a second repeat may find otherwise, on real pytest: the same launch is made, or none counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.report.facts import ReportFacts
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.supervise import retry
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.supervise.pytest_session import WallClock
from tune_mcp.supervise.verdict import Again
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")

SEEN = '(STATE / f"seen{k}").write_text(json.dumps(dict(os.environ)))'
SOURCE = toy.toy_source().replace("    held(k)\n", f"    held(k)\n    {SEEN}\n", 1)


def measured(project: Project, change: Callable[[], object]) -> RunDir:
    """Two repeats on real pytest; ``change`` comes between them."""

    def attempt(job: Job) -> AttemptResult | None:
        if (job.repeat, job.attempt) == (2, 1):
            change()
        return toy.real_pytest(job)

    return toy.finished_run(project, 2, attempt)


@pytest.mark.rule("SCP-02", "GPU-17")
def test_language_time_zone_and_search_path_are_those_of_the_shell_that_started_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"LANG": "C.UTF-8", "TZ": "Europe/Berlin", "LC_NUMERIC": "C", "PATH": f"/nowhere:{os.environ['PATH']}"}
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LC_ALL", raising=False)
    project = toy.make_toy(tmp_path / "repo", test_source=SOURCE)

    def change() -> None:
        for name in first:
            monkeypatch.setenv(name, f"{first[name]}x" if name != "PATH" else f"/elsewhere:{os.environ['PATH']}")
        monkeypatch.setenv("LC_ALL", "de_DE")

    run = measured(project, change)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    seen = [toy.json.loads((toy.state_folder(project) / f"seen{k}").read_text()) for k in (1, 2)]
    names = (*first, "LC_ALL")
    assert [seen[1].get(name) for name in names] == [seen[0].get(name) for name in names]
    assert seen[1]["TZ"] == first["TZ"] and "/elsewhere" not in seen[1]["PATH"]


@pytest.mark.rule("SCP-02", "RTY-03")
@pytest.mark.parametrize(
    ("wall", "monotonic", "moved"), [(3600.0, 1.0, True), (-10.0, 1.0, True), (11.5, 10.0, False), (9003, 9000, False)]
)
def test_an_attempt_during_which_the_clock_was_set_is_made_again(wall: float, monotonic: float, moved: bool) -> None:
    walls, ticks = iter((1e9, 1e9 + wall)), iter((5.0, 5.0 + monotonic))
    told = WallClock(lambda: next(walls), lambda: next(ticks)).moved()

    assert bool(told) is moved
    result = AttemptResult(key="x", started_at="t", ended_at="t", clock_moved=told)
    verdict = retry.judge(result, {})
    assert (isinstance(verdict, Again) and verdict.reason == told) is moved


def filtered(repo: Path) -> None:
    """A clean filter that makes git take whatever ``scale.py`` holds for what was committed."""
    toy.git(repo, "config", "filter.same.clean", "echo 'SCALE = 1'")
    toy.git(repo, "config", "filter.same.smudge", "cat")


HIDDEN = toy.toy_source().replace(
    "STATE = Path", "import sys\nsys.path.insert(0, str(Path(__file__).parent))\nimport scale\nSTATE = Path", 1
)


@pytest.mark.rule("SES-11")
def test_a_filter_of_git_hides_no_change_of_a_file(tmp_path: Path) -> None:
    files = {"tests/scale.py": "SCALE = 1\n", ".gitattributes": "scale.py filter=same\n"}
    project = toy.make_toy(tmp_path / "repo", test_source=HIDDEN, files=files)
    filtered(project.repo_root)

    run = measured(project, lambda: (project.repo_root / "tests/scale.py").write_text("SCALE = 2\n"))

    found = state.conclude(run).record
    assert toy.git(project.repo_root, "status", "--porcelain") == "", "git sees nothing"
    assert found and found.halt and found.halt.code == "COMMIT_MOVED" and "scale.py" in found.halt.message
    assert not run.observation("toy_speed", 2).exists()


@pytest.mark.rule("RES-10", "GPU-20")
def test_an_attempt_whose_folder_was_taken_away_costs_one_launch_and_no_number_twice(tmp_path: Path) -> None:
    """Found by the campaign: three further tries went to the same attempt, which the executor took for ended."""
    project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project, 1)
    folder = run.attempt(toy.TEST_KEY, 1, 1)
    folder.rename(tmp_path / "elsewhere")
    toy.let_go(project, 1)

    now = toy.wait_until_rest(project, run.run_id)

    assert now.strict_complete, toy.told(run)
    assert len(toy.launches(project, 1)) == 2 and run.attempt(toy.TEST_KEY, 1, 2).is_dir()
    assert "Traceback" not in run.supervisor_log.read_text()


@pytest.mark.rule("RES-10", "GPU-20")
def test_a_run_whose_evidence_was_taken_away_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    """Found by the campaign: the supervisor took the missing folder for a bug of its own."""
    project = toy.make_toy(tmp_path / "repo")
    run = toy.start_and_hold(project, 1)
    run.test_folder(toy.TEST_KEY).rename(tmp_path / "elsewhere")

    stop_run(project, run.run_id, "enough")

    assert toy.wait_until_rest(project, run.run_id).state == "stopped", toy.told(run)


@pytest.mark.rule("GAP-10", "STR-22")
def test_values_whose_every_file_was_taken_away_are_shown_from_the_ledger(tmp_path: Path) -> None:
    """Found by the campaign: the artifact deleted, and with it all that pytest had left."""
    slow = {"speed": {"throughput_qps": 2.5, "latency_mean_s": 7.5}}
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, lambda job: toy.measured(job, **(slow if job.repeat == 1 else {})))
    run.test_folder(toy.TEST_KEY).rename(tmp_path / "elsewhere")
    for key in toy.STAGES:
        run.observation(key, 1).unlink()

    with toy.supervised_here():
        resume_run(project, run.run_id)

    report(project, run.run_id)
    facts = ReportFacts.model_validate_json(run.report_json.read_bytes())
    (one,) = (one for one in facts.uncounted if one.values)  # repeat 2 counts
    assert (one.repeat, one.where) == (1, "events.jsonl") and "changed or deleted" in one.reason
    assert {value.metric: (value.value, value.worse) for value in one.values}["latency_mean_s"] == (7.5, True)
    assert "toy_speed/latency_mean_s 7.5 (worse than" in run.report_md.read_text()
    rows = {row.metric_key: row for row in apply_plan(project, run.run_id).rows}
    assert {key for key, row in rows.items() if row.decision == "ask"} == {"throughput_qps", "latency_mean_s"}
    assert "repeat 1 measured 7.5 once, worse than all that count" in rows["latency_mean_s"].reason
    assert rows["accuracy"].decision == "auto"


@pytest.mark.rule("GAP-10")
def test_a_result_file_that_was_edited_afterwards_changes_no_value_of_what_does_not_count(tmp_path: Path) -> None:
    slow = {"speed": {"throughput_qps": 2.5, "latency_mean_s": 7.5}}

    def attempt(job: Job) -> AttemptResult:
        first = (job.repeat, job.attempt) == (1, 1)
        return toy.measured(job, summary={"evaluated": 3}, **slow) if first else toy.measured(job)

    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, attempt)
    (path,) = run.path.glob("_pytest/*/attempts/run1_a1/basetemp_run1/toy0/result.json")
    path.write_text(path.read_text().replace("7.5", "0.1"))

    report(project, run.run_id)
    assert "latency_mean_s 7.5 (worse than" in run.report_md.read_text()


SHAKY = toy.toy_source().replace(
    "def test_speed(results):\n",
    "def test_speed(results):\n    tried = STATE / 'tried'\n    first = not tried.exists()\n    tried.touch()\n"
    "    assert not first\n",
)


@pytest.mark.rule("XPY-06", "RTY-04")
@pytest.mark.parametrize(("options", "why"), [("-n 2", "pytest-xdist"), ("--reruns 2", "ran more than once")])
def test_workers_and_reruns_of_installed_plugins_are_no_observation(tmp_path: Path, options: str, why: str) -> None:
    """The launch takes both options back where precheck saw the plugin; here it did not."""
    files = {"pytest.ini": f"[pytest]\naddopts = {options}\n"}
    project = toy.make_toy(tmp_path / "repo", test_source=SHAKY, files=files)

    run = toy.finished_run(project, 1, toy.real_pytest)

    record = state.conclude(run).record
    assert record and record.halt and why in record.halt.message, toy.told(run)
    assert not strict_audit(project, run.run_id).ready
