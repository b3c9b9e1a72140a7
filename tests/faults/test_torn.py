"""A crash at every step of every write: readers go on, nothing is lost or faked, and the run can be completed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import toy
from crash import CHANGES, STEPS, crash_at

from tune_mcp.config.stages import GroupPolicy
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.files import append_line, write_atomic
from tune_mcp.observe.audit import audit
from tune_mcp.observe.worst import worst_of_n
from tune_mcp.run_dir import RunDir, list_runs
from tune_mcp.session import events, provenance, state
from tune_mcp.supervise import loop
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs import run_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest


def every_crash(call: Callable[[], object], after: Callable[[int], None], steps: Sequence[str] = STEPS) -> int:
    """Crash ``call`` at its first step, its second, and so on until it ends by itself; look each time."""
    step = 1
    with still_tree():
        while crash_at(step, call, steps):
            after(step)
            step += 1
    return step - 1


@contextmanager
def still_tree() -> Iterator[None]:
    """Only the run's folder changes: what the tree holds is asked once, and not at each of hundreds of steps."""
    with (
        mock.patch.object(provenance, "read", cache(provenance.read)),
        mock.patch.object(run_plan, "own_output", lambda *_: ()),
        mock.patch.object(run_plan, "contradicted", lambda *_: []),
    ):
        yield


def once_partial(job: Job) -> AttemptResult | None:
    """Repeat 1 is partial in its first attempt of all."""
    before = [*job.run.path.glob(f"purged/*/run{job.repeat}_a*"), *job.folder.parent.glob(f"run{job.repeat}_a*")]
    return toy.measured(job, summary={"evaluated": 3 if job.repeat == 1 and len(before) == 1 else 4})


def true_and_readable(project: Project, run: RunDir) -> dict[Path, bytes]:
    """Every reader answers; what it calls strict is what was measured. Returns the repeats that count."""
    strict_audit(project, run.run_id)
    tail_pytest(project, run.run_id)
    found = audit(run, project.plan(run))
    recorded = _recorded(run)
    strict: dict[Path, bytes] = {}
    for stage in found.stages:
        for repeat, cell in enumerate(stage.cells, 1):
            if cell.cell is Cell.STRICT and cell.stored:
                path = run.observation(stage.stage.key, repeat)
                strict[path] = path.read_bytes()
                true = dict(zip(("accuracy", "throughput_qps", "latency_mean_s"), toy.VALUES[repeat - 1], strict=True))
                assert cell.stored.content.metrics == {key: true[key] for key in stage.stage.metrics}
                assert recorded[(stage.stage.key, repeat)] == [cell.stored.sha256], "recorded once"
    return {
        path: content
        for path, content in strict.items()
        if all(run.path / key / path.name in strict for key in toy.STAGES)
    }


def _recorded(run: RunDir) -> dict[tuple[object, object], list[object]]:
    """What the ledger says of each cell, less what was withdrawn."""
    found: dict[tuple[object, object], list[object]] = {}
    for event in events.read(run.events):
        cell = event.facts.get("stage"), event.facts.get("repeat")
        if event.kind == "recorded":
            found.setdefault(cell, []).append(event.facts["sha256"])
        elif event.kind == "withdrawn":
            found[cell] = []
    return found


def completed(
    project: Project, run: RunDir, kept: dict[Path, bytes], attempt: Callable[[Job], AttemptResult | None]
) -> None:
    """The run goes on to the numbers of an undisturbed one; what counted before the crash is not touched."""
    if state.conclude(run).state is not state.RunState.FINISHED:
        with toy.supervised_here(attempt):
            resume_run(project, run.run_id)
    assert state.conclude(run).state is state.RunState.FINISHED, toy.told(run)
    found = audit(run, project.plan(run))
    worst = {row.metric_key: row.worst_raw for stage in found.stages for row in worst_of_n(stage, GroupPolicy())}
    assert (found.ready, worst) == (True, toy.WORST)
    true_and_readable(project, run)
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process crashes here, not the machine; the step is counted all the same."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.rule("RES-04", "STR-17", "STR-22", "SES-13", "GAP-05")
def test_a_run_that_breaks_off_at_any_write_is_resumed_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug 24 of the older script: a torn plan.json could not be resumed. With a purge on the way."""
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    project = toy.make_toy(tmp_path / "repo")
    made: Counter[str] = Counter()

    def call() -> None:
        toy.finished_run(project, 2, once_partial)

    def after(step: int) -> None:
        runs = list_runs(project.repo_root)
        made["runs" if runs else "nothing"] += 1
        for run in runs:
            completed(project, run, true_and_readable(project, run), once_partial)
            run.path.rename(project.repo_root.parent / f"{run.run_id}-{step}")

    steps = every_crash(call, after, CHANGES)
    print(f"{steps} steps, {dict(made)}")
    assert steps > 100 and made["nothing"] >= 5


@pytest.mark.rule("HLT-02", "SES-13", "RES-04")
def test_a_resume_that_breaks_off_at_any_write_loses_neither_plan(tmp_path: Path) -> None:
    """Bugs 24 and 25 of the older script. The resume amends the plan, which was fixed after a halt."""
    project = toy.make_toy(tmp_path / "repo", samples=3)
    run = toy.finished_run(project, 2, lambda job: toy.measured(job, summary={"total_samples": 4, "evaluated": 4}))
    assert status(project, run.run_id).state == "halted"
    test = project.repo_root / toy.TEST_FILE
    test.write_text(test.read_text().replace("NUM_SAMPLES = 3", "NUM_SAMPLES = 4"))
    discover(project, toy.MODEL)
    before = tmp_path / "before"
    shutil.copytree(run.path, before)

    def call() -> None:
        with toy.supervised_here():
            resume_run(project, run.run_id)

    def after(_: int) -> None:
        completed(project, run, true_and_readable(project, run), toy.measured)
        shutil.rmtree(run.path)
        shutil.copytree(before, run.path)

    assert every_crash(call, after, CHANGES) > 30


@pytest.mark.parametrize("before", [b"", b'{"old": 1}\n'], ids=["new", "old"])
def test_a_file_that_is_replaced_is_the_old_one_or_the_new_one_after_every_crash(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "file.json"

    def after(_: int) -> None:
        assert not path.exists() if not before else path.read_bytes() in (before, b"x" * 10_000)
        path.write_bytes(before) if before else path.unlink(missing_ok=True)

    if before:
        path.write_bytes(before)
        assert every_crash(lambda: write_atomic(path, b"x" * 10_000), after) >= 4
        assert path.read_bytes() == b"x" * 10_000


def test_a_log_keeps_every_line_that_was_whole_and_goes_on_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append_line(path, "first")

    def after(_: int) -> None:
        append_line(path, "next")
        lines = path.read_bytes().splitlines()
        assert (lines[0], lines[-1]) == (b"first", b"next")
        assert set(lines[1:-1]) <= {b"long " * 100, (b"long " * 100 + b"\n")[: 501 // 2]}
        path.write_bytes(b"first\n")

    assert every_crash(lambda: append_line(path, "long " * 100), after) == 3
