"""``plan.json``: what a run set out to do, fixed before its first pytest and never changed (rules SES-13, STR-20).

The plan holds a snapshot of the stage catalogue and of the groups' policy: an edit of stages.yaml after the fact
cannot change which metrics count, which extreme is the worst, or where a value is written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from tune_mcp.actions import Step, call
from tune_mcp.config.fields import CiMachine
from tune_mcp.config.host import SlurmSettings
from tune_mcp.config.lanes import Placement
from tune_mcp.config.signatures import OwnSignatures
from tune_mcp.config.stages import Frozen, GroupPolicy, Stage, StageTable
from tune_mcp.errors import Code, Json, Refusal
from tune_mcp.files import digest, dump_json, parse_json, read_plain, sha256_bytes, sync_folder, write_atomic
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.session.drift import Baseline
from tune_mcp.words import named, number_of

SCHEMA_VERSION = 1
OlderCatalogue = tuple[StageTable, dict[str, GroupPolicy]]
Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]


class LaunchSettings(Frozen):
    """What the model and the host add to every launch, and per test file; fixed with the plan.

    ``poll_interval_max_s`` is the host's own ceiling for looks at a run (POL-10). ``assets`` are the declared models
    and data sets, each as its kind and its name. ``slurm`` is how launches reach other machines, None: they run here.
    """

    env: dict[str, str] = Field(default_factory=dict)
    pytest_extra_args: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    gpus_per_test: dict[str, int] = Field(default_factory=dict)
    timeout_s: dict[str, float] = Field(default_factory=dict)
    cache_wipes: tuple[str, ...] = ()
    allow_mig: bool = False
    placement: Placement = Field(default_factory=Placement)
    accept_unknown_gpus: bool = False
    cleanup_command: tuple[str, ...] = ()
    venv_imports: tuple[str, ...] | None = None
    ci_machine: CiMachine = Field(default_factory=CiMachine)
    signatures: OwnSignatures = Field(default_factory=OwnSignatures)
    poll_interval_max_s: int = Field(default=120, ge=1, le=120)
    test_outputs: tuple[str, ...] = ()
    tests_end_processes: str = ""
    assets: tuple[str, ...] = ()
    slurm: SlurmSettings | None = None


NO_VALUE = "none"
"""``ChangedLiteral.old`` of a threshold that had no value."""


class ChangedLiteral(Frozen):
    """A threshold literal that two commits write differently, as its file spells it."""

    file: str
    source: str
    old: str
    new: str


class Equivalence(Frozen):
    """The verdict that a commit measures the same as the calibrated one, and the evidence for it (RES-02).

    The trees differ in ``literals`` of ``files``, which the plan tracks, in our ``config_files``, and in nothing else.
    """

    git_sha: Sha
    calibration_git_sha: Sha
    proved_at: str
    files: tuple[str, ...]
    literals: tuple[ChangedLiteral, ...]
    config_files: tuple[str, ...]

    def sentence(self) -> str:
        """The verdict for people."""
        changed = named([f"{one.file}:{one.source} {one.old} -> {one.new}" for one in self.literals])
        return (
            f"{self.git_sha} is measurement-equivalent to {self.calibration_git_sha}: "
            f"{number_of(len(self.literals), 'threshold literal')} of this plan changed"
            f"{f' ({changed})' if changed else ''}, "
            f"{number_of(len(self.config_files), 'file')} of tune-mcp's configuration, nothing else"
        )


class Source(Frozen):
    """A run that a merged one was made of: which stages are its own, and the digest of its ledger (events.jsonl).

    ``host`` and ``fingerprint`` are where it was measured; ``repo_root`` and ``started_at`` as its own plan has them.
    """

    run_id: str
    stages: tuple[str, ...] = Field(min_length=1)
    ledger_sha256: str
    host: str
    fingerprint: str
    repo_root: str
    started_at: str


class Plan(Frozen):
    """One run: model, stages, repeats, the commit, the interpreter, the host, and the hashes of what it measures.

    ``lanes`` is how many repeats may run at the same time, each on a lane of the host; 0 for as many as there are.
    ``catalogue`` has exactly the selected stages, in order. ``file_sha256`` maps every test and threshold file
    (relative to the repository root) to its digest, ``config_sha256`` the files of the catalogue (absolute).
    ``fixed`` are those of both that were changed before the run was resumed.
    ``changed`` maps tracked files that are not the commit's, ``untracked`` those that git does not know, to digests.
    ``apart`` are files of the tree that hold the output of those who started the run (``tune-mcp run | tee x.txt``).
    ``equivalents`` are commits that resume_run proved to measure the same; ``resumed_git_sha`` is the one that it went
    on from last, None for the calibrated commit itself.
    ``protected`` are name patterns that are never written; ``preset_filters`` maps a test key to the pattern that
    its preset's symbols match; ``report_only`` are test keys whose thresholds no test asserts.
    ``sources`` are the partitions that a merged run consists of; it measures nothing itself.
    ``legacy`` marks a run of the older script: readable, never continued.
    """

    schema_version: int = SCHEMA_VERSION
    tune_version: str
    run_id: str
    model: str
    stages: tuple[str, ...] = Field(min_length=1)
    repeats: int = Field(ge=1)
    lanes: int = Field(default=1, ge=0)
    label: str = ""
    calibration_git_sha: Sha
    git_branch: str
    dirty: bool = False
    diff_sha256: str | None = None
    changed: dict[str, str] = Field(default_factory=dict)
    untracked: dict[str, str] = Field(default_factory=dict)
    apart: tuple[str, ...] = ()
    equivalents: tuple[Equivalence, ...] = ()
    resumed_git_sha: Sha | None = None
    calibration_started_at: str
    repo_root: str
    venv_python: str
    venv_source: str
    host: str | None = None
    config_dir: str | None = None
    stages_sha256: str
    file_sha256: dict[str, str]
    config_sha256: dict[str, str] = Field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    catalogue: dict[str, Stage]
    groups: dict[str, GroupPolicy]
    protected: tuple[str, ...] = ()
    preset_filters: dict[str, str] = Field(default_factory=dict)
    report_only: tuple[str, ...] = ()
    settings: LaunchSettings
    sources: tuple[Source, ...] = ()
    legacy: bool = Field(default=False, exclude=True)

    @property
    def commits(self) -> frozenset[str]:
        """The commits whose artifacts count: the calibrated one and those proven equivalent, no other."""
        return frozenset({self.calibration_git_sha, *(one.git_sha for one in self.equivalents)})

    @property
    def planned_tree(self) -> Baseline:
        """What every launch must find."""
        return Baseline(
            git_sha=self.resumed_git_sha or self.calibration_git_sha,
            changed=self.changed,
            untracked=self.untracked,
            file_sha256=self.file_sha256,
            config_sha256=self.config_sha256,
            apart=self.apart,
            test_outputs=self.settings.test_outputs,
        )

    def table(self) -> StageTable:
        """The selected stages in plan order."""
        return {key: self.catalogue[key] for key in self.stages}

    def tests(self) -> dict[str, tuple[Stage, ...]]:
        """Test key -> the stages that one pytest invocation feeds, in plan order (rules STR-16, STG-06)."""
        found: dict[str, list[Stage]] = {}
        for stage in self.table().values():
            found.setdefault(stage.test_key, []).append(stage)
        return {test: tuple(stages) for test, stages in found.items()}

    def parts(self, run: RunDir) -> tuple[tuple[RunDir, Plan], ...]:
        """The directories in which launches, ledger and machine stand, each with the part of the plan measured there.

        A run that is not merged is its own only part.
        """
        return tuple(
            (
                run.source(one.run_id),
                self.model_copy(update={"run_id": one.run_id, "stages": one.stages, "sources": ()}),
            )
            for one in self.sources
        ) or ((run, self),)


def launch_tree(run: RunDir, plan: Plan) -> Baseline:
    """What every launch must find, without the untracked files that this run's tests were seen to write."""
    learned: set[str] = set()
    for event in events.read(run.events, "appeared"):
        names = event.facts.get("rewritten")
        if isinstance(names, list):
            learned |= {str(name) for name in names} & set(plan.untracked)
    return plan.planned_tree.model_copy(update={"apart": (*plan.apart, *sorted(learned))})


def stages_digest(table: StageTable) -> str:
    """Digest of a stage catalogue, without the time at which it was made."""
    return digest({key: stage.model_dump(exclude={"last_discovered_at"}, mode="json") for key, stage in table.items()})


def write(run: RunDir, plan: Plan, now: datetime, text: str) -> None:
    """Write plan.json once, after its digest is on the ledger with ``text``: with the file the run exists (SES-04).

    Raises PLAN_EXISTS.
    """
    if run.plan.exists():
        raise Refusal(
            Code.PLAN_EXISTS,
            "SES-04",
            f"{run.plan} exists already",
            Step(call("start_run"), ", which makes a new directory"),
        )
    data = dump_json(plan.model_dump(mode="json"))
    events.append(run, "planned", now, text, sha256=sha256_bytes(data))
    write_atomic(run.plan, data)


def amend(run: RunDir, plan: Plan, now: datetime, text: str) -> None:
    """Replace plan.json. The new one lies ready before the ledger names it, so that a crash loses neither."""
    if _pending(run, events.ledger(run)) is not None:
        run.next_plan.replace(run.plan)
    data = dump_json(plan.model_dump(mode="json"))
    write_atomic(run.next_plan, data)
    events.append(run, "planned", now, text, sha256=sha256_bytes(data))
    run.next_plan.replace(run.plan)
    sync_folder(run.path)


def load(run: RunDir, older_catalogue: Callable[[str], OlderCatalogue], ledger: events.Ledger | None = None) -> Plan:
    """Read a plan and compare it with the ledger. Raises PLAN_TAMPERED for a changed or unreadable one.

    ``older_catalogue(model)`` supplies the catalogue for a run of the older script, which kept no snapshot. A caller
    that has just read the ledger hands it in.
    """
    ledger = ledger or events.ledger(run)
    data = _pending(run, ledger) or read_plain(run.plan)
    try:
        value = parse_json(data)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if "schema_version" not in value and not _ours(run, ledger):
            return _load_older(run, value, older_catalogue)
        plan = Plan.model_validate(value)
    except ValueError as error:
        raise _tampered(run, f"cannot be read: {str(error).splitlines()[0]}") from error
    recorded = ledger.plan_sha256
    if recorded != sha256_bytes(data):
        raise _tampered(run, "is not the file that start_run wrote" if recorded else "has no entry in events.jsonl")
    if plan.run_id != run.run_id:
        raise _tampered(run, f"is the plan of {plan.run_id}: a run directory is neither copied nor renamed")
    return plan


def _pending(run: RunDir, ledger: events.Ledger) -> bytes | None:
    """The new plan of an amendment whose last step a crash prevented: the ledger names it, plan.json is the old one."""
    if ledger.plan_sha256 is None or not run.next_plan.is_file():
        return None
    data = read_plain(run.next_plan)
    return data if ledger.plan_sha256 == sha256_bytes(data) else None


def _ours(run: RunDir, ledger: events.Ledger) -> bool:
    """Whether start_run made this run: the older script left neither a record nor a plan in the ledger."""
    return run.supervisor.exists() or ledger.plan_sha256 is not None


def _tampered(run: RunDir, what: str) -> Refusal:
    return Refusal(
        Code.PLAN_TAMPERED,
        ("SES-13", "STR-20"),
        f"plan.json of {run.run_id} {what}",
        Step("start a new run: ", call("start_run"), "; the results of this one can no longer be trusted"),
        {"run_id": run.run_id},
    )


def _load_older(
    run: RunDir,
    value: dict[str, Json],
    older_catalogue: Callable[[str], OlderCatalogue],
) -> Plan:
    def text(*keys: str, default: str = "") -> str:
        return next((found for key in keys if isinstance(found := value.get(key), str)), default)

    names, repeats = value.get("stages"), value.get("repeats")
    if not isinstance(names, list) or not names or not isinstance(repeats, int) or isinstance(repeats, bool):
        raise ValueError("stages or repeats are missing")
    keys = tuple(str(name) for name in names)
    table, groups = older_catalogue(text("model"))
    unknown = [key for key in keys if key not in table]
    if unknown:
        raise Refusal(
            Code.STAGES_CHANGED,
            "STR-02",
            f"{run.run_id} names stages that the catalogue of {text('model')} does not have: {', '.join(unknown)}",
            Step(call("discover"), " on the tree that the run measured"),
            {"stages": list(unknown)},
        )
    chosen = {key: table[key] for key in keys}
    return Plan(
        tune_version=text("tune_version", default="tune.py"),
        run_id=run.run_id,
        model=text("model"),
        stages=keys,
        repeats=repeats,
        calibration_git_sha=text("calibration_git_sha", "git_sha"),
        git_branch=text("git_branch", default="?"),
        dirty=bool(value.get("dirty")),
        calibration_started_at=text("calibration_started_at", "timestamp", default="?"),
        repo_root=str(run.repo_root),
        venv_python=text("venv_python", default="?"),
        venv_source=text("venv_source", default="?"),
        stages_sha256=stages_digest(chosen),
        file_sha256={name: sha for stage in chosen.values() for name, sha in stage.file_sha256.items()},
        catalogue=chosen,
        groups=groups,
        settings=LaunchSettings(),
        legacy=True,
    )
