"""What readers see of lanes: the medians side by side, and which lane stands apart, wherever a run is shown."""

from __future__ import annotations

from pathlib import Path

import laned
import pytest
import toy

from tune_mcp.cli.watch import picture
from tune_mcp.contract.status import StatusReply
from tune_mcp.report.apart import LaneMedian
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.server import dashboard
from tune_mcp.session import events
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs import status as verb
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.status import status


def measured_on_two_lanes(folder: Path, right_s: float, more_s: float = 0.0) -> tuple[Project, RunDir]:
    """Two files, six repeats each; a launch takes 10 s on the left lane and ``right_s`` on the right one.

    There each repeat takes ``more_s`` more than the one before.
    """
    project = laned.make(folder)

    def attempt(job: Job) -> AttemptResult:
        seconds = right_s + job.repeat * more_s if job.lane == "right" else 10.0
        return toy.measured(job).model_copy(update={"duration_s": seconds})

    with toy.supervised_here(attempt):
        return project, toy.start(project, 6, lanes=2)


def news(run: RunDir, text: str) -> None:
    """Something happens that is no measurement."""
    events.append(run, "alert", utc_now(), text)


def take_away(project: Project, run: RunDir, test: str, repeat: int) -> None:
    """The repeat counts no more."""
    for stage in project.plan(run).tests()[test]:
        run.observation(stage.key, repeat).unlink()


def shown(now: StatusReply) -> dict[str, str]:
    """Every form of a status."""
    parts = picture(now).renderable.renderables
    return {
        "text": now.text(),
        "typed": str(now.facts()),
        "watch": "\n".join(part.plain for part in parts if hasattr(part, "plain")),
        "page": dashboard.page_of(now, ()),
    }


def test_a_lane_that_stands_apart_is_flagged_wherever_the_run_is_shown(tmp_path: Path) -> None:
    project, run = measured_on_two_lanes(tmp_path / "repo", right_s=13.0)
    now = status(project, run.run_id)
    report(project, run.run_id)

    assert now.strict_complete and [one.partition(" ")[0] for one in now.lane_medians] == ["left", "right"]
    assert all(one.endswith(", stands apart") for one in now.lane_medians), "of two lanes each differs from the other"
    for form, text in shown(now).items():
        assert all(one in text for one in now.lane_medians), form
        assert "lane right stands apart: its 6 repeats took 1.13 of their tests' median length" in text, form
    written = run.path / "report.md", run.path / "report.html"
    assert all("Lane right: 6 counted, median length 1.130" in path.read_text() for path in written)
    assert all("it stands apart from the other lanes" in path.read_text() for path in written)


def test_lanes_that_measure_alike_are_shown_and_not_flagged(tmp_path: Path) -> None:
    project, run = measured_on_two_lanes(tmp_path / "repo", right_s=10.1)
    now = status(project, run.run_id)

    assert len(now.lane_medians) == 2 and not now.alerts
    assert all(one in text for text in shown(now).values() for one in now.lane_medians)


def test_a_repeat_that_does_not_count_is_in_no_lanes_median(tmp_path: Path) -> None:
    project, run = measured_on_two_lanes(tmp_path / "repo", right_s=10.0)
    before = status(project, run.run_id).lane_medians
    take_away(project, run, "test_b_ci", 6)

    after = status(project, run.run_id).lane_medians

    assert sum(int(one.split()[-1]) for one in before) == 12
    assert sum(int(one.split()[-1]) for one in after) == 11


@pytest.mark.rule("POL-04")
def test_who_polls_reads_medians_again_only_when_one_moved(tmp_path: Path) -> None:
    project, run = measured_on_two_lanes(tmp_path / "repo", right_s=10.0, more_s=1.0)
    ended = run.supervisor.read_bytes()
    with toy.at_work(run):
        first = status(project, run.run_id)
        news(run, "nothing of a lane")
        again = status(project, run.run_id, known=first.mark)
        for test in project.plan(run).tests():
            take_away(project, run, test, 6)
            take_away(project, run, test, 5)
        news(run, "two repeats of each file are gone")
        moved = status(project, run.run_id, known=again.mark)
        idle = status(project, run.run_id, known=moved.mark)

    assert first.lane_medians and not again.lane_medians and not again.unchanged
    assert moved.lane_medians != first.lane_medians and moved.lane_medians
    assert idle.unchanged and "lane_medians" not in idle.facts()
    run.supervisor.write_bytes(ended)
    end = status(project, run.run_id, known=idle.mark)
    assert end.lane_medians == moved.lane_medians, "the end says everything"


def test_who_polls_reads_medians_again_when_a_lane_begins_to_stand_apart_but_not_for_one_repeat_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = measured_on_two_lanes(tmp_path / "repo", right_s=10.0)
    now: list[LaneMedian] = []
    monkeypatch.setattr(verb, "_lane_medians", lambda *_: tuple(now))

    def seen(known: str | None, *sides: LaneMedian) -> StatusReply:
        now[:] = sides
        return status(project, run.run_id, known=known)

    with toy.at_work(run):
        first = seen(None, LaneMedian("left", 6, 1.0, apart=False))
        more = seen(first.mark, LaneMedian("left", 7, 1.001, apart=False))
        apart = seen(more.mark, LaneMedian("left", 7, 1.001, apart=True))

    assert first.lane_medians == ("left 1.00 of 6",) and not more.lane_medians
    assert apart.lane_medians == ("left 1.00 of 7, stands apart",)


def test_a_host_without_lanes_shows_no_medians(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    now = status(project, toy.finished_run(project).run_id)

    assert now.lane_medians == () and "lane_medians" not in now.facts() and "median" not in now.text()
