"""Make the plan of a run out of the project as it stands now, and see what a resumed run may take over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tune_mcp import __version__
from tune_mcp.actions import Step, call
from tune_mcp.config.host import AgentPolicy, HostProfile
from tune_mcp.config.model import ModelConfig, Preset
from tune_mcp.config.stages import Stage, StageTable
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import sha256_file
from tune_mcp.precheck import hub
from tune_mcp.precheck.catalogue import contradicted, stale_files, stale_words, unknown_metrics
from tune_mcp.precheck.subject import Needs, launch_settings
from tune_mcp.run_dir import RunDir, iso
from tune_mcp.session import plan as plans
from tune_mcp.session import provenance
from tune_mcp.session.drift import Baseline, config_digest, own_output
from tune_mcp.session.plan import Equivalence, LaunchSettings, Plan, stages_digest
from tune_mcp.session.provenance import GitState
from tune_mcp.supervise.rereading import HASHES
from tune_mcp.verbs.project import Interpreter, Project, gpus_per_test, recorded_in


def checked_stages(project: Project, model: str, keys: tuple[str, ...], table: StageTable) -> tuple[Stage, ...]:
    """The selected stages when the table is that of the tree. Raises STAGES_STALE, NEEDS_CONFIG or INVALID_CONFIG."""
    stages = tuple(table[key] for key in keys)
    again = Step(call("discover", model=model), ", then try again")
    if stale := stale_files(project.repo_root, stages):
        what = f"stages.yaml of {model} {stale_words(project.repo_root, stale)}"
        raise Refusal(Code.STAGES_STALE, ("DSC-02", "SMP-08"), what, again, {"files": [*stale]})
    unknown = unknown_metrics(stages)
    if unknown:
        raise Refusal(
            Code.NEEDS_CONFIG,
            ("HLT-07", "POL-06"),
            f"config does not say where these values are: {', '.join(unknown[:6])}",
            Step("add them under metric_sources in config.yaml, ", call("discover", model=model), ", then try again"),
            {"metrics": list(unknown)},
        )
    places = project.places
    try:
        odd = contradicted(project.repo_root, places.model(model), places.metric_rules(model), table, stages)
    except Refusal as refusal:
        raise places.located(model, refusal) from refusal
    if odd:
        what = f"stages.yaml of {model} differs from what discover finds: {', '.join(odd[:6])}"
        raise Refusal(Code.STAGES_STALE, ("DSC-01", "MOD-02"), what, again, {"fields": [*odd]})
    return stages


def file_hashes(project: Project, stages: tuple[Stage, ...]) -> dict[str, str]:
    """Digests of every test and threshold file of these stages, as they are now."""
    names = {name for stage in stages for name in (stage.test, stage.threshold_path)}
    return {name: sha256_file(project.repo_root / name) for name in sorted(names)}


def config_hashes(project: Project, model: str) -> dict[str, str]:
    """Digests of the catalogue's files: a run halts when they change under it (SES-11)."""
    return {str(path): config_digest(path) for path in project.places.model_files(model)}


def new_plan(
    project: Project,
    config: ModelConfig,
    stages: tuple[Stage, ...],
    *,
    run_id: str,
    repeats: int,
    lanes: int,
    label: str,
    git: GitState,
    diff_sha256: str | None,
    python: Interpreter,
    now: datetime,
) -> Plan:
    """Everything that the run fixes at its start."""
    rules = project.places.metric_rules(config.name)
    ours = _own_output(project)
    untracked = {name: sha for name, sha in git.untracked.items() if name not in ours}
    return Plan(
        tune_version=__version__,
        run_id=run_id,
        model=config.name,
        stages=tuple(stage.key for stage in stages),
        repeats=repeats,
        lanes=lanes,
        label=label,
        calibration_git_sha=git.head,
        git_branch=git.branch,
        dirty=bool(git.changed or untracked),
        diff_sha256=diff_sha256,
        changed=git.changed,
        untracked=untracked,
        apart=tuple(sorted({*ours, *_own_config(project, config.name)})),
        calibration_started_at=iso(now),
        repo_root=str(project.repo_root),
        venv_python=str(python.path),
        venv_source=python.source,
        host=project.host.name if project.host else None,
        config_dir=recorded_in(project),
        stages_sha256=stages_digest({stage.key: stage for stage in stages}),
        file_sha256=file_hashes(project, stages),
        config_sha256=config_hashes(project, config.name),
        catalogue={stage.key: stage for stage in stages},
        groups={stage.group: rules.policy(stage.group) for stage in stages},
        protected=tuple(one for group in (rules.file.protected, *rules.file.scope.values()) for one in group),
        preset_filters={test: preset.constant_filter for test, preset in _presets(config, stages).items()},
        report_only=tuple(test for test, preset in _presets(config, stages).items() if not preset.gate_thresholds),
        settings=_settings(project, config, stages),
    )


def _settings(project: Project, config: ModelConfig, stages: tuple[Stage, ...]) -> LaunchSettings:
    """What model and host add to each launch, as they stand now."""
    return LaunchSettings(
        env=launch_settings(config, project.host),
        pytest_extra_args=dict(config.pytest_extra_args),
        gpus_per_test=gpus_per_test(config, stages),
        timeout_s=dict(config.timeout_s),
        cache_wipes=config.cache_wipes,
        allow_mig=project.host.allow_mig if project.host else False,
        placement=project.placement,
        accept_unknown_gpus=project.accepts_unknown_gpus,
        cleanup_command=project.host.cleanup_command if project.host else (),
        venv_imports=config.venv_imports,
        ci_machine=config.ci_machine,
        signatures=project.places.signatures(config.name),
        poll_interval_max_s=(project.host.agent_policy if project.host else AgentPolicy()).poll_interval_max_s,
        test_outputs=config.test_outputs,
        tests_end_processes=config.tests_end_processes,
        assets=_assets(config, project.host, stages),
        slurm=project.cluster,
    )


def _assets(config: ModelConfig, host: HostProfile | None, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """The declared models and data sets: their revisions are a part of what is measured."""
    needs = Needs.of(config, host, stages)
    models = [hub.asset_named("model", name) for name in needs.model_ids]
    return (*models, *(hub.asset_named("dataset", name) for name in needs.datasets))


def _own_output(project: Project) -> tuple[str, ...]:
    root = project.repo_root
    return own_output(root, provenance.top_level(root) or root)


def _own_config(project: Project, model: str) -> tuple[str, ...]:
    root = project.repo_root
    return tuple(str(path.relative_to(root)) for path in project.places.model_files(model) if path.is_relative_to(root))


def _apart(project: Project, model: str) -> tuple[str, ...]:
    """Files of the tree that are no part of what is measured: our own output, and config, which has digests."""
    return tuple(sorted({*_own_output(project), *_own_config(project, model)}))


def present_tree(project: Project, run: RunDir, plan: Plan) -> Baseline:
    """What the tree must be for the run to go on: as planned, but for outputs that are known or declared by now."""
    tree = plans.launch_tree(run, plan)
    apart = (*tree.apart, *_apart(project, plan.model))
    return tree.model_copy(update={"apart": apart, "test_outputs": project.places.model(plan.model).test_outputs})


def _presets(config: ModelConfig, stages: tuple[Stage, ...]) -> dict[str, Preset]:
    """Test key -> its preset, for the stages that have one."""
    found: dict[str, Preset] = {}
    for stage in stages:
        source = config.metric_sources.get(stage.test.rpartition("/")[2])
        if source and stage.calibration_preset in source.calibration_presets:
            found[stage.test_key] = source.calibration_presets[stage.calibration_preset]
    return found


def wider_models(project: Project, config: ModelConfig) -> tuple[str, ...]:
    """Models that calibrate every test file of this one and more: a change to those files is theirs (MOD-09)."""
    mine = set(config.metric_sources)
    found: list[str] = []
    for name in project.places.model_names():
        try:
            theirs = set(project.places.model(name).metric_sources)
        except Refusal:
            continue  # catalog shows what is wrong with it
        if mine and mine < theirs:
            found.append(name)
    return tuple(found)


def amended(
    project: Project, plan: Plan, strict_tests: frozenset[str], git: GitState, proven: Equivalence | None
) -> Plan:
    """The plan with the catalogue, files and commit of the present tree.

    A halted run's cause may have been fixed (HLT-02). ``proven`` says that HEAD measures the same as the calibrated
    commit; None: it is that commit. A test that has a strict repeat keeps its definition: its files may differ by what
    was proven and by nothing else, so nothing that was measured under another definition is mixed in.
    Raises STAGES_CHANGED otherwise, and what ``checked_stages`` raises.
    """
    table = project.places.stages(plan.model)
    gone = [key for key in plan.stages if key not in table]
    if gone:
        raise _changed(f"stages.yaml no longer has {', '.join(gone)}")
    stages = checked_stages(project, plan.model, plan.stages, table)
    equivalents = plan.equivalents
    if proven and all(one.git_sha != proven.git_sha for one in equivalents):  # a verdict stays as it was first recorded
        equivalents += (proven,)
    dirty = {*plan.changed, *plan.untracked, *git.changed, *git.untracked}
    same_measurement = {name for one in equivalents for name in one.files} - dirty
    hashes = file_hashes(project, stages)
    other = {name for name, sha in hashes.items() if sha != plan.file_sha256.get(name)} - same_measurement
    catalogue: dict[str, Stage] = {}
    for new in stages:
        old = plan.catalogue[new.key]
        redefined = new.model_dump(exclude=set(HASHES)) != old.model_dump(exclude=set(HASHES))
        edited = sorted(other.intersection((new.test, new.threshold_path)))
        if (redefined or edited) and old.test_key in strict_tests:
            what = f"{new.key} is defined differently now" if redefined else f"{' and '.join(edited)} was edited"
            raise _changed(f"{what}, and {old.test_key} has strict repeats already", edited)
        undated = {"last_discovered_at"}
        catalogue[new.key] = old if new.model_dump(exclude=undated) == old.model_dump(exclude=undated) else new
    settings = _settings(project, project.places.model(plan.model), stages)
    if other_launch := strict_tests & launched_otherwise(plan, settings):
        named = ", ".join(sorted(other_launch))
        raise _changed(
            f"pytest_extra_args, gpus, environment or CPUs of {named} have changed, and it has strict repeats"
        )
    measured = {name: what for name, what in git.changed.items() if name in hashes}
    config = config_hashes(project, plan.model)
    fixed = {
        name for name, sha in (config | hashes).items() if sha != (plan.config_sha256 | plan.file_sha256).get(name)
    }
    return plan.model_copy(
        update={
            "catalogue": catalogue,
            "stages_sha256": stages_digest(catalogue),
            "file_sha256": hashes,
            "config_sha256": config,
            "fixed": tuple(sorted({*plan.fixed, *(name.removeprefix(f"{plan.repo_root}/") for name in fixed)})),
            "dirty": plan.dirty or bool(measured),
            "changed": {name: what for name, what in plan.changed.items() if name not in hashes} | measured,
            "apart": tuple(sorted({*plan.apart, *_apart(project, plan.model)})),
            "settings": settings,
            "equivalents": equivalents,
            "resumed_git_sha": proven.git_sha if proven else None,
        }
    )


def launched_otherwise(plan: Plan, settings: LaunchSettings) -> frozenset[str]:
    """The test keys of ``plan`` whose pytest would measure under other conditions with ``settings``."""

    def conditions(of: LaunchSettings, stage: Stage) -> tuple[object, ...]:
        arguments = of.pytest_extra_args.get(stage.test.rpartition("/")[2], ())
        gpus = of.gpus_per_test.get(stage.test_key)
        cpus = None if of.slurm else of.placement.cpus_for(gpus or 0)
        return of.env, of.cache_wipes, arguments, gpus, cpus, of.placement.cpu_set_variable if cpus else ""

    return frozenset(
        stage.test_key
        for stage in plan.catalogue.values()
        if conditions(plan.settings, stage) != conditions(settings, stage)
    )


def _changed(what: str, edited: Sequence[str] = ()) -> Refusal:
    back = "put it back, or commit it where only thresholds of this run differ; or " if edited else ""
    return Refusal(Code.STAGES_CHANGED, ("HLT-08", "STR-02"), what, Step(f"{back}start a new run: ", call("start_run")))
