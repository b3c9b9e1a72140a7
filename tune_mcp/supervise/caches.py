"""What every launch must find cold, as a fresh CI job does: caches (rules WDG-08, WDG-09) and compiled Python files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tune_mcp.config.lanes import Lane, Placement
from tune_mcp.files import inside, open_plain, real
from tune_mcp.session.provenance import git

ALWAYS = (".cache/flashinfer",)
"""Wiped wherever a launch has a slice, whatever its configuration names or leaves out: there is no off switch."""

SLICE = "OMNI_CI_HOME"
ROOTS = (
    SLICE, "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "FLASHINFER_WORKSPACE_BASE",
    "CUDA_CACHE_PATH", "VLLM_CACHE_ROOT", "TILELANG_CACHE_DIR", "SGLANG_DG_CACHE_DIR", "DG_JIT_CACHE_DIR",
    "NUMBA_CACHE_DIR", "CUPY_CACHE_DIR",
)  # fmt: skip
"""Variables that name a folder in which launches keep what they compiled."""
_SHARED_UNLESS_SET = {
    "FLASHINFER_WORKSPACE_BASE": "", "TRITON_CACHE_DIR": ".triton", "TORCH_EXTENSIONS_DIR": ".torch_extensions",
    "CUDA_CACHE_PATH": ".nv",
}  # fmt: skip
"""Those whose default lies in the home folder, which all launches share; others default to TMPDIR."""
_BY_TIME = bytes(4)


def wipe(root: Path, relatives: Iterable[str]) -> tuple[str, ...]:
    """Empty folders below ``root``, those always wiped first, and return those that held something; they stay.

    Raises ``ValueError`` for a folder outside ``root`` (also through a link) and for a root that no slice can be
    (``/``, a home folder), ``OSError`` when something cannot be removed.
    """
    home = Path.home().resolve()
    if real(root) in (Path("/"), home, home.parent):
        raise ValueError(f"{root} is no slice of a CI cache; nothing below it is wiped")
    emptied: list[str] = []
    for relative in dict.fromkeys((*ALWAYS, *relatives)):
        folder = inside(root, relative)
        if real(folder) == real(root):
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


def of_lane(settings: Mapping[str, str], placement: Placement, lane: Lane | None, runs: Path) -> dict[str, str]:
    """The settings of a launch on a lane, where launches on others may run at the same time: cache roots of its own.

    They lie below the slice, else below ``runs``, the folder of all runs: one launch empties what another fills. What
    the profile sets for a lane goes before. Alone on its host a launch has the settings as they are.
    """
    if lane is None or len(placement.usable_lanes()) < 2:
        return {**settings, **(lane.env if lane else {})}
    shared = settings.get(SLICE, "")
    own = Path(shared or runs) / "lanes" / lane.name
    found = {**settings}
    for name in ROOTS:
        if before := settings.get(name):
            inside = shared and Path(before).is_relative_to(shared)
            found[name] = str(own / Path(before).relative_to(shared) if inside else Path(before) / "lanes" / lane.name)
    for name, folder in _SHARED_UNLESS_SET.items():
        found.setdefault(name, str(own / folder))
    return {**found, **lane.env}


def _empty(folder: Path) -> bool:
    """Remove what is in a folder, not the folder; whether there was anything."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return bool(entries)


def clear_bytecode(repo: Path, began_ns: int) -> bool:
    """Remove what was compiled before this runner began, or is not compared with its source; False where that fails.

    A ``.pyc`` names its source by size and whole seconds only, and one of the unchecked kind by nothing: a checkout
    within a second, or a file that somebody left, runs another commit's code. Only beside Python files that git lists
    (site-packages are not of a commit), and nothing that git tracks. What the runner's own launches compile later is of
    the tree that it compares before and after each.
    """
    listed = git(repo, "ls-files", "-z", "-c", "-o", "--exclude-standard", "--", "*.py", "*.pyc")
    names = [repo / os.fsdecode(name) for name in listed.split(b"\0") if name]
    kept = {path for path in names if path.suffix == ".pyc"}
    done = True
    for folder in {path.parent / "__pycache__" for path in names if path.suffix == ".py"}:
        try:
            compiled = [path for path in folder.iterdir() if path.suffix == ".pyc" and path not in kept]
        except OSError:
            continue
        for path in compiled:
            try:
                if _stale(path, began_ns):
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # another lane's runner was faster
            except OSError:
                done = False
    return done


def _stale(path: Path, began_ns: int) -> bool:
    if path.is_symlink() or path.stat().st_ctime_ns < began_ns:
        return True
    with open_plain(path) as stream:
        return stream.read(8)[4:] != _BY_TIME
