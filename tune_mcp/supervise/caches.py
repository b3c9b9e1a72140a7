"""Caches that every launch must find cold, as a fresh CI job does (rules WDG-08, WDG-09)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
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
        if _empty(folder):
            emptied.append(relative)
    return tuple(emptied)


def wipe_home(settings: Mapping[str, str]) -> str:
    """Empty FlashInfer's own cache, below ``$FLASHINFER_WORKSPACE_BASE`` or ``$HOME``; its path when it held something.

    Only where the model's or host's ``settings`` name that folder: a home that they leave to the caller is a person's.
    Raises ``ValueError`` for a cache that a link leads elsewhere, ``OSError`` when something cannot be removed.
    """
    base = settings.get("FLASHINFER_WORKSPACE_BASE") or settings.get("HOME", "")
    if not base.startswith("/"):
        return ""
    folder = inside(Path(base), ALWAYS[0])
    return str(folder) if _empty(folder) else ""


def _empty(folder: Path) -> bool:
    """Remove what is in a folder, not the folder; whether there was anything."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return bool(entries)
