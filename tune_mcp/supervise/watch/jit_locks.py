"""Lock files that a killed build left behind: the next build waits on them for ever, silently (notes A32)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_MOST_FILES = 5000


def old_locks(variables: Mapping[str, str], began: float) -> tuple[str, ...]:
    """Lock files below the JIT caches of this launch that are older than it (``began``: seconds since the epoch)."""
    found: list[str] = []
    for number, path in enumerate(_files(variables)):
        if number >= _MOST_FILES:
            break
        if path.name != "lock" and path.suffix != ".lock":
            continue
        try:
            if path.stat().st_mtime < began - 1:
                found.append(str(path))
        except OSError:
            continue
    return tuple(sorted(found))


def _files(variables: Mapping[str, str]) -> Iterator[Path]:
    names = ("HOME", "XDG_CACHE_HOME", "OMNI_CI_HOME", "FLASHINFER_WORKSPACE_BASE")
    home, cache, root, base = (variables.get(name, "") for name in names)
    folders = [
        variables.get("TORCH_EXTENSIONS_DIR", ""),
        f"{cache}/torch_extensions" if cache else "",
        f"{home}/.cache/torch_extensions" if home else "",
        f"{base or home}/.cache/flashinfer" if base or home else "",
        f"{root}/.cache/flashinfer" if root else "",
    ]
    for folder in dict.fromkeys(folders):
        if folder.startswith("/"):
            for where, _, names in os.walk(folder):
                for name in names:
                    yield Path(where) / name
