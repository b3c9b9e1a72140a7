"""Numbers and lists in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def number_of(number: int, thing: str, things: str = "") -> str:
    """``1 file``, ``2 files``; ``things`` is the plural where it is not the word with an s."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def named(names: Sequence[str], most: int = 6) -> str:
    """The first names and how many more there are: ``a, b and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(found: Sequence[str], most: int = 5, sign: str = "; ") -> str:
    """The first few clauses, with ``sign`` between them, and how many more there are; empty where there is none."""
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return sign.join([*found[:most], *more])
