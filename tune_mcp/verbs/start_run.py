"""``start_run``: begin a fresh run; and the one question about what a caller left open (ASK-01 to ASK-09)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.config.stages import StageTable
from tune_mcp.contract.start_run import DEFAULT_REPEATS, MAX_REPEATS, RunReply
from tune_mcp.discover.aliases import ALL, aliases, base_of, expand
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_bytes, write_atomic
from tune_mcp.gpus import read_gpus
from tune_mcp.precheck.gates import BLOCKING
from tune_mcp.run_dir import RunDir
from tune_mcp.session import plan as plans
from tune_mcp.session import provenance
from tune_mcp.session.plan import Plan
from tune_mcp.verbs import apply_recovery, halts, run_plan
from tune_mcp.verbs.handover import launched, plan_line
from tune_mcp.verbs.machine import comparable_or_refuse
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project, gpus_per_test
from tune_mcp.verbs.share import Share, demand_lanes
from tune_mcp.words import number_of


def only_model(project: Project) -> str | None:
    """The model that needs no question, because there is no other (ASK-07)."""
    names = project.places.model_names()
    return names[0] if len(names) == 1 else None


def unnamed(project: Project) -> Refusal:
    """The answer to a call without a model, from a client that cannot ask: the same question, as text."""
    names = project.places.model_names()
    return Refusal(
        Code.INVALID_ARGUMENT,
        ("ASK-01", "ASK-02"),
        f"no model is named; there are {', '.join(names) or 'none'}",
        Step("ask the user this once, then ", call("start_run"), f" with the answer:\n{question(project)}"),
        {"argument": "model", "models": [*names]},
    )


def question(project: Project) -> str:
    """Everything that can be chosen, model by model, one line a test file."""
    lines = ["Which model and which tests shall be calibrated, and how often each? Stages, with commas between them:"]
    for name in project.places.model_names():
        try:
            table = project.places.stages(name)
        except Refusal:
            lines.append(f"{name}: not discovered yet")
            continue
        lines += [f"{name}:", *(f"  {line}" for line in choices(table))]
    return "\n".join(lines)


def choices(table: StageTable) -> Iterator[str]:
    """ALL, then a line a base with its file and groups, then what else can be said (ASK-03, ASK-04)."""
    yield f"{ALL}: every stage ({len(table)})"
    files: dict[str, tuple[str, list[str]]] = {}
    for stage in table.values():
        groups = files.setdefault(base_of(stage), (stage.test, []))[1]
        if stage.group not in groups:
            groups.append(stage.group)
    for base, (test, groups) in files.items():
        yield f"{base}: {test} ({', '.join(groups)})"
    groups = [alias for alias in aliases(table) if alias.startswith("@")]
    yield "of all tests: " + ", ".join(groups)
    yield "with commas, for example: " + ", ".join([*files][:1] + groups[-1:])


def start_run(
    project: Project,
    model: str,
    stages: Sequence[str] = ("ALL",),
    repeats: int = DEFAULT_REPEATS,
    label: str | None = None,
    lanes: int = 1,
) -> RunReply:
    """A fresh run on the present HEAD; returns while its precheck runs.

    ``lanes`` is how many of the host profile's lanes it uses at once, 0 for all that are there.

    Raises UNKNOWN_MODEL, UNKNOWN_STAGE, INVALID_ARGUMENT, INVALID_CONFIG, LANE_UNKNOWN, NO_HEAD, STAGES_STALE,
    NEEDS_CONFIG, PRECHECK_FAILED, HOST_NOT_COMPARABLE, HALT_UNRESOLVED, RUN_ACTIVE, HOST_BUSY. A refusal leaves nothing
    behind.
    """
    if not 1 <= repeats <= MAX_REPEATS:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "RTY-07",
            f"repeats must be a whole number from 1 to {MAX_REPEATS}, not {repeats!r}",
            Step(call("start_run", model=model, repeats=DEFAULT_REPEATS), ", or leave it out"),
            {"argument": "repeats"},
        )
    apply_recovery.settle(project)
    config = project.places.model(model)
    table = project.places.stages(model)
    keys = expand(stages, table)
    chosen = run_plan.checked_stages(project, model, keys, table)
    demand_lanes(project.host, project.placement, gpus_per_test(config, chosen).values(), lanes)
    git = provenance.read(project.repo_root)
    diff = provenance.diff(project.repo_root) if git.changed else b""
    python = project.interpreter(config)
    if python.path is None:
        raise _not_this_machine(project, model, keys)
    comparable_or_refuse(project.subject(config, chosen), read_gpus)
    halts.none_open(project, model, git.head)
    name = _label(model, keys, len(table), repeats) if label is None else label

    def plan_of(run_id: str, now: datetime) -> Plan:
        return run_plan.new_plan(
            project,
            config,
            chosen,
            run_id=run_id,
            repeats=repeats,
            lanes=lanes,
            label=name,
            git=git,
            diff_sha256=sha256_bytes(diff) if diff else None,
            python=python,
            now=now,
        )

    share = Share.of(plan_of("", run_dir.utc_now()))
    started = launched(
        project,
        share,
        lambda run, now: _write_new(run, plan_of(run.run_id, now), diff, now),
        lambda now: run_dir.create(project.repo_root, name, now),
    )
    wider = run_plan.wider_models(project, config)
    notes = [f"it has this machine for itself, one launch at a time: {share.why_alone}"] if share.why_alone else []
    notes += [f"model {wide} also has these test files: a change to it is calibrated with that model" for wide in wider]
    return started.model_copy(update={"notes": tuple(notes)})


def _not_this_machine(project: Project, model: str, keys: tuple[str, ...]) -> Refusal:
    """Without the project's Python there is nothing to start: list every failed check, as precheck does."""
    failed = [check for check in precheck(project, model, keys).checks if check.status in BLOCKING]
    return Refusal(
        Code.PRECHECK_FAILED,
        ("PRE-01", "HST-04"),
        f"this machine cannot measure {model}, {number_of(len(failed), 'check')} failed: "
        + "; ".join(f"{one.id} {one.status} ({one.detail})" for one in failed),
        Step(
            failed[0].fix or "see below",
            ", or give --venv-python or TUNE_VENV_PYTHON; every fix is listed: ",
            call("precheck", model=model),
        ),
        {"gaps": [{"id": one.id, "status": one.status, "detail": one.detail, "fix": one.fix} for one in failed]},
    )


def _label(model: str, keys: tuple[str, ...], all_stages: int, repeats: int) -> str:
    scope = "all" if len(keys) == all_stages else keys[0] if len(keys) == 1 else f"{len(keys)}-stages"
    return f"{model}_{scope}_r{repeats}"[:60]


def _write_new(run: RunDir, plan: Plan, diff: bytes, now: datetime) -> Plan:
    if diff:
        write_atomic(run.workspace_diff, diff)
    plans.write(run, plan, now, plan_line(run, plan))
    return plan
