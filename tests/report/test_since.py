"""What changed since the last calibration: commits, files, thresholds, and what became of an expected gain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import toy
from speech_run import VALUES, Case, Workshop

from tune_mcp.config.model import Optimisation
from tune_mcp.report import since
from tune_mcp.report.facts import PreviousFacts, ReportFacts
from tune_mcp.report.write import write_report

GRAPH = Optimisation(files=("kit/**/*graph*.py",), evidence="cuda graph: True", tests=("test_tts_ci.py",))
FASTER = {
    **VALUES,
    ("tts_speed", "throughput_qps"): (6.71, 6.86, 6.79, 6.64, 6.83),
    ("tts_speed", "latency_mean_s"): (1.101, 1.065, 1.082, 1.118, 1.072),
}


@pytest.fixture
def commit(workshop: Workshop) -> Callable[..., str]:
    """Write the sources and more files into the repository, commit, and return the sha."""
    repo = workshop.root / "repo"
    repo.mkdir()
    toy.git(repo, "init", "-q", "-b", "main")

    def make(message: str, **files: str) -> str:
        for name, text in {**workshop.sources, ".gitignore": ".tune-runs\n", **files}.items():
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            (repo / name).write_text(text)
        toy.git(repo, "add", "-A")
        toy.git(repo, "commit", "-q", "-m", message)
        return toy.git(repo, "rev-parse", "HEAD")

    return make


def report(case: Case, log: str = "", **named: Optimisation) -> ReportFacts:
    for repeat in range(1, case.plan.repeats + 1):
        path = case.run.log("test_tts_ci", repeat)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(log)
    return write_report(case.run, case.repo, case.audit, case.applied, case.now, named)


def two(workshop: Workshop, commit: Callable[..., str], log: str, now=FASTER, **named: Optimisation) -> ReportFacts:
    """A calibration, a commit that touches a graph file, and a second calibration."""
    workshop.make(stamp="20260301T050000Z", sha=commit("Calibrate")).report()
    sha = commit("Capture the decode step <in a graph>", **{"kit/talker/cuda_graph.py": "a\nb\n", "README": "x\n"})
    return report(workshop.make(sha=sha, values=now), log, **named)


def gain(facts: ReportFacts, key: str = "tts_speed") -> str:
    return since.gain_text(next(stage for stage in facts.stages if stage.key == key), facts)


@pytest.mark.rule("PRF-01", "PRF-02")
def test_commits_and_files_of_the_range_are_listed_sensitive_ones_first(workshop, commit) -> None:
    facts = two(workshop, commit, "cuda graph: True", graph=GRAPH)
    (run,) = workshop.root.glob("repo/.tune-runs/20260423*")
    text, html = (run / "report.md").read_text(), (run / "report.html").read_text()

    assert "1 commit in between, 2 files changed; 1 of them under the globs of an optimisation in config." in text
    assert "- kit/talker/cuda_graph.py (+2 −0): graph\n- README (+1 −0)\n" in text
    assert f"- `{facts.calibration_git_sha[:12]}` " in text and "Capture the decode step &lt;in a graph>" in text
    assert "<b>kit/talker/cuda_graph.py (+2 −0): graph</b>" in html and "&lt;in a graph&gt;" in html


def test_a_last_calibration_whose_commit_is_not_here_is_compared_without_a_range(workshop, commit) -> None:
    workshop.make(stamp="20260301T050000Z", sha="f" * 40).report()
    facts = report(workshop.make(sha=commit("Calibrate")))

    assert facts.previous is not None and facts.previous.changes is None
    assert "is unknown" in since.range_text(facts.previous)


def test_without_a_last_calibration_that_is_said(case) -> None:
    assert "There is no earlier report of this model in this repository." in case.markdown()
    assert "There is no earlier report of this model in this repository." in case.html()


@pytest.mark.rule("RPT-07", "PRF-05")
def test_a_gain_that_was_expected_and_shown_is_told_as_such(workshop, commit) -> None:
    assert (
        gain(two(workshop, commit, "cuda graph: True", graph=GRAPH)) == "2 of 4 better, 0 worse: as expected of graph"
    )


@pytest.mark.rule("RPT-07", "PRF-04", "PRF-05")
def test_no_gain_although_it_ran_is_other_work_for_a_person_to_name(workshop, commit) -> None:
    said = gain(two(workshop, commit, "cuda graph: True", now=VALUES, graph=GRAPH))

    assert said.startswith(
        "0 of 4 better, 0 worse: no gain although graph changed; dominated by other work (preprocess"
    )


@pytest.mark.rule("PRF-03", "PRF-04")
def test_a_gain_without_evidence_is_not_ascribed_to_what_no_log_shows(workshop, commit) -> None:
    said = gain(two(workshop, commit, "eager mode", graph=GRAPH))

    assert "graph configured but in no log: check the config and its way through server args" in said
    assert "as expected" not in said


def test_a_stage_of_another_test_expects_nothing(workshop, commit) -> None:
    facts = two(workshop, commit, "cuda graph: True", graph=GRAPH)

    assert gain(facts, "asr_speed") == "0 of 1 better, 0 worse; no optimisation of this test changed"


@pytest.mark.parametrize(("commits", "files", "text"), [(0, 0, "Nothing was committed"), (1, 3, "1 commit in between")])
def test_the_size_of_the_range_is_told_in_words(commits: int, files: int, text: str) -> None:
    span = {"changes": {"commits": (), "files": ()}, "commits": commits, "files": files}
    facts = {"run_id": "r", "calibration_git_sha": "s", "generated_at": "t", "repeats": 5, "comparable": True}
    previous = PreviousFacts.model_validate({**facts, "differences": (), "worst": {}, **span})

    assert since.range_text(previous).startswith(text)
