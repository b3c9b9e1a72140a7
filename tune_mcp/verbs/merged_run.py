"""The directory of a merged run: each partition whole, byte for byte, below ``_sources/``, and links to its stages.

It is built aside and renamed last. The partitions are read, never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tune_mcp.actions import Step
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, open_plain, real, sha256_file, sync_folder, write_atomic
from tune_mcp.observe import audit, result_files
from tune_mcp.observe.audit import Audit
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.run_dir import IGNORE_ALL, IGNORE_FILE, RunDir
from tune_mcp.session import events
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Plan, Source
from tune_mcp.session.state import RunState
from tune_mcp.supervise import sealed
from tune_mcp.verbs import gates
from tune_mcp.verbs.handover import record
from tune_mcp.words import listed, number_of

_ASIDE = ".merging"
_NOT_COPIED = frozenset({"supervisor.lock", "supervisor.reserve"})


@dataclass(frozen=True)
class Partition:
    """One run to be joined; ``parts`` are its directories with what a merged plan says of each."""

    run: RunDir
    plan: Plan
    machine: Environment
    parts: tuple[tuple[RunDir, Source], ...]


def not_mergeable(reasons: Sequence[str], next: str | Step) -> Refusal:
    """NOT_MERGEABLE with the first few of the reasons; all of them are in its details."""
    return Refusal(Code.NOT_MERGEABLE, (), listed(reasons, 6), next, {"reasons": [*reasons]})


def why_not_ready(audited: Audit) -> str:
    """The first uncovered repeat, or what the commit lacks where there is none."""
    return gates.first_of(audited.open_cells()) or audited.git.line()


def make(run: RunDir, plan: Plan, found: Sequence[Partition], now: datetime) -> Audit:
    """Build the run aside, audit it as copied, and give it its place with one rename.

    Raises NOT_MERGEABLE, RUN_ACTIVE, and PLAN_EXISTS when its name was taken meanwhile.
    """
    aside = run.path.parent / _ASIDE
    lock = FileLock.take(run.path.parent / f"{_ASIDE}.lock", {"run_id": plan.run_id})
    if lock is None:
        raise Refusal(Code.RUN_ACTIVE, (), "another merge is at work in this repository", "wait for it, then try again")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # what a merge left that was cut off
        staged = RunDir(aside / plan.run_id)
        _build(staged, plan, found, now)
        audited = _audited(staged, plan)
        _publish(staged, run)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        lock.release()
    return audited


def _build(staged: RunDir, plan: Plan, found: Sequence[Partition], now: datetime) -> None:
    """The whole run directory, aside."""
    staged.path.mkdir(parents=True)
    write_atomic(staged.path / IGNORE_FILE, IGNORE_ALL)
    for one in found:
        for part, source in one.parts:
            _copy(part.path, staged.source(source.run_id).path, part.path, staged.source(source.run_id).path)
        if one.plan.sources:  # a merged run: its own record and what was decided on it
            _copy(one.run.path, staged.source(one.plan.run_id).path, one.run.path, staged.path, own_alone=True)
    first = found[0].parts[0][0]
    for name in (first.precheck.name, first.environment.name, first.workspace_diff.name):
        if (first.path / name).is_file():
            write_atomic(staged.path / name, open_plain(first.path / name).read())
    _link(staged, plan)
    runs = ", ".join(f"{one.run_id} ({number_of(len(one.stages), 'stage')}, {one.host})" for one in plan.sources)
    events.append(
        staged, "merged", now, f"joined from {runs}",
        sources={one.run_id: one.ledger_sha256 for one in plan.sources}, by=[one.plan.run_id for one in found],
    )  # fmt: skip
    sha = sha256_file(staged.environment)
    events.append(staged, "environment", now, "the machine of the first partition", sha256=sha)
    text = f"{number_of(len(plan.stages), 'stage')} × {plan.repeats}, from {number_of(len(plan.sources), 'run')}"
    plans.write(staged, plan, now, text)
    record(staged, RunState.FINISHED, now, f"joined from {runs}")


def _copy(folder: Path, to: Path, root: Path, new_root: Path, *, own_alone: bool = False) -> None:
    """Copy a tree byte for byte. Links stay links, inside the run; sockets and pipes that tests left are no evidence.

    ``own_alone``: without links and partitions. Raises NOT_MERGEABLE for a link out of the run, temporary files apart.
    """
    to.mkdir(parents=True)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path, target = Path(entry.path), to / entry.name
        if entry.name in _NOT_COPIED:
            continue
        if entry.is_symlink():
            if not own_alone:
                _copy_link(path, target, root, new_root)
        elif entry.is_dir():
            if not (own_alone and entry.name in ("_sources", "_pytest")):
                _copy(path, target, root, new_root, own_alone=own_alone)
        elif entry.is_file():
            _copy_file(path, target)
    shutil.copystat(folder, to)
    sync_folder(to)


def _copy_file(path: Path, target: Path) -> None:
    try:
        with open_plain(path) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(path, target)
    except FileNotFoundError as error:
        raise not_mergeable(
            [f"{path} went away while it was copied"], "end what writes into that run, then merge again"
        ) from error


def _copy_link(path: Path, target: Path, root: Path, new_root: Path) -> None:
    aim = Path(os.path.normpath(path.parent / path.readlink()))
    if aim.is_relative_to(root) and real(path).is_relative_to(real(root)):
        target.symlink_to(os.path.relpath(new_root / aim.relative_to(root), target.parent))
        shutil.copystat(path, target, follow_symlinks=False)
    elif any(part.startswith("basetemp") for part in path.relative_to(root).parts):
        target.symlink_to(path.readlink())  # a test's own; nothing that is sealed is read through it
    else:
        raise not_mergeable(
            [f"{path} is a link out of its run"], "put the file or folder itself there, then merge again"
        )


def _link(staged: RunDir, plan: Plan) -> None:
    """The stages and tests of every partition, at the places where any run has them."""
    for part, own in plan.parts(staged):
        for key in own.stages:
            (staged.path / key).symlink_to(os.path.relpath(part.path / key, staged.path))
        for test in own.tests():
            place = staged.test_folder(test)
            place.parent.mkdir(exist_ok=True)
            if not place.is_symlink():  # a test that several partitions ran: the first stands for it here
                place.symlink_to(os.path.relpath(part.test_folder(test), place.parent))


def _audited(staged: RunDir, plan: Plan) -> Audit:
    """The new directory's own audit, content first, and its sealed attempts. Raises NOT_MERGEABLE."""
    audited = audit.audit(staged, plan)
    if not audited.ready:
        raise not_mergeable([f"as copied, it is not strict-ready: {why_not_ready(audited)}"], "merge again")
    for part, own in audited.parts(staged):
        for stage in own.stages:
            for repeat, cell in enumerate(stage.cells, 1):
                assert cell.stored is not None
                _sealed(part, own.plan, stage, repeat, cell.stored.content.pytest_log)
    return audited


def _sealed(part: RunDir, plan: Plan, stage: audit.AuditedStage, repeat: int, log: str) -> None:
    """Refuse a repeat whose attempt or result files are not as they were sealed."""
    test = stage.stage.test_key
    made = [one for one in sealed.attempts(part, test, repeat) if one.log == part.path / log]
    what = "its attempt is not as it was sealed"
    if made:
        counted = made[-1]
        what = result_files.changed(
            counted.basetemp, counted.result.evidence_sha256, result_files.named_by([stage.stage])
        )
    if what:
        raise not_mergeable(
            [f"{stage.stage.key} run {repeat} of {plan.run_id} is no evidence any more: {what}"],
            f"put the files back, or measure that repeat again: tune-mcp resume {plan.run_id} --purge "
            f"{stage.stage.key}:{repeat}:'evidence changed', then merge again",
        )


def _publish(staged: RunDir, run: RunDir) -> None:
    """One rename makes the run. Raises PLAN_EXISTS when its name was taken meanwhile."""
    sync_folder(staged.path)
    try:
        run.path.mkdir()
    except FileExistsError as error:
        raise Refusal(Code.PLAN_EXISTS, "SES-04", f"{run.run_id} exists already", "merge again in a second") from error
    staged.path.rename(run.path)
    sync_folder(run.path.parent)
