"""``merge``: join partitions of one plan, measured by several runs, into one run directory.

The new directory holds each partition whole, byte for byte, below ``_sources/``, and links to its stages and logs where
any other run has them. It is built aside and renamed last. The partitions are read, never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.contract.merge import MergedSource, MergeReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, has_digest, open_plain, sha256_file, sync_folder, write_atomic
from tune_mcp.observe import audit, result_files
from tune_mcp.observe.audit import Audit
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.run_dir import IGNORE_ALL, IGNORE_FILE, RUNS_FOLDER, RunDir, utc_now
from tune_mcp.session import drift, events, state
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import LaunchSettings, Plan, Source, stages_digest
from tune_mcp.session.provenance import GitState
from tune_mcp.session.state import RunState
from tune_mcp.supervise import comparing, sealed
from tune_mcp.verbs import equivalence, gates
from tune_mcp.verbs.handover import record
from tune_mcp.verbs.project import Project

_ASIDE = ".merging"
_NOT_COPIED = frozenset({"supervisor.lock", "supervisor.reserve"})
_OF_A_TEST = ("pytest_extra_args", "gpus_per_test", "timeout_s", "assets")
_OF_A_HOST = ("placement", "cleanup_command", "accept_unknown_gpus", "poll_interval_max_s", "ci_machine")
_REASONS_SHOWN = 6


@dataclass(frozen=True)
class Partition:
    """One run to be joined; ``parts`` are its directories with what a merged plan says of each."""

    run: RunDir
    plan: Plan
    machine: Environment
    parts: tuple[tuple[RunDir, Source], ...]


def merge(project: Project, runs: Sequence[str], label: str = "merged") -> MergeReply:
    """Join the runs (ids, or paths of run directories) into a new one. Raises NOT_MERGEABLE, UNKNOWN_RUN."""
    if len(runs) < 2:
        raise _refusal(["one run alone is nothing to join"], "name two runs or more: tune-mcp merge RUN RUN")
    found = [_partition(project, name) for name in runs]
    if reasons := list(_obstacles(found)):
        raise _refusal(
            reasons,
            "join runs of one plan: same commit, repeats and configuration, each stage in one run. A complete run "
            f"takes the present configuration over with: tune-mcp resume {found[0].plan.run_id}",
        )
    now = utc_now()
    plan = _joined(project, found, run_dir.new_id(label, now), label)
    _hold(project, plan)
    run = RunDir(project.repo_root / RUNS_FOLDER / plan.run_id)
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
    return MergeReply(
        run_id=plan.run_id,
        run_dir=str(run.path),
        commit=plan.calibration_git_sha,
        repeats=plan.repeats,
        fingerprint=plan.sources[0].fingerprint,
        sources=tuple(MergedSource(run_id=one.run_id, host=one.host, stages=one.stages) for one in plan.sources),
        strict_ready=f"{audited.ready_stages}/{len(audited.stages)}",
        next=Step(call("report", run_id=plan.run_id)),
    )


def _refusal(reasons: Sequence[str], next: str | Step) -> Refusal:
    more = f"; and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
    text = f"{'; '.join(reasons[:_REASONS_SHOWN])}{more}"
    return Refusal(Code.NOT_MERGEABLE, (), text, next, {"reasons": [*reasons]})


def _partition(project: Project, name: str) -> Partition:
    """A run that may be a part: ended, strict-ready, not applied, all of it as it was recorded."""
    run = _named(project, name)
    try:
        plan = project.plan(run)
    except Refusal as refusal:
        raise _refusal([refusal.message], refusal.next) from refusal
    run_id = plan.run_id
    if plan.legacy:
        raise _refusal(
            [f"{run_id} was made by an older script and has no ledger"],
            Step("measure these stages again: ", call("start_run", model=plan.model)),
        )
    if (now := state.conclude(run)).active:
        raise _refusal(
            [f"{run_id} is {now.state}: a run is joined when it has ended"],
            Step(call("status", run_id=run_id, wait_s=45), " until it is terminal"),
        )
    if any(journal.state in ("committed", "prepared") for _, journal in gates.journals(run)):
        raise _refusal(
            [f"thresholds of {run_id} are written into the test files already"],
            f"take that back first (tune-mcp apply {run_id} --undo PLAN_ID), or apply the other runs by themselves",
        )
    audited = audit.audit(run, plan)
    if not audited.ready:
        raise _refusal([f"{run_id} is not strict-ready: {_first_gap(audited)}"], _resume(run_id))
    parts: list[tuple[RunDir, Source]] = []
    machine: Environment | None = None
    for part, own in plan.parts(run):
        as_recorded = has_digest(part.environment, events.ledger(part).environment_sha256 or "")
        kept = comparing.read(part) if as_recorded else None
        if kept is None:
            raise _refusal([f"environment.json of {own.run_id} is gone, or is not what was recorded"], _resume(run_id))
        machine = machine or kept
        parts.append((part, _source(plan, part, own, kept)))
    assert machine is not None
    return Partition(run, plan, machine, tuple(parts))


def _resume(run_id: str) -> Step:
    return Step(call("resume_run", run_id=run_id), ", then merge again")


def _first_gap(audited: Audit) -> str:
    gaps = audited.open_cells()
    if not gaps:
        return audited.git.line()
    key, repeat, cell = gaps[0]
    more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
    return f"{key} run {repeat} {cell.cell.value} {cell.reason}{more}"


def _named(project: Project, name: str) -> RunDir:
    """The run of that id, or the run directory at that path. Raises UNKNOWN_RUN."""
    if "/" not in name:
        return project.run(name)
    run = RunDir(Path(name).resolve())
    if not run.plan.is_file():
        raise Refusal(
            Code.UNKNOWN_RUN, "SES-06", f"{run.path} is no run directory", "name the folder that holds plan.json"
        )
    return run


def _source(plan: Plan, part: RunDir, own: Plan, machine: Environment) -> Source:
    known = next((one for one in plan.sources if one.run_id == own.run_id), None)
    return known or Source(
        run_id=own.run_id,
        stages=own.stages,
        ledger_sha256=sha256_file(part.events),
        host=machine.hostname,
        fingerprint=fingerprint.fingerprint(machine),
        repo_root=own.repo_root,
        started_at=own.calibration_started_at,
    )


def _obstacles(found: Sequence[Partition]) -> Iterator[str]:
    """Why these are not partitions of one plan, one clause each."""
    stages: dict[str, str] = {}
    runs: set[str] = set()
    for one in found:
        for _, source in one.parts:
            if source.run_id in runs:
                yield f"{source.run_id} is named twice"
                continue
            runs.add(source.run_id)
            for key in source.stages:
                if key in stages:
                    yield f"{key} was measured by {stages[key]} and by {source.run_id}"
                stages.setdefault(key, source.run_id)
    first = found[0]
    for other in found[1:]:
        yield from (f"{other.plan.run_id} has {what}" for what in _differences(first, other))


def _differences(one: Partition, other: Partition) -> Iterator[str]:
    a, b = one.plan, other.plan
    of = f"of {a.run_id}"
    for what, before, after in (
        ("the model", a.model, b.model),
        ("commit", a.calibration_git_sha, b.calibration_git_sha),
        ("repeats", a.repeats, b.repeats),
        ("plan schema", a.schema_version, b.schema_version),
        ("the configuration folder", a.config_dir, b.config_dir),
    ):
        if before != after:
            yield f"{what} {after}, not the {before} {of}"
    changed = _unlike(_config(a), _config(b), shared=False)
    if changed:
        yield f"another configuration than {a.run_id}: {', '.join(changed)}"
    for what, before, after in (
        ("policies of groups", a.groups, b.groups),
        ("measured files", a.file_sha256, b.file_sha256),
        ("filters of presets", a.preset_filters, b.preset_filters),
    ):
        if names := _unlike(before, after, shared=True):
            yield f"other {what} than {a.run_id}: {', '.join(names)}"
    if a.protected != b.protected:
        yield f"other protected names than {a.run_id}"
    if moved := drift.dirt_moved(_tree(b), a.launch_tree) or drift.dirt_moved(_tree(a), b.launch_tree):
        yield f"another tree than {a.run_id}: {', '.join(moved[:6])}"
    settings = (a.settings.model_dump(), b.settings.model_dump())
    names = [name for name in _unlike(*settings, shared=False) if name not in (*_OF_A_TEST, *_OF_A_HOST)]
    names += [
        f"{name} of {key}"
        for name in _OF_A_TEST[:3]
        for key in _unlike(settings[0][name], settings[1][name], shared=True)
    ]
    if names:
        yield f"other settings than {a.run_id}: {', '.join(names)}"
    here, there = one.machine, other.machine
    if fingerprint.fingerprint(here) != fingerprint.fingerprint(there):
        unlike = fingerprint.differences(here, there, any_host=True)
        told = ", ".join(unlike) or f"GPUs or driver {there.gpu_driver}, was {here.gpu_driver}"
        yield f"another fingerprint than {a.run_id}: {told}"


def _tree(plan: Plan) -> GitState:
    return GitState(plan.calibration_git_sha, plan.git_branch, plan.changed, plan.untracked, "", {})


def _unlike(a: Mapping[str, object], b: Mapping[str, object], *, shared: bool) -> list[str]:
    """The names under which the two differ; ``shared``: only those that both have."""
    names = a.keys() & b.keys() if shared else a.keys() | b.keys()
    return sorted(name for name in names if a.get(name) != b.get(name))


def _config(plan: Plan) -> dict[str, str]:
    """The digests of the catalogue's files by their place in the repository, wherever that was checked out."""
    root = f"{plan.repo_root}/"
    return {name.removeprefix(root): sha for name, sha in plan.config_sha256.items()}


def _joined(project: Project, found: Sequence[Partition], run_id: str, label: str) -> Plan:
    """The plan of all partitions. It starts nothing: what only a launch reads is that of the first."""
    plans_ = [one.plan for one in found]
    first = plans_[0]
    catalogue = {key: stage for plan in plans_ for key, stage in plan.table().items()}
    equivalents = {one.git_sha: one for plan in reversed(plans_) for one in plan.equivalents}
    settings = first.settings.model_dump()
    for plan in plans_[1:]:
        settings |= {name: {**getattr(plan.settings, name), **settings[name]} for name in _OF_A_TEST[:3]}
    settings["assets"] = tuple(dict.fromkeys(name for plan in plans_ for name in plan.settings.assets))
    return first.model_copy(
        update={
            "run_id": run_id,
            "label": label,
            "tune_version": ", ".join(dict.fromkeys(plan.tune_version for plan in plans_)),
            "host": ", ".join(dict.fromkeys(plan.host for plan in plans_ if plan.host)) or None,
            "repo_root": str(project.repo_root),
            "stages": tuple(catalogue),
            "catalogue": catalogue,
            "stages_sha256": stages_digest(catalogue),
            "calibration_started_at": min(plan.calibration_started_at for plan in plans_),
            "equivalents": tuple(equivalents.values()),
            "file_sha256": {name: sha for plan in plans_ for name, sha in plan.file_sha256.items()},
            "groups": {name: policy for plan in plans_ for name, policy in plan.groups.items()},
            "preset_filters": {name: one for plan in plans_ for name, one in plan.preset_filters.items()},
            "report_only": tuple(dict.fromkeys(name for plan in plans_ for name in plan.report_only)),
            "settings": LaunchSettings.model_validate(settings),
            "sources": tuple(source for one in found for _, source in one.parts),
        }
    )


def _hold(project: Project, plan: Plan) -> None:
    """A commit that was proven equivalent for one partition must be so for all."""
    try:
        equivalence.still_holds(project.repo_root, plan)
    except equivalence.NotEquivalent as why:
        raise _refusal(
            [f"a commit that counts for one run does not for all: {why}"], "measure all at one commit"
        ) from why


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
    told = ", ".join(f"{one.run_id} ({len(one.stages)} stages, {one.host})" for one in plan.sources)
    events.append(
        staged, "merged", now, f"joined from {told}",
        sources={one.run_id: one.ledger_sha256 for one in plan.sources}, by=[one.plan.run_id for one in found],
    )  # fmt: skip
    sha = sha256_file(staged.environment)
    events.append(staged, "environment", now, "the machine of the first partition", sha256=sha)
    text = f"{len(plan.stages)} stages × {plan.repeats}, from {len(plan.sources)} runs"
    plans.write(staged, plan, now, text)
    record(staged, RunState.FINISHED, now, f"joined from {told}")


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
        raise _refusal(
            [f"{path} went away while it was copied"], "end what writes into that run, then merge again"
        ) from error


def _copy_link(path: Path, target: Path, root: Path, new_root: Path) -> None:
    aim = Path(os.path.normpath(path.parent / path.readlink()))
    if aim.is_relative_to(root) and path.resolve().is_relative_to(root.resolve()):
        target.symlink_to(os.path.relpath(new_root / aim.relative_to(root), target.parent))
        shutil.copystat(path, target, follow_symlinks=False)
    elif any(part.startswith("basetemp") for part in path.relative_to(root).parts):
        target.symlink_to(path.readlink())  # a test's own; nothing that is sealed is read through it
    else:
        raise _refusal([f"{path} is a link out of its run"], "put the file or folder itself there, then merge again")


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
        raise _refusal([f"as copied, it is not strict-ready: {_first_gap(audited)}"], "merge again")
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
        raise _refusal(
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
