"""``plan --against``: does the calibrated tree still measure the same as another commit (a branch that it goes into)?

What pytest loaded is on record; what the programs that it starts load is not. So a changed file counts as measured
when pytest loaded it, as perhaps measured when it could be loaded or read by anything, and as not measured when it is
prose, our own configuration, a CI file, or a test file that the run did not load. Files of the plan are compared by
their code: a threshold's value is listed and changes no measurement.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tune_mcp.actions import Step, call
from tune_mcp.contract.against import AgainstReply, ChangedThreshold
from tune_mcp.discover.source_tree import is_test_file
from tune_mcp.errors import Code, Refusal
from tune_mcp.observe.worst import worst_of_n
from tune_mcp.run_dir import RunDir
from tune_mcp.session import provenance
from tune_mcp.session.plan import Plan
from tune_mcp.supervise.loaded import LISTED_FILE, Listed
from tune_mcp.verbs import equivalence, gates
from tune_mcp.verbs.project import Project

_PROSE = frozenset({".md", ".rst", ".png", ".jpg", ".jpeg", ".svg", ".gif", ".ipynb"})
_PROSE_FOLDERS = ("docs/", ".github/", ".gitlab/")
_PROSE_NAMES = frozenset({"LICENSE", "NOTICE", "CODEOWNERS", ".gitignore", ".gitattributes", ".mailmap"})
_SETTINGS = frozenset({"conftest.py", "pytest.ini", ".pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini"})


def against(project: Project, run_id: str, ref: str) -> AgainstReply:
    """Compare the run's commit with ``ref``, whatever is checked out.

    Raises UNKNOWN_RUN, PLAN_TAMPERED, NOT_STRICT, GIT_PROVENANCE, and INVALID_ARGUMENT for a ref that is no commit.
    """
    found = gates.complete(project, run_id)
    plan, root = found.plan, project.repo_root
    commit = _commit(root, ref)
    loaded = _loaded(root, found.run, plan)
    measured = [f"{name}: in no commit, since the tree was dirty" for name in sorted({*plan.changed, *plan.untracked})]
    perhaps: list[str] = []
    others = 0
    for change in provenance.changes(root, plan.calibration_git_sha, commit):
        if change.path in plan.file_sha256:
            measured += _more_than_values(root, plan, commit, change)
        elif change.path in loaded or _settles(change.path, plan):
            measured.append(f"{change.path}: {_what(change)}")
        elif _is_read_by_nothing(change, bool(loaded)):
            others += 1
        else:
            perhaps.append(f"{change.path}: {_what(change)}")
    same = not measured and not perhaps
    thresholds = tuple(_thresholds(root, found, commit))
    reply = AgainstReply(
        run_id=run_id,
        ref=ref,
        commit=commit,
        calibration_git_sha=plan.calibration_git_sha,
        same=same,
        measured=tuple(measured),
        perhaps=tuple(perhaps),
        others=others,
        thresholds=thresholds,
        next="",
    )
    return reply.model_copy(update={"next": _next(reply, plan)})


def _next(reply: AgainstReply, plan: Plan) -> Step | str:
    if not reply.same:
        return Step(f"calibrate {reply.ref} anew: check it out, then ", call("start_run", model=plan.model))
    if not reply.current:
        return f"compare each with the planned value: what was changed at {reply.ref} would be written over"
    return Step(call("apply_plan", run_id=reply.run_id))


def _commit(root: Path, ref: str) -> str:
    try:
        return provenance.git(root, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    except Refusal as refusal:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            (),
            f"git knows no commit {ref!r}",
            "name a branch, a tag or a commit that this clone has (git fetch brings others)",
            {"argument": "--against", "ref": ref},
        ) from refusal


def _loaded(root: Path, run: RunDir, plan: Plan) -> frozenset[str]:
    """Files of the repository that the run's pytest processes loaded or used as settings."""
    found: set[str] = set()
    for part, own in plan.parts(run):
        base = Path(own.repo_root)
        for path in part.path.glob(f"_pytest/*/attempts/*/{LISTED_FILE}"):
            listed = Listed.from_file(path)
            names = (*listed.modules, *listed.settings, *listed.read) if listed else ()
            found |= {
                os.path.relpath(name, top) for name in names for top in (base, root) if name.startswith(f"{top}/")
            }
    return frozenset(found)


def _settles(path: str, plan: Plan) -> bool:
    """Whether pytest reads the file for a test of the plan although nothing imports it."""
    name, folder = PurePosixPath(path).name, str(PurePosixPath(path).parent)
    tests = [stage.test for stage in plan.table().values()]
    return name in _SETTINGS and any(folder == "." or test.startswith(f"{folder}/") for test in tests)


def _is_read_by_nothing(change: provenance.Change, recorded: bool) -> bool:
    """Prose, CI files, our own configuration, and tests that the run is known not to have loaded."""
    path = PurePosixPath(change.path)
    return (
        path.suffix in _PROSE
        or path.name in _PROSE_NAMES
        or change.path.startswith(_PROSE_FOLDERS)
        or equivalence.is_our_config(change)
        or (is_test_file(change.path) and recorded)
    )


def _what(change: provenance.Change) -> str:
    if change.old_mode == provenance.ABSENT:
        return "new"
    return "gone" if change.new_mode == provenance.ABSENT else "changed"


def _more_than_values(root: Path, plan: Plan, commit: str, change: provenance.Change) -> Iterator[str]:
    """What changed in a test or threshold file beside the values of the plan's thresholds."""
    if not equivalence.may_differ(change, plan):
        yield f"{change.path}: {_what(change)}"
        return
    try:
        changed = equivalence.literals(root, plan, commit, change)
    except equivalence.NotEquivalent as why:
        yield str(why)
        return
    yield from equivalence.measured_by(root, commit, changed)


def _thresholds(root: Path, found: gates.Evidence, commit: str) -> Iterator[ChangedThreshold]:
    plan = found.plan
    for audited in found.audit.stages:
        stage = audited.stage
        if stage.is_docs:
            continue
        then = equivalence.values(root, plan, plan.calibration_git_sha, stage)
        there = equivalence.values(root, plan, commit, stage)
        for worst in worst_of_n(audited, plan.groups[stage.group]):
            before, now = then.get(worst.metric_key), there.get(worst.metric_key)
            if before != now:
                yield ChangedThreshold(
                    stage_key=stage.key,
                    metric_key=worst.metric_key,
                    file=stage.threshold_path,
                    source=worst.source,
                    then=before,
                    there=now,
                    planned=worst.write_value,
                )
