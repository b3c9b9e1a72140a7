"""Where a threshold stands in its file, and what forbids that the plan writes there (rules APL-15 to APL-17)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp.apply.literals import Place
from tune_mcp.config.stages import Stage
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.blanks import lines_with
from tune_mcp.discover.constants import ModuleConstants
from tune_mcp.discover.places import names_in, root_of, split_source
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.errors import Code, Refusal
from tune_mcp.session.plan import Plan

CONCURRENCY_SYMBOL = "CONCURRENCY"


@dataclass
class Files:
    """The test and threshold files that a plan is made of, and the one reader of what tests assert."""

    repo_root: Path
    assertions: AssertionReader = field(init=False)
    python: PythonFiles = field(init=False)
    modules: dict[str, ModuleConstants] = field(default_factory=dict[str, ModuleConstants])

    def __post_init__(self) -> None:
        self.assertions = AssertionReader(self.repo_root)
        self.python = self.assertions.files

    def module(self, name: str) -> ModuleConstants:
        """The constants of one file. Raises OUTSIDE_REPO for a file that leaves the repository or is gone."""
        if name not in self.modules:
            found = self.python.constants(name)
            if found is None:
                what = f"{name} is no file inside {self.repo_root}"
                raise Refusal(Code.OUTSIDE_REPO, "APL-24", what, "put the repository's files back as they were")
            self.modules[name] = found
        return self.modules[name]

    def content(self, name: str) -> bytes:
        """The bytes of a file as they were first read."""
        return self.python.data(name) or b""

    def lines_with(self, name: str, source: str) -> frozenset[int]:
        """The lines of a file's statements that name a threshold, or a name that such a statement binds.

        An attribute is known by its own name, since a test may reach it through ``self``, an entry by its table's.
        """
        tree = self.python.tree(name)
        symbol = root_of(source) if source.endswith("]") else names_in(source)[-1]
        return lines_with(tree, symbol) if tree else frozenset()


@dataclass(frozen=True)
class Concurrency:
    """At which concurrency a stage's nested thresholds are read: what the symbol says, checked against the code."""

    test: ModuleConstants
    thresholds: ModuleConstants

    def value(self) -> int | None:
        """The number of the symbol ``CONCURRENCY``, in the test file before the threshold file."""
        values = (place.number(CONCURRENCY_SYMBOL) for place in (self.test, self.thresholds))
        return next((value for value in values if isinstance(value, int)), None)

    def read_at(self, symbol: str) -> set[int]:
        """Every index at which either file reads ``symbol[index]``, as far as it is a number there."""
        found: set[int] = set()
        for place in (self.test, self.thresholds):
            for index in place.indexed.get(symbol, ()):
                value = place.number(index) if isinstance(index, str) else index
                found |= {value} if isinstance(value, int) else set()
        return found


Trouble = tuple[Code, str]
"""Why a literal may not be written: the code of the refusal and one sentence."""


@dataclass(frozen=True)
class Located:
    """The place of one threshold, or the trouble that keeps the plan from writing it; ``load`` is that of its table."""

    place: Place | None = None
    trouble: Trouble | None = None
    load: int | None = None


def locate(source: str, stage: Stage, module: ModuleConstants, concurrency: Concurrency, plan: Plan) -> Located:
    """Where the threshold ``source`` of ``stage`` is."""
    symbol, subkey = split_source(source)
    load = concurrency.value() if subkey else None
    names = names_in(source) if source in module.leaves else (symbol,)
    if trouble := next((found for name in names if (found := _forbidden(name, symbol, stage, plan))), None):
        return Located(None, trouble, load)
    if source in module.leaves:
        subkey = None
    read_at = concurrency.read_at(symbol) if subkey else set[int]()
    known = load if subkey else None
    place: Place | None
    try:
        place = module.find(source, known)
    except Refusal as refusal:
        # An empty table has no key of its own, so how the tests ask it is what is left.
        place = module.blank(source, next(iter(read_at)) if known is None and len(read_at) == 1 else known)
        if place is None:
            return Located(None, (refusal.code, refusal.message), load)
    if read_at and place.concurrency not in read_at:
        at = ", ".join(map(str, sorted(read_at)))
        why = f"the code reads {symbol}[{at}], not {symbol}[{place.concurrency}]"
        return Located(None, (Code.THRESHOLD_UNKNOWN, why), load)
    return Located(place, None, place.concurrency)


def _forbidden(name: str, symbol: str, stage: Stage, plan: Plan) -> Trouble | None:
    bare = symbol.lstrip("_")
    if any(re.fullmatch(pattern, one) for pattern in plan.protected for one in (name, name.lstrip("_"))):
        code = Code.PROTECTED_CONSTANT
        return code, f"{code}: {symbol} fixes the sample scope or the load; it is never written"
    if stage.test_key in plan.report_only:
        preset = stage.calibration_preset
        code = Code.PROTECTED_CONSTANT
        return code, f"{code}: gate_thresholds of preset {preset} is false; it is report only"
    pattern = plan.preset_filters.get(stage.test_key)
    if pattern and not re.match(pattern, bare):
        code = Code.PRESET_MISMATCH
        return code, f"{code}: {symbol} does not belong to preset {stage.calibration_preset}"
    return None
