"""Whether another commit measures the same as the calibrated one, proven from both trees (RES-02).

Equivalent means: the trees differ in nothing but threshold literals that this very plan tracks and that nothing but
assertions reads, first values of such thresholds included, and in our own configuration, of which the plan holds a
snapshot. Everything else refuses, whatever it looks like.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from tune_mcp.actions import Step, call
from tune_mcp.apply.locating import Concurrency, Place, locate
from tune_mcp.config.loader import REPO_PLACE
from tune_mcp.config.stages import Number, Stage
from tune_mcp.discover.blanked import same_but_for
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral, parse_module
from tune_mcp.discover.measuring_uses import measuring_uses
from tune_mcp.discover.places import split_source
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import iso
from tune_mcp.session import drift, provenance
from tune_mcp.session.plan import NO_VALUE, ChangedLiteral, Equivalence, Plan
from tune_mcp.session.provenance import Change, GitState
from tune_mcp.words import listed

_OUR_CONFIG = re.compile(rf"{re.escape(REPO_PLACE)}/(models|hosts)/.+\.ya?ml")
_PLAIN = frozenset({"100644", "100755"})
_Places = dict[tuple[str, int | None], Place]


class NotEquivalent(Exception):
    """What else differs, one sentence each."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(listed(reasons, 4))


def prove(repo_root: Path, plan: Plan, now: GitState, moment: datetime, tree: drift.Baseline) -> Equivalence:
    """The verdict on ``now``'s commit. Raises ``NotEquivalent``, also for other dirt than that of ``tree``."""
    found = compare(repo_root, plan, now.head, moment)
    dirty = [name for name in found.files if {name} & {*plan.changed, *plan.untracked, *now.changed, *now.untracked}]
    if dirty:
        raise NotEquivalent(*(f"{name} has changes that are in no commit" for name in dirty))
    if moved := drift.dirt_moved(now, tree):
        raise NotEquivalent(*moved)
    return found


def still_holds(repo_root: Path, plan: Plan) -> None:
    """Prove every recorded verdict again. Raises ``NotEquivalent``: a commit is gone, or differs otherwise now."""
    for one in plan.equivalents:
        again = compare(repo_root, plan, one.git_sha, datetime.fromisoformat(one.proved_at))
        if again != one:
            raise NotEquivalent(f"{one.git_sha} is not what was proven on {one.proved_at}")


def compare(repo_root: Path, plan: Plan, git_sha: str, moment: datetime) -> Equivalence:
    """The verdict on the two commits alone. Raises ``NotEquivalent``."""
    base = plan.calibration_git_sha
    try:
        changes = provenance.changes(repo_root, base, git_sha)
    except Refusal as refusal:
        raise NotEquivalent(f"{base} and {git_sha} cannot be compared: {refusal.message}") from refusal
    if not changes:
        raise NotEquivalent("the two trees are the same, so checking out the calibrated commit costs nothing")
    config = tuple(change.path for change in changes if is_our_config(change))
    rest = [change for change in changes if change.path not in config]
    others = [f"{change.path} differs" for change in rest if not may_differ(change, plan)]
    if others:
        raise NotEquivalent(*others)
    changed = [literal for change in rest for literal in literals(repo_root, plan, git_sha, change)]
    if read := measured_by(repo_root, git_sha, changed):
        raise NotEquivalent(*read)
    return Equivalence(
        git_sha=git_sha,
        calibration_git_sha=base,
        proved_at=iso(moment),
        files=tuple(change.path for change in rest),
        literals=tuple(changed),
        config_files=config,
    )


def measured_by(repo_root: Path, git_sha: str, literals: list[ChangedLiteral]) -> list[str]:
    """Where the code reads a changed threshold for anything but an assertion: it measures something else then."""
    names = dict.fromkeys((one.file, one.source.partition("[")[0]) for one in literals)

    def find(word: str) -> dict[str, bytes]:
        return provenance.holding(repo_root, git_sha, word)

    return [
        f"{symbol} is not only asserted: {use}" for file, symbol in names for use in measuring_uses(symbol, file, find)
    ]


def is_our_config(change: Change) -> bool:
    """Whether only our own configuration changed, in plain files."""
    modes = {change.old_mode, change.new_mode} - {provenance.ABSENT}
    return bool(_OUR_CONFIG.fullmatch(change.path)) and modes <= _PLAIN


def may_differ(change: Change, plan: Plan) -> bool:
    """Whether it is a measured Python file, there before and after, and of the same mode."""
    return (
        change.path in plan.file_sha256
        and change.path.endswith(".py")
        and change.old_mode == change.new_mode
        and change.new_mode in _PLAIN
    )


def literals(repo_root: Path, plan: Plan, git_sha: str, change: Change) -> list[ChangedLiteral]:
    """The tracked literals that the file spells otherwise. Raises ``NotEquivalent`` for any other change in it."""
    try:
        old, new = (provenance.blob(repo_root, name) for name in (change.old_blob, change.new_blob))
        before = _tracked(repo_root, plan, plan.calibration_git_sha, change.path, old)
        after = _tracked(repo_root, plan, git_sha, change.path, new)
        pairs = {
            key: (was, now) for key, now in after.items() if isinstance(now, NumberLiteral) and (was := before.get(key))
        }
        same = same_but_for(old, new, change.path, pairs.values())
    except (Refusal, ValueError, RecursionError) as error:
        raise NotEquivalent(f"{change.path} cannot be compared: {error}") from error
    if not same:
        raise NotEquivalent(f"{change.path} differs in more than threshold literals of this plan")
    return [
        ChangedLiteral(file=change.path, source=_place(key), old=old_token, new=now.token)
        for key, (was, now) in sorted(pairs.items(), key=str)
        if (old_token := was.token if isinstance(was, NumberLiteral) else NO_VALUE) != now.token
    ]


def _place(key: tuple[str, int | None]) -> str:
    source, level = key
    symbol, subkey = split_source(source)
    return source if subkey is None or level is None else f"{symbol}[{level}]['{subkey}']"


def _tracked(repo_root: Path, plan: Plan, git_sha: str, path: str, data: bytes) -> _Places:
    """(source, concurrency) -> the literal of every metric of the plan that this file holds, or where its first value
    would come; without protected ones. What apply could not write is compared like any other code.
    """
    module = parse_module(data, path)
    found: _Places = {}
    for stage in plan.table().values():
        if stage.threshold_path != path:
            continue
        for key, place in _located(repo_root, plan, git_sha, stage, module).items():
            found[(stage.metrics[key].source, place.concurrency)] = place
    return found


def _located(repo_root: Path, plan: Plan, git_sha: str, stage: Stage, module: ModuleConstants) -> dict[str, Place]:
    """Metric -> its place in the threshold file ``module``, of those that the plan may write."""
    test = module if stage.test == stage.threshold_path else _module(repo_root, git_sha, stage.test)
    concurrency = Concurrency(test, module)
    found = {key: locate(one.source, stage, module, concurrency, plan).place for key, one in stage.metrics.items()}
    return {key: place for key, place in found.items() if place is not None}


def values(repo_root: Path, plan: Plan, git_sha: str, stage: Stage) -> dict[str, Number | None]:
    """Metric -> the value of its threshold at that commit, None for no value yet; without what cannot be found."""
    try:
        places = _located(repo_root, plan, git_sha, stage, _module(repo_root, git_sha, stage.threshold_path))
    except Refusal:  # gone, or no Python there
        return {}
    return {key: place.value if isinstance(place, NumberLiteral) else None for key, place in places.items()}


def _module(repo_root: Path, git_sha: str, path: str) -> ModuleConstants:
    return parse_module(provenance.blob(repo_root, f"{git_sha}:./{path}"), path)


def refusal(plan: Plan, head: str, why: NotEquivalent) -> Refusal:
    """COMMIT_MOVED with what differs."""
    return Refusal(
        Code.COMMIT_MOVED,
        ("RES-02", "SES-18"),
        f"{plan.run_id} calibrates {plan.calibration_git_sha}, but HEAD is {head}, and it is not proven to measure the "
        f"same: {why}",
        Step("check out the calibrated commit, or start a new run on HEAD: ", call("start_run", model=plan.model)),
        {"calibration_git_sha": plan.calibration_git_sha, "head": head, "why": str(why)},
    )
