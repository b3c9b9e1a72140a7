"""Which constant is which metric of which preset and variant (rules DSC-10 to DSC-15, TTS-07).

A constant belongs to one preset and one variant; it never crosses. Only a plain number may become a threshold:
whatever else bears a threshold's name is listed, not used. Where config names a threshold and says nothing of its
metric's ``worst``, what the tests assert decides; where they say nothing either, the metric stays NEEDS_CONFIG.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tune_mcp.config.metrics import MetricRules, MetricSpec
from tune_mcp.config.model import ModelConfig, Preset, Variant
from tune_mcp.discover.assertions import BOUND, AssertionReader, Gate
from tune_mcp.discover.blanks import BlankForm
from tune_mcp.discover.calibrated import CalibratedFile
from tune_mcp.discover.constants import WHAT, Constant, ConstantKind, ModuleConstants
from tune_mcp.discover.places import canonical, names_in, root_of, split_source
from tune_mcp.errors import Code, Refusal


def read_named(
    model: ModelConfig, rules: MetricRules, files: Iterable[CalibratedFile], reader: AssertionReader
) -> tuple[dict[str, dict[str, MetricSpec]], list[str]]:
    """Read ``thresholds`` of a model's config for its files: the metric of each number by test file, and the problems.

    Raises INVALID_CONFIG for a place that is no number of its file, one that may never be written, and a metric that
    one test asserts from below and another from above.
    """
    named: dict[str, dict[str, MetricSpec]] = {}
    problems: list[str] = []
    sides: dict[str, tuple[MetricSpec, str]] = {}
    for file in files:
        for written, metric in model.thresholds.get(file.name, {}).items():
            key = f"thresholds.{file.name}.{written}"
            source = _known(written, file.thresholds, key)
            symbol = source.rpartition(".")[2]
            if rules.protected(source) or rules.protected(symbol):
                what = f"{source} fixes the sample scope, the load or a time limit of the test; it is never calibrated"
                raise _refusal(what, "SMP-09", key, "take it out of thresholds")
            gate = reader.gate(file.path, file.thresholds.path, source, None)
            declared = rules.metrics.get(metric)
            if isinstance(gate, Gate):
                spec = rules.completed(metric, gate.worst)
            elif declared is not None:
                spec = declared
            else:
                problems.append(
                    f"{file.thresholds.path}: {source} is not calibrated, since the tests do not show which side of "
                    f"{metric} is bad: {gate.reason}; add it to config.yaml: metrics: {{{metric}: {{worst: min}}}} for "
                    "a lower bound, max for an upper one"
                )
                continue
            if isinstance(gate, Gate) and gate.worst != spec.worst:
                problems.append(
                    f"{file.thresholds.path}: {source} is asserted as {BOUND[gate.worst]} ({gate.how}), but the worst "
                    f"of {metric} is {spec.worst}: correct one of them, or name another metric"
                )
            other, place = sides.setdefault(metric, (spec, f"{file.name}: {source}"))
            if other.worst != spec.worst:
                what = f"{metric} is {BOUND[other.worst]} in {place} and {BOUND[spec.worst]} in {file.name}: {source}"
                raise _refusal(what, "MET-04", key, "give each its own metric")
            named.setdefault(file.name, {})[source] = spec
    return named, problems


def _known(written: str, module: ModuleConstants, key: str) -> str:
    try:
        source = canonical(written)
    except ValueError as error:
        step = "name a number as Python reads it: LIMIT, TestServing.TTFT_MAX, LIMITS['acc'], LIMITS.acc"
        raise _refusal(str(error), "DSC-14", key, step) from error
    if module.constant(source) is not None or module.table_entry(source):
        return source
    known = [one for one in (*module.constants, *module.leaves) if _alike(one, source)]
    near = difflib.get_close_matches(source, known, 3, 0.5)
    hint = f"name {' or '.join(near)}" if near else "name a number of that file"
    if not near and root_of(source) != source and root_of(source) in (*module.constants, *map(root_of, module.leaves)):
        hint = "give it any first value there that the test passes, or name another number of that file"
    raise _refusal(f"{module.path} has no {source}", "DSC-14", key, hint)


def _alike(one: str, other: str) -> bool:
    """Whether the innermost names of two places may be one, misspelt: what else is near is another metric's."""
    return bool(difflib.get_close_matches(names_in(other)[-1], names_in(one)[-1:], 1))


def _refusal(what: str, rule: str, key: str, step: str) -> Refusal:
    return Refusal(Code.INVALID_CONFIG, rule, what, step, {"key": key})


@dataclass(frozen=True)
class Claim:
    """One threshold: its metric, and its source as stages.yaml writes it (``NAME`` or ``_NAME['key']``).

    ``writable``: it is a plain number, or a place for one; any other only shows that a metric has two constants.
    ``blank``: there is no value yet. ``absent``: there is not even a key, so it is no rival of any other constant.
    """

    spec: MetricSpec
    symbol: str
    source: str
    writable: bool = True
    blank: bool = False
    absent: bool = False


@dataclass
class Route:
    """The thresholds of one preset and one variant of a test file, both None where it has none."""

    preset: str | None
    variant: str | None
    claims: list[Claim] = field(default_factory=list[Claim])
    rivals: list[Claim] = field(default_factory=list[Claim])


@dataclass
class Routing:
    """All routes of a file, variants outside and presets inside, with what was left out and why.

    ``strays`` are lines about constants of no preset, by threshold file and source: another test may calibrate them.
    ``derived`` are lines about constants that an expression makes, by name: one made of a claim needs no word.
    """

    routes: list[Route] = field(default_factory=list[Route])
    unrecognised: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    strays: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    derived: dict[str, str] = field(default_factory=dict[str, str])

    def claims(self) -> list[Claim]:
        """The claims of all routes."""
        return [claim for route in self.routes for claim in route.claims]


def route_constants(
    file: CalibratedFile, rules: MetricRules, named: Mapping[str, MetricSpec], reader: AssertionReader
) -> Routing:
    """Sort the constants of a file into routes: those that config names, then those whose names fit a pattern.

    Raises INVALID_CONFIG when two presets or variants claim one constant, and when one of them could claim none.
    """
    return _Router(file, rules, named, reader).routing()


@dataclass
class _Router:
    file: CalibratedFile
    rules: MetricRules
    named: Mapping[str, MetricSpec]
    reader: AssertionReader
    found: Routing = field(default_factory=Routing)

    def __post_init__(self) -> None:
        self.config = self.file.config
        self.module = self.file.thresholds

    def routing(self) -> Routing:
        self._some_for_each()
        config = self.config
        variants: list[str | None] = [None, *config.variants]
        presets: list[str | None] = [*config.calibration_presets] or [None]
        routes = {(variant, preset): Route(preset, variant) for variant in variants for preset in presets}
        claims = [*self._of_config(), *self._by_name()]
        claims += self._leaves({claim.spec.key for claim in claims})
        for claim in claims:
            if not claim.writable:
                for (variant, preset), route in routes.items():
                    of_variant = _fits(claim.symbol, config.variants, variant)
                    if of_variant and _fits(claim.symbol, config.calibration_presets, preset):
                        route.rivals.append(claim)
                continue
            claiming = [name for name, one in config.calibration_presets.items() if one.claims(claim.symbol)]
            preset = self._one("calibration_presets", "DSC-12", claim, claiming)
            if config.calibration_presets and preset is None:
                what = f"{self.module.path}: {claim.source} fits no preset of {self.file.name} and is not calibrated"
                self.found.strays[self.module.path, claim.source] = what
                continue
            for variant in self._variants(claim):
                if variant is None or claim.symbol not in config.variants[variant].ignored_constants:
                    routes[variant, preset].claims.append(claim)
        filled = {route.variant for route in routes.values() if route.claims}
        self.found.routes = [route for route in routes.values() if route.variant in filled]
        return self.found

    def _some_for_each(self) -> None:
        """A filter that fits nothing is a slip of the pen: its stages would be missing without a word."""
        names = [name for name in self.module.constants if name == name.upper()]
        gating = {name: one for name, one in self.config.calibration_presets.items() if one.gate_thresholds}
        kinds = (("variants", "DSC-11", self.config.variants), ("calibration_presets", "DSC-12", gating))
        for kind, rule, filters in kinds:
            for owner, one in filters.items():
                if not any(one.claims(name) for name in names):
                    key = f"metric_sources.{self.file.name}.{kind}.{owner}.constant_filter"
                    what = f"{one.constant_filter} fits no constant of {self.module.path}"
                    raise _refusal(what, rule, key, "correct the filter in config.yaml")

    def _variants(self, claim: Claim) -> list[str | None]:
        """The variant of a constant, or each of several whose filters all write out its whole name."""
        variants = self.config.variants
        claiming = [name for name, one in variants.items() if one.claims(claim.symbol)]
        if len(claiming) > 1 and all(variants[name].names(claim.symbol) for name in claiming):
            return [*claiming]
        return [self._one("variants", "DSC-11", claim, claiming)]

    def _one(self, key: str, rule: str, claim: Claim, names: list[str]) -> str | None:
        if len(names) > 1:
            raise Refusal(
                Code.INVALID_CONFIG,
                rule,
                f"{claim.symbol} fits {' and '.join(names)}",
                "make the constant_filters exclude each other",
                {
                    "test": self.file.name,
                    "key": f"metric_sources.{self.file.name}.{key}",
                    "symbol": claim.symbol,
                    "fits": [*names],
                },
            )
        return names[0] if names else None

    def _of_config(self) -> Iterator[Claim]:
        """The numbers that config names."""
        for source, spec in self.named.items():
            constant = self.module.constant(source)
            if constant is None:  # an entry of a table by load
                yield Claim(spec, split_source(source)[0], source)
                continue
            blank = constant.kind is ConstantKind.NONE
            why = constant.problem or (None if blank or constant.kind is ConstantKind.NUMBER else _WHAT[constant.kind])
            if why:
                self._not_calibrated(source, constant.line, why)
            yield Claim(spec, source, source, writable=not why, blank=blank)

    def _not_calibrated(self, name: str, line: int, why: str) -> None:
        self.found.problems.append(f"{self.module.path}:{line}: {name} is not calibrated: {why}")

    def _leaves(self, taken: set[str]) -> list[Claim]:
        """Numbers in a class, a dict or an object whose name alone fits a metric, and that a test asserts that way."""
        claims: dict[str, list[Claim]] = {}
        for source, leaf in self.module.leaves.items():
            spec = self._leaf_metric(source)
            ignored = source in self.named or source in self.config.ignored_constants
            if spec is None or ignored or leaf.problem is not None or leaf.kind is not ConstantKind.NUMBER:
                continue
            gate = self.reader.gate(self.file.path, self.module.path, source, None)
            if isinstance(gate, Gate) and gate.worst == spec.worst:
                claims.setdefault(spec.key, []).append(Claim(spec, source, source))
        # Only config could distinguish two of them; they are listed with the block to paste.
        return [found[0] for key, found in claims.items() if len(found) == 1 and key not in taken]

    def _leaf_metric(self, source: str) -> MetricSpec | None:
        names, rules = names_in(source), self.rules
        if any(map(rules.protected, names)):
            return None
        specs = (rules.match(name, None) or rules.metrics.get(name) for name in reversed(names))
        return next(filter(None, specs), None)

    def _by_name(self) -> Iterator[Claim]:
        """The constants whose names fit a pattern."""
        ignored, rules = self.config.ignored_constants, self.rules
        for name, constant in self.module.constants.items():
            if name in self.named or name != name.upper() or name in ignored or rules.protected(name):
                continue
            if constant.kind is ConstantKind.NESTED:
                yield from self._nested(constant)
                continue
            spec = rules.match(name, None)
            if constant.kind is ConstantKind.NUMBER:
                if spec is None:
                    self.found.unrecognised += [name] if rules.looks_like_threshold(name) else []
                    continue
                if constant.problem is not None:
                    self._not_calibrated(name, constant.line, constant.problem)
                yield Claim(spec, name, name, writable=constant.problem is None)
            elif spec is not None and constant.kind is ConstantKind.NONE and constant.problem is None:
                yield Claim(spec, name, name, blank=True)
            elif spec is not None and constant.kind is ConstantKind.DERIVED:
                why = constant.problem or _WHAT[constant.kind]
                self.found.derived[name] = f"{self.module.path}:{constant.line}: {name} is not calibrated: {why}"
                yield Claim(spec, name, name, writable=False)
            elif spec is not None or (rules.named_as_nested(name) and not self._has_leaves(name)):
                self._not_calibrated(name, constant.line, constant.problem or _WHAT[constant.kind])
        for name, how in self.module.elsewhere.items():
            spec = rules.match(name, None)
            if name == name.upper() and (spec or rules.named_as_nested(name)) and name not in ignored:
                where = f"{self.module.path}: {name}"
                self.found.problems.append(f"{where} is not calibrated: {how}; name its file as threshold_file")
                if spec is not None:
                    yield Claim(spec, name, name, writable=False)

    def _has_leaves(self, name: str) -> bool:
        return any(
            source.startswith(f"{name}[") and leaf.kind is ConstantKind.NUMBER
            for source, leaf in self.module.leaves.items()
        )

    def _nested(self, constant: Constant) -> Iterator[Claim]:
        name, rules = constant.name, self.rules
        if any(split_source(source)[0] == name for source in self.named):
            return  # config names what of this table is a threshold
        known = rules.named_as_nested(name)
        if constant.problem is not None:
            if known:
                self._not_calibrated(name, constant.line, constant.problem)
            return
        if not known:
            keys = {literal.subkey for literal in constant.literals}
            like = bool(keys & rules.metrics.keys()) or rules.looks_like_threshold(name)
            self.found.unrecognised += [name] if like else []
            return
        empty = [one for one in constant.blanks if one.form is BlankForm.NONE and one.subkey]
        fillable = {one.subkey: one for one in empty if rules.match(name, one.subkey) is not None}
        absent = tuple(self._absent(constant))
        for entry in constant.unusable:
            if entry.subkey not in fillable and not (entry.subkey is None and absent):
                self._not_calibrated(f"{name}[{entry.subkey!r}]" if entry.subkey else name, entry.line, entry.reason)
        if not constant.literals and not constant.unusable and not absent:
            self._not_calibrated(name, constant.line, "it is an empty table, and config names no metric of it")
        valued = [literal.subkey for literal in constant.literals]
        for subkey in dict.fromkeys([*valued, *fillable, *absent]):
            source = f"{name}[{subkey!r}]"
            spec = rules.match(name, subkey)
            if source in self.config.ignored_constants:
                continue
            if spec is None:
                self.found.unrecognised.append(source)
            else:
                yield Claim(spec, name, source, blank=subkey not in valued, absent=subkey in absent)

    def _absent(self, constant: Constant) -> Iterator[str]:
        """Keys of metrics that no table of the constant has, and that the tests ask it for.

        Where a constant without any value is given to other code as a whole, that is so for each metric that ``paths``
        names; a table that has some values is taken for complete but for what the file asks it for by name.
        """
        asked = self.module.keys_read.get(constant.name, frozenset[str]())
        variants = [one for one in self.config.variants.values() if one.claims(constant.name)]
        named = {key for level in (self.config, *variants) for key in level.paths}
        if constant.literals or constant.name not in self.module.handed_on:
            named = set[str]()
        for key in self.rules.metrics:
            if (
                key in asked | named
                and not constant.has(None, key)
                and self.rules.match(constant.name, key) is not None
            ):
                yield key


def _fits(symbol: str, filters: Mapping[str, Variant] | Mapping[str, Preset], owner: str | None) -> bool:
    """Whether a constant belongs to one of the presets or variants, None for those of none."""
    fitting = [name for name, one in filters.items() if one.claims(symbol)]
    return fitting == ([owner] if owner is not None else [])


_WHAT = WHAT | {
    ConstantKind.NESTED: "it is a table; name one of its numbers, as TABLE['key']",
    ConstantKind.NONE: "it is None",
}
