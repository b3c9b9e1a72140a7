"""``merge``: join partitions of one plan, measured by several runs, into one run directory.

Here is what makes runs partitions of one plan; ``merged_run`` builds their directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.contract.merge import MergedSource, MergeReply
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import has_digest, sha256_file
from tune_mcp.observe import audit
from tune_mcp.precheck import fingerprint
from tune_mcp.precheck.fingerprint import Environment
from tune_mcp.run_dir import RUNS_FOLDER, RunDir, utc_now
from tune_mcp.session import drift, events, state
from tune_mcp.session.plan import LaunchSettings, Plan, Source, stages_digest
from tune_mcp.session.provenance import GitState
from tune_mcp.supervise import comparing
from tune_mcp.verbs import equivalence, gates, merged_run
from tune_mcp.verbs.merged_run import Partition, not_mergeable, why_not_ready
from tune_mcp.verbs.project import Project

_OF_A_TEST = ("pytest_extra_args", "gpus_per_test", "timeout_s", "assets")
_OF_A_HOST = ("placement", "cleanup_command", "accept_unknown_gpus", "poll_interval_max_s", "ci_machine")


def merge(project: Project, runs: Sequence[str], label: str = "merged") -> MergeReply:
    """Join the runs (ids, or paths of run directories) into a new one. Raises NOT_MERGEABLE, UNKNOWN_RUN."""
    if len(runs) < 2:
        raise not_mergeable(["one run alone is nothing to join"], "name two runs or more: tune-mcp merge RUN RUN")
    found = [_partition(project, name) for name in runs]
    if reasons := list(_obstacles(found)):
        raise not_mergeable(
            reasons,
            "join runs of one plan: same commit, repeats and configuration, each stage in one run. A complete run "
            f"takes the present configuration over with: tune-mcp resume {found[0].plan.run_id}",
        )
    now = utc_now()
    plan = _joined(project, found, run_dir.new_id(label, now), label)
    _hold(project, plan)
    run = RunDir(project.repo_root / RUNS_FOLDER / plan.run_id)
    audited = merged_run.make(run, plan, found, now)
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


def _partition(project: Project, name: str) -> Partition:
    """A run that may be a part: ended, strict-ready, not applied, all of it as it was recorded."""
    run = _named(project, name)
    try:
        plan = project.plan(run)
    except Refusal as refusal:
        raise not_mergeable([refusal.message], refusal.next) from refusal
    run_id = plan.run_id
    if plan.legacy:
        raise not_mergeable(
            [f"{run_id} was made by an older script and has no ledger"],
            Step("measure these stages again: ", call("start_run", model=plan.model)),
        )
    if (now := state.conclude(run)).active:
        raise not_mergeable(
            [f"{run_id} is {now.state}: a run is joined when it has ended"],
            Step(call("status", run_id=run_id, wait_s=45), " until it is terminal"),
        )
    if any(journal.state in ("committed", "prepared") for _, journal in gates.journals(run)):
        raise not_mergeable(
            [f"thresholds of {run_id} are written into the test files already"],
            f"take that back first (tune-mcp apply {run_id} --undo PLAN_ID), or apply the other runs by themselves",
        )
    audited = audit.audit(run, plan)
    if not audited.ready:
        raise not_mergeable([f"{run_id} is not strict-ready: {why_not_ready(audited)}"], _resume(run_id))
    parts: list[tuple[RunDir, Source]] = []
    machine: Environment | None = None
    for part, own in plan.parts(run):
        as_recorded = has_digest(part.environment, events.ledger(part).environment_sha256 or "")
        kept = comparing.recorded_machine(part) if as_recorded else None
        if kept is None:
            raise not_mergeable(
                [f"environment.json of {own.run_id} is gone, or is not what was recorded"], _resume(run_id)
            )
        machine = machine or kept
        parts.append((part, _source(plan, part, own, kept)))
    assert machine is not None
    return Partition(run, plan, machine, tuple(parts))


def _resume(run_id: str) -> Step:
    return Step(call("resume_run", run_id=run_id), ", then merge again")


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
    if moved := drift.dirt_moved(_tree(b), a.planned_tree) or drift.dirt_moved(_tree(a), b.planned_tree):
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
        difference = ", ".join(unlike) or f"GPUs or driver {there.gpu_driver}, was {here.gpu_driver}"
        yield f"another fingerprint than {a.run_id}: {difference}"


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
        raise not_mergeable(
            [f"a commit that counts for one run does not for all: {why}"], "measure all at one commit"
        ) from why
