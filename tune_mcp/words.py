"""Numbers in sentences."""

from __future__ import annotations


def number_of(number: int, thing: str, things: str = "") -> str:
    """``1 file``, ``2 files``; ``things`` is the plural where it is not the word with an s."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"
