"""Why a start takes longer than a minute: the causes that the launch environment shows, and the remedy in order.

A server with a cold JIT cache answers in less than a minute where the environment is right; later than that, compiling
is broken. The environment is mended then, never a threshold (rules WDG-02 to WDG-07, ENV-31).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.config.signatures import Startup

_MOST_FILES = 2000


@dataclass(frozen=True)
class Launch:
    """What pytest was started with: its variables, its interpreter, and when (seconds since the epoch)."""

    variables: Mapping[str, str]
    python: Path
    began: float


@dataclass(frozen=True)
class Cause:
    """One usual cause: whether it is off here (None: cannot be seen), and what was found."""

    name: str
    off: bool | None
    found: str

    def sentence(self) -> str:
        """``HOME: /root, should be /github/home (OFF)``."""
        return f"{self.name}: {self.found} ({'OFF' if self.off else 'unknown' if self.off is None else 'ok'})"


def causes(launch: Launch, startup: Startup) -> tuple[Cause, ...]:
    """The four usual causes of a start that compiles for ever, each judged on the launch environment (WDG-04)."""
    root = launch.variables.get("OMNI_CI_HOME", "")
    slice_root = Path(root) if root.startswith("/") else None
    return (
        _leftovers(slice_root, launch.began),
        _home(launch.variables, startup.home),
        _below(launch.variables, "XDG_CACHE_HOME", slice_root),
        _compilers(launch),
        _below(launch.variables, "TORCHINDUCTOR_CACHE_DIR", slice_root),
    )


def remedy(startup: Startup, launch: Launch) -> str:
    """The steps in order. Without OMNI_CI_HOME nothing is named that could be deleted (WDG-05)."""
    steps = list(startup.remedy)
    if not launch.variables.get("OMNI_CI_HOME", "").startswith("/"):
        steps = ["set OMNI_CI_HOME to the CI slice", *(step for step in steps if "OMNI_CI_HOME" not in step)]
    return "; ".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _leftovers(slice_root: Path | None, began: float) -> Cause:
    name = "JIT leftovers"
    if slice_root is None:
        return Cause(name, None, "OMNI_CI_HOME is not set")
    folder = slice_root / ".cache" / "flashinfer"
    for number, path in enumerate(_files(folder)):
        if number >= _MOST_FILES:
            break
        try:
            if path.stat().st_mtime < began - 1:
                return Cause(name, True, f"{path} is older than this launch")
        except OSError:
            continue
    return Cause(name, False, f"nothing in {folder} is older than this launch")


def _files(folder: Path) -> Iterable[Path]:
    for where, _, names in os.walk(folder):
        for name in names:
            yield Path(where) / name


def _home(variables: Mapping[str, str], expected: str | None) -> Cause:
    home = variables.get("HOME", "")
    if not expected or home == expected:
        return Cause("HOME", False, home or "not set")
    return Cause("HOME", True, f"{home or 'not set'}, should be {expected}")


def _below(variables: Mapping[str, str], name: str, slice_root: Path | None) -> Cause:
    value = variables.get(name, "")
    if slice_root is None:
        return Cause(name, None, f"{value or 'not set'}, and OMNI_CI_HOME is not set")
    if value and Path(value).is_relative_to(slice_root):
        return Cause(name, False, value)
    return Cause(name, True, f"{value or 'not set'}, should be below {slice_root}")


def _compilers(launch: Launch) -> Cause:
    """nvcc and ninja as the launch finds them: one that lies in another Python home builds for that one."""
    own = launch.python.parent.parent
    wrong: list[str] = []
    seen: list[str] = []
    for tool in ("nvcc", "ninja"):
        found = shutil.which(tool, path=launch.variables.get("PATH", ""))
        if found is None:
            continue
        seen.append(found)
        path = Path(found)
        homes = [folder for folder in path.parents if (folder / "pyvenv.cfg").is_file()]
        if any(folder != own for folder in homes):
            wrong.append(f"{found} belongs to {homes[0]}, not to {own}")
    if wrong:
        return Cause("nvcc/ninja", True, "; ".join(wrong))
    return Cause("nvcc/ninja", False if seen else None, ", ".join(seen) or "neither is on PATH")
