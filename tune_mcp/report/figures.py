"""Numbers as text: one spelling for all three renderings (rules RPT-08, APL-20)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from tune_mcp.config.stages import Display, Number
from tune_mcp.observe.worst import shown
from tune_mcp.report.statistics import Chance

_MOST_SIGNIFICANT = 8


def plain(value: Number) -> str:
    """The raw number in full, trailing zeros trimmed, never in scientific form: ``0.0239``, ``100``."""
    exact = Decimal(repr(value))
    return format(exact.to_integral_value() if exact == exact.to_integral_value() else exact.normalize(), "f")


def old_text(value: Number | None) -> str:
    """The number that was there before, ``none`` where there was none."""
    return "none" if value is None else plain(value)


def brief(value: Number) -> str:
    """The raw number for reading: in full when that is short, else five significant digits after ``≈``."""
    full = plain(value)
    if len(full) <= 7:
        return full
    rounded = format(Decimal(f"{value:.5g}"), "f")
    return full if len(full) <= len(rounded) else f"≈{rounded}"


def reading_digits(values: Sequence[Number], display: Display) -> int:
    """Decimals that show each of ``values``, scaled: those of config, and more where a value has no three digits then.

    Values that config's decimals show in full need no more, so a count stays a count; none gets more than twelve, nor
    more than eight significant digits.
    """
    digits, enough = display.digits, 0
    for value in values:
        scaled = abs(shown(value, display.model_copy(update={"digits": 15})))
        if not scaled:
            continue
        power = math.floor(math.log10(scaled))
        enough = max(enough, _MOST_SIGNIFICANT - 1 - power)
        if scaled != abs(shown(value, display)):
            digits = max(digits, min(12, 2 - power))
    return min(digits, enough) if any(values) else digits


def shown_text(raw: Number, scale: float, digits: int) -> str:
    """The number for reading: scaled, then rounded, with exactly ``digits`` decimals."""
    return f"{shown(raw, Display(label='', scale=scale, digits=digits)):.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction as ``12.3 %``; one too small for that as ``0.04 %``, never as a false zero; ``n/a`` for None."""
    if share is None:
        return "n/a"
    value = share * 100
    return f"{value:.{digits}f} %" if not value or abs(value) >= 10**-digits else f"{value:.1g} %"


def chances_text(chance: Chance) -> str:
    """The two parts of a chance as text: ``0.30 %, 2.1 % with slow runs``; one where they read the same."""
    noise, with_slow = chance_text(chance.noise), chance_text(chance.with_slow)
    return noise if noise == with_slow else f"{noise}, {with_slow} with slow runs"


def chance_text(chance: float) -> str:
    """A probability for reading: two significant digits, never a false zero or a false certainty."""
    if chance in (0, 1):
        return f"{chance * 100:.0f} %"
    if chance < 0.0001:
        return "< 0.01 %"
    if chance > 0.9999:
        return "> 99.99 %"
    value = chance * 100
    return f"{value:.2f} %" if value < 1 else f"{value:.1f} %"
