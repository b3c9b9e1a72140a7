"""Caches that every launch must find cold, as a fresh CI job does (rules WDG-08, WDG-09)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tune_mcp.files import inside

ALWAYS = (".cache/flashinfer",)
"""Wiped wherever a launch has a slice, whatever its configuration names or leaves out: there is no off switch."""


def wipe(root: Path, relatives: Iterable[str] = ()) -> tuple[str, ...]:
    """Empty folders below ``root``, those always wiped first, and return those that held something; they stay.

    Raises ``ValueError`` for a folder outside ``root`` (also through a link) and for a root that no slice can be
    (``/``, a home folder), ``OSError`` when something cannot be removed.
    """
    home = Path.home().resolve()
    if root.resolve() in (Path("/"), home, home.parent):
        raise ValueError(f"{root} is no slice of a CI cache; nothing below it is wiped")
    emptied: list[str] = []
    for relative in dict.fromkeys((*ALWAYS, *relatives)):
        folder = inside(root, relative)
        if folder.resolve() == root.resolve():
            raise ValueError(f"{relative!r} is the slice itself")
        if not folder.is_dir():
            continue
        entries = list(folder.iterdir())
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if entries:
            emptied.append(relative)
    return tuple(emptied)
