"""``init``: a model's config.yaml and stages from a repository's own tests, filled from one real run of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from tune_mcp.actions import Step, call
from tune_mcp.config.loader import NAME, REPO_PLACE
from tune_mcp.config.metrics import load_metric_rules
from tune_mcp.config.model import ModelConfig
from tune_mcp.config.yaml_source import read_yaml
from tune_mcp.contract.init import InitReply
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.coverage import pytest_files
from tune_mcp.discover.propose import ConfigProposal, TestPlan, config_proposal, config_text, filled
from tune_mcp.discover.stages import discover as read_tests
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import inside, is_locked, read_plain, write_atomic
from tune_mcp.gpus import Presence, read_gpus
from tune_mcp.run_dir import RECORD_FILE, RunDir
from tune_mcp.session import state
from tune_mcp.supervise import guard_record, sealed
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run

_WAIT_S = 10
_BOUNDS = {"min": "lower", "max": "upper"}
_LEAVING_S, _LOOK_EVERY_S = 10.0, 0.05
"""How long a supervisor may take to leave after its last word."""
_THREE_LINES = """\
it names no place for its value. Either let the test write its numbers into a JSON file below tmp_path, or add:
    def test_...(..., tune_record):            # the fixture
        tune_record("{metric}", <the measured value>)   # before the assert
    # and in conftest.py, for where tune-mcp is not installed:
    @pytest.fixture
    def tune_record(record_property): return record_property"""

_MAYBE = (
    "it may be at {places}, but {why}: write the right one into config.yaml, or let the test hand over what it "
    'compares, with tune_record("{metric}", <the measured value>) before the assert'
)


@dataclass(frozen=True)
class Asked:
    """What the caller asks for: ``places`` by metric, as ``file::dotted.path``; ``replace`` an existing config.yaml."""

    run: bool = False
    replace: bool = False
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    agreed: Callable[[str], bool] = lambda _text: True


def init(project: Project, tests: Sequence[str], model: str, asked: Asked | None = None) -> InitReply:
    """Read the tests, write config and catalogue, and with ``asked.run`` measure once to find the values.

    Where no run can start, the files are as they were before; where a later one fails, what the earlier ones found is
    written.

    Raises INVALID_ARGUMENT for tests that are no files of the repository, and for a model that is configured already or
    whose name no folder may have,
    NO_THRESHOLDS where no test asserts a number that has a name, and what ``start_run`` raises.
    """
    asked = asked or Asked()
    if not NAME.fullmatch(model):
        step = "name it with letters, digits, '_', '.' and '-', a letter or digit first"
        raise _invalid(f"{model!r} cannot be the name of a model", step, "model")
    path = project.repo_root / REPO_PLACE / "models" / model / "config.yaml"
    if os.path.lexists(path) and not asked.replace:
        step = Step(call("discover", model=model), " to read the tests again, or add --replace to write the file anew")
        raise _invalid(f"{path} is there already", step, "model")
    plan = _read(project, _files(project, tests), model)
    if not plan.tests:
        raise Refusal(
            Code.NO_THRESHOLDS,
            "DSC-14",
            "no test asserts a measured value against a number that has a name: "
            + ("; ".join(plan.problems[:6]) or "no test file was found"),
            "compare the measured value with a constant at the top of the test file, as `assert acc >= ACC_MIN`; "
            'hand over a value that the test computes first: tune_record("acc", acc), a fixture that tune-mcp brings',
            {"problems": [*plan.problems]},
        )
    plan = _with_kept(replace(plan, tests=tuple(_named(test, asked.places) for test in plan.tests)), path)
    without_gpu = _without_gpu(project, plan)
    if not asked.agreed(config_text(plan)):
        return _reply(plan, path, without_gpu, written=False, run_id=None)
    runs: list[str] = []
    unreached: dict[str, _Unreached] = {}
    halting: dict[str, _Unreached] = {}
    files = (path, path.with_name("stages.yaml"))
    before = {file: read_plain(file) if file.exists() else None for file in files}
    try:
        if asked.run:
            # Every metric has a place for now, so that a run may begin; it halts where the test wrote none there.
            _write(project, path, replace(plan, tests=tuple(map(_provisional, plan.tests))))
            for number, test in enumerate(plan.tests):
                stages = [key for key, one in project.places.stages(model).items() if one.test == test.path]
                runs.append(start_run(project, model, stages, 1, "init").run_id)
                run = _measured(project, runs[-1])
                found = _looked(project, run, test, asked)
                if not guard_record.read(run.guard_record(test.name.removesuffix(".py"), 1)).called:
                    found, unreached[test.name] = test, _ended(run, test, without_gpu)
                plan = replace(plan, tests=(*plan.tests[:number], found, *plan.tests[number + 1 :]))
                after = (_provisional(one) for one in plan.tests[number + 1 :])
                _write(project, path, replace(plan, tests=(*plan.tests[: number + 1], *after)))
                halt = _closed(project, runs[-1], found)
                if halt and test.name not in unreached:
                    halting[test.name] = halt
        _write(project, path, plan)
    except BaseException:
        if runs:
            _write(project, path, plan)
        else:
            _put_back(before)
        raise
    run_id = runs[-1] if runs else None
    return _reply(plan, path, without_gpu, written=True, run_id=run_id, unreached=unreached, halting=halting)


def _put_back(before: Mapping[Path, bytes | None]) -> None:
    """The files as they were, and no folder that only they needed."""
    for path, data in before.items():
        if data is not None:
            write_atomic(path, data)
            continue
        path.unlink(missing_ok=True)
        for folder in list(path.parents)[:3]:
            with suppress(OSError):
                folder.rmdir()


def _files(project: Project, tests: Sequence[str]) -> list[str]:
    """The test files that are meant, relative to the repository; without any, all that pytest would collect."""
    root = project.repo_root
    found: list[str] = []
    for word in tests or ("tests", "test", "."):
        try:
            path = inside(root, str((Path.cwd() / word).relative_to(root)) if Path(word).is_absolute() else word)
        except ValueError as error:
            raise _invalid(f"{word} is not inside {root}", "name test files of the repository", "tests") from error
        if path.is_dir():
            found += pytest_files(root, path)
        elif path.is_file() and path.suffix == ".py":
            found.append(path.relative_to(root).as_posix())
        elif tests:
            raise _invalid(f"there is no test file {word} in {root}", "name test files of the repository", "tests")
        if found and not tests:
            break
    return list(dict.fromkeys(found))


def _read(project: Project, paths: list[str], model: str) -> ConfigProposal:
    python = _python(project)
    if not paths:
        return ConfigProposal(model, python, ())
    config = ModelConfig(name=model, test_globs=tuple(paths))
    rules = load_metric_rules()
    found = read_tests(config, rules.without_names(), project.repo_root, None, datetime.now(UTC))
    return config_proposal(model, python, found, rules, AssertionReader(project.repo_root))


def _python(project: Project) -> str | None:
    """The interpreter of the project, relative to it where it lies inside."""
    named = project.options.venv_python or project.env.get("TUNE_VENV_PYTHON")
    if named:
        return named
    for place in (".venv/bin/python", "venv/bin/python"):
        if (project.repo_root / place).exists():
            return place
    own = project.env.get("VIRTUAL_ENV")
    return str(Path(own) / "bin" / "python") if own else sys.executable


def _named(test: TestPlan, places: Mapping[str, str]) -> TestPlan:
    limits = (replace(one, place=places.get(one.metric, one.place)) for one in test.limits)
    return replace(test, limits=tuple(limits))


def _with_kept(plan: ConfigProposal, path: Path) -> ConfigProposal:
    """The plan with what a person can only say there: ``gpus_per_test`` and ``test_outputs`` of the standing config."""
    if not path.is_file():
        return plan
    try:
        source = read_yaml(path)
        before = source.check(ModelConfig, {"name": plan.model} | source.data)
    except Refusal:
        before = None
    if before is None:
        note = "gpus_per_test and test_outputs are proposed anew: config.yaml as it stood could not be read"
        return replace(plan, problems=(*plan.problems, note))
    tests = (replace(test, gpus=before.gpus_per_test.get(test.name, test.gpus)) for test in plan.tests)
    return replace(plan, tests=tuple(tests), test_outputs=before.test_outputs)


def _provisional(test: TestPlan) -> TestPlan:
    limits = (replace(one, place=one.place or f"{RECORD_FILE}::{one.metric}") for one in test.limits)
    return replace(test, limits=tuple(limits))


def _write(project: Project, path: Path, plan: ConfigProposal) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, config_text(plan).encode())
    discover(project, plan.model, with_coverage=False)


def _measured(project: Project, run_id: str) -> RunDir:
    run = project.run(run_id)
    while not state.conclude(run).state.at_rest:
        status(project, run_id, _WAIT_S)
    until = time.monotonic() + _LEAVING_S
    while is_locked(run.supervisor_lock) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
    return run


def _looked(project: Project, run: RunDir, test: TestPlan, asked: Asked) -> TestPlan:
    key = test.name.removesuffix(".py")
    failures = guard_record.read(run.guard_record(key, 1)).failures
    failed = tuple(one.nodeid.partition("::")[2].partition("[")[0] for one in failures)  # their names below the file
    return filled(test, run.basetemp(key, 1), failed, asked.places)


@dataclass(frozen=True)
class _Unreached:
    """Why a run came to no test, for people, and what to do about it where that is known."""

    why: str
    step: str


def _ended(run: RunDir, test: TestPlan, without_gpu: Collection[str]) -> _Unreached:
    record = state.conclude(run).record
    reason = record.reason if record else "its supervisor is gone"
    step = _no_gpu(test.name) if test.name in without_gpu else ""
    if record and record.halt:
        # What this run could do on the tree as it was is no way on: init ends it.
        ways = [one.result.way_out for one in sealed.attempts(run, test.name.removesuffix(".py"), 1)]
        step = (ways[-1] if ways else "") or record.halt.next
    return _Unreached(f"{reason}; its log: {run.path}/_pytest", step)


def _no_gpu(test: str) -> str:
    return f"if {test} needs no GPU, write {test}: 0 below gpus_per_test in config.yaml"


def _closed(project: Project, run_id: str, plan: TestPlan) -> _Unreached | None:
    """Let the run take its values from where they are now known to be, or end it: a halt would block the next.

    Returns why it halts although every value has a place.
    """
    if state.conclude(project.run(run_id)).state not in (state.RunState.HALTED, state.RunState.EXHAUSTED):
        return None
    if plan.complete:
        try:
            resume_run(project, run_id)
            _measured(project, run_id)
        except Refusal:
            pass
    run, found = project.run(run_id), None
    now = state.conclude(run)
    if now.state in (state.RunState.HALTED, state.RunState.EXHAUSTED):
        of_values = now.record is None or now.record.halt is None or now.record.halt.rule.startswith("HLT")
        found = _ended(run, plan, ()) if plan.complete and not of_values else None
        stop_run(project, run_id, "init has seen what it leaves")
    return found


def _reply(
    plan: ConfigProposal,
    path: Path,
    without_gpu: Sequence[str],
    *,
    written: bool,
    run_id: str | None,
    unreached: Mapping[str, _Unreached] | None = None,
    halting: Mapping[str, _Unreached] | None = None,
) -> InitReply:
    unreached, halting = unreached or {}, halting or {}
    limits = [(test, limit) for test in plan.tests for limit in test.limits]
    missing = [
        f"{limit.metric} ({test.name}: {limit.source}): "
        + (
            _MAYBE.format(places=", ".join(map(str, limit.maybe)), why=limit.why, metric=limit.metric)
            if limit.maybe
            else "known after a run; --run runs the test once and looks"
            if run_id is None
            else f"not known, since no test of that file was measured: {unreached[test.name].why}"
            if test.name in unreached
            else _THREE_LINES.format(metric=limit.metric)
        )
        for test, limit in limits
        if not limit.place
    ]
    shown = (
        f"{test.name}: {limit.source} is the {_BOUNDS[limit.gate.worst]} bound of {limit.metric}, read from "
        + (limit.place or "a place not known yet")
        for test, limit in limits
    )
    elsewhere = [test.name for test in plan.tests if test.name in unreached and test.complete]
    steps = (
        [one.step for one in (*unreached.values(), *halting.values())]
        if run_id
        else [_no_gpu(name) for name in without_gpu]
    )
    notes = [f"this machine has no GPU, and each launch of {name} takes one: {_no_gpu(name)}" for name in without_gpu]
    notes += [
        f"no test of {name} was measured, so its places are as its code says: {unreached[name].why}"
        for name in elsewhere
    ]
    notes += [f"a run of {name} halts: {one.why}" for name, one in halting.items()]
    return InitReply(
        model=plan.model,
        path=str(path),
        written=written,
        config=config_text(plan),
        thresholds=tuple(shown),
        missing=tuple(missing),
        notes=(*plan.problems, *(line for test in plan.tests for line in test.notes), *notes),
        run_id=run_id,
        next=_next(plan, written=written, run=run_id is not None, unreached=bool(unreached or halting), steps=steps),
    )


def _next(plan: ConfigProposal, *, written: bool, run: bool, unreached: bool, steps: Sequence[str]) -> Step | str:
    if not written:
        return "nothing was written"
    again = f"tune-mcp init --model {plan.model} --run --replace"
    if known := "; ".join(filter(None, dict.fromkeys(steps))):
        return f"{known}; then {again}, which keeps it"
    if unreached:
        return f"let the tests run, then {again}"
    if plan.complete:
        return Step(
            "commit .tune, so that the run measures a commit, then ", call("start_run", model=plan.model, repeats=5)
        )
    if not run:
        return f"let one run show where the values are: {again}"
    return Step("write the missing places into config.yaml, then ", call("discover", model=plan.model))


def _without_gpu(project: Project, plan: ConfigProposal) -> list[str]:
    """The test files whose launches take a GPU, where they would run on this machine and it has none."""
    names = [test.name for test in plan.tests if test.gpus]
    elsewhere = project.host is not None and project.host.executor != "local"
    return names if names and not elsewhere and read_gpus().presence is Presence.NONE else []


def _invalid(what: str, step: str, argument: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "MOD-06", what, step, {"argument": argument})
