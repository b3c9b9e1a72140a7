"""A repeat is recorded once, however often a crash or a lost artifact has its files written again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise import recording
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

FIRST, LAST = toy.STAGES[0], toy.STAGES[-1]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


def lines(run: RunDir) -> list[tuple[str, str]]:
    """Kind and stage of each line of the ledger about repeat 1's artifacts, in order."""
    return [
        (event.kind, str(event.facts["stage"]))
        for event in events.read(run.events)
        if event.kind in ("recorded", "withdrawn") and event.facts.get("repeat") == 1
    ]


def resumed(project: Project, run: RunDir) -> list[int]:
    """The repeats that were launched."""
    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)
    assert strict_audit(project, run.run_id).ready, toy.told(run)
    return [job.repeat for job in executor.jobs]


def lose_power(monkeypatch: pytest.MonkeyPatch, project: Project, before: str) -> RunDir:
    """A run whose supervisor ended just before it wrote ``before``, whose line the ledger holds already."""
    write = recording.write_atomic

    def until(path: Path, data: bytes, **how: bool) -> None:
        if path.parent.name == before and path.name == "run1.json":
            raise InterruptedError
        write(path, data, **how)

    monkeypatch.setattr(recording, "write_atomic", until)
    run = toy.finished_run(project, 2)
    monkeypatch.undo()
    assert not run.observation(before, 1).exists()
    return run


@pytest.mark.rule("STR-14", "RES-04")
@pytest.mark.parametrize("before", [FIRST, LAST])
def test_a_crash_between_the_line_and_the_file_is_completed_without_a_second_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    run = lose_power(monkeypatch, project, before)
    begun = lines(run)
    assert begun[-1] == ("recorded", before)
    named = events.ledger(run).observations

    assert resumed(project, run) == [2], "the sealed attempt counts"

    assert lines(run) == [("recorded", stage) for stage in toy.STAGES]
    for (stage, repeat), sha in named.items():
        assert recording.sha256_bytes(run.observation(stage, repeat).read_bytes()) == sha


@pytest.mark.rule("STR-14", "GAP-10")
@pytest.mark.parametrize(
    "change",
    [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes() + b" ")],
    ids=["deleted", "a blank appended"],
)
def test_a_lost_artifact_comes_back_byte_for_byte_with_the_history_of_its_attempts(
    project: Project, change: Callable[[Path], object]
) -> None:
    run = toy.finished_run(project, 2, lambda job: toy.measured(job) if job.repeat == 2 or job.attempt == 2 else None)
    path = run.observation(FIRST, 1)
    before = path.read_bytes()
    assert [one["verdict"] for one in json.loads(before)["history"]] == ["retried", "kept"]
    change(path)

    assert resumed(project, run) == []

    assert path.read_bytes() == before
    assert lines(run) == [("recorded", stage) for stage in toy.STAGES]


@pytest.mark.rule("STR-14")
def test_an_edited_copy_is_never_written_back(project: Project) -> None:
    run = toy.finished_run(project, 2)
    path = run.observation(FIRST, 1)
    true = json.loads(path.read_text())["metrics"]
    copy = run.attempt("test_toy_ci", 1, 1) / recording.COPIES / f"{FIRST}.json"
    edited = json.loads(copy.read_text())
    copy.write_text(json.dumps(edited | {"metrics": dict.fromkeys(true, 0.001)}))
    path.unlink()

    assert resumed(project, run) == []

    assert json.loads(path.read_text())["metrics"] == true
    assert events.ledger(run).observations[FIRST, 1] == recording.sha256_bytes(path.read_bytes())


@pytest.mark.rule("HLT-02", "STR-14")
def test_values_that_a_fixed_config_reads_otherwise_replace_the_line(tmp_path: Path) -> None:
    config = json.loads(json.dumps(toy.CONFIG))
    config["metric_sources"]["test_toy_ci.py"]["paths"]["latency_mean_s"] = "speed.latency"
    project = toy.make_toy(tmp_path / "repo", config=config)
    run = toy.finished_run(project, 2)
    assert status(project, run.run_id).state == "halted"
    (project.repo_root / ".tune/models/toy/config.yaml").write_text(json.dumps(toy.CONFIG))
    discover(project, toy.MODEL)

    assert resumed(project, run) == [2]

    again = lines(run)[len(toy.STAGES) :]
    assert sorted(again) == sorted([(kind, stage) for stage in toy.STAGES for kind in ("withdrawn", "recorded")])
