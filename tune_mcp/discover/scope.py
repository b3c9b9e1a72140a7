"""How much a test measures and under which conditions, from its constants (rules SMP-01 to SMP-05, SMP-09, TTS-04)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tune_mcp.config.metrics import SCOPE_ROLES, MetricRules
from tune_mcp.discover.constants import ConstantKind, ModuleConstants
from tune_mcp.discover.python_files import PythonFiles


@dataclass(frozen=True)
class MeasuredScope:
    """How many samples a stage must have (None when unknown), the constants that tell its context, and doubts."""

    expected_samples: int | None
    context_vars: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScopeReader:
    """Answers for one test file. ``variants`` are all its variants: a name may speak of one of them."""

    module: ModuleConstants
    files: PythonFiles
    rules: MetricRules
    variants: tuple[str, ...] = ()

    def scope(
        self, group: str, variant: str | None, configured: Sequence[int | str], context: Sequence[str] = ()
    ) -> MeasuredScope:
        """The scope of one stage; what config says beats what names suggest (SMP-03 to SMP-05).

        ``context`` are the constants that config wants shown; the first whole number of them that speaks of samples
        is the scope where nothing else says it.
        """
        counts = [name for name in context if self.rules.role(name) not in ("tokens", "concurrency")]
        stated = next((name for name in counts if isinstance(self._number(name), int)), None)
        if configured or stated:
            found = self._configured(configured or (stated or "",))
        else:
            found = self._from_names(group, variant)
        if context:
            return replace(found, context_vars=tuple(context))
        names = [name for name in self._named("samples") if self._speaks_of(name, group, variant) is not None]
        samples = found.context_vars or tuple(name for name in names if self._number(name) is not None)
        others = [name for role in SCOPE_ROLES[1:] for name in self._named(role) if self._number(name) is not None]
        return replace(found, context_vars=(*samples, *others))

    def _configured(self, configured: Sequence[int | str]) -> MeasuredScope:
        """The first that is a number; a constant that is None means that the next one counts (SMP-04)."""
        for entry in configured:
            if isinstance(entry, int):
                return MeasuredScope(entry)
            value = self._number(entry)
            role = self.rules.role(entry)
            if role in ("tokens", "concurrency"):
                what = f"expected_samples names {entry}, which says something about {role}"
                return MeasuredScope(None, (), (f"{self.module.path}: {what}",))
            if isinstance(value, int) and value > 0:
                return MeasuredScope(value, (entry,))
            constant = self.module.constants.get(entry)
            if constant is None or constant.kind is not ConstantKind.NONE:
                what = f"{self.module.path}: expected_samples names {entry}, which is no whole number there"
                return MeasuredScope(None, (), (what,))
        names = ", ".join(map(str, configured))
        return MeasuredScope(None, (), (f"{self.module.path}: {names} is None, so the number of samples is not known",))

    def _from_names(self, group: str, variant: str | None) -> MeasuredScope:
        """The nearest sample constant: one that names the group, else the variant, else neither."""
        levels: dict[int, list[str]] = {}
        for name in self._named("samples"):
            nearness = self._speaks_of(name, group, variant)
            if nearness is not None:
                levels.setdefault(nearness, []).append(name)
        for nearness in sorted(levels, reverse=True):
            numbers = [name for name in levels[nearness] if isinstance(self._number(name), int)]
            if len(numbers) > 1:
                what = f"{self.module.path}: {', '.join(numbers)} could each be the sample count of {group}"
                return MeasuredScope(None, (), (f"{what}; say which in expected_samples",))
            value = self._number(numbers[0]) if numbers else None
            if isinstance(value, int) and value > 0:
                return MeasuredScope(value, (numbers[0],))
        return self._from_calls()

    def _from_calls(self) -> MeasuredScope:
        """``run(max_samples=50)``, in a file without one constant that could say it."""
        if any(self._number(name) is not None for name in self._named("samples")):
            return MeasuredScope(None)
        calls = self.module.keywords
        found = sorted({number for name, number in calls if self.rules.role(name.upper()) == "samples" and number > 0})
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            what = f"{self.module.path}: its calls ask for {numbers} samples; say which in expected_samples"
            return MeasuredScope(None, (), (what,))
        return MeasuredScope(found[0] if found else None)

    def _named(self, role: str) -> list[str]:
        return [name for name in self.module.constants if name == name.upper() and self.rules.role(name) == role]

    def _number(self, name: str) -> int | float | None:
        return self.files.number(self.module, name)

    def _speaks_of(self, name: str, group: str, variant: str | None) -> int | None:
        """2: of this group, 1: of this variant, 0: of nothing in particular, None: of another group or variant."""
        words = name.lower().strip("_").split("_")
        groups = [known for known in self.rules.file.groups if known in words]
        whole = "".join(words)
        fitting = [known for known in self.variants if known.lower().replace("_", "") in whole]
        # NON_STREAM_SAMPLES holds both nonstream and stream; the longer name is meant.
        meant = max(fitting, key=len, default=None)
        if (groups and group not in groups) or (meant is not None and meant != variant):
            return None
        return 2 if groups else 1 if meant is not None else 0
