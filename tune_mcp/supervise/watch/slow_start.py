"""Why a start takes longer than a minute: the cause that shows in the log, else the last line, and no guess.

A server with a cold JIT cache answers in less than a minute where the environment is right; later than that, compiling
is broken. But only a log with a build in it, or a compiler that runs, speaks for that. The environment is fixed then,
never a threshold (rules WDG-02 to WDG-07, ENV-31).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tune_mcp.config.signatures import Startup
from tune_mcp.session.state import Alert

_MOST_FILES = 2000


@dataclass(frozen=True)
class LaunchFacts:
    """What pytest was started with: its variables, its interpreter, and when (seconds since the epoch)."""

    variables: Mapping[str, str]
    python: Path
    began: float


@dataclass(frozen=True)
class SlowStartCause:
    """One usual cause: whether it is off here (None: cannot be seen), and what was found."""

    name: str
    off: bool | None
    found: str

    def sentence(self) -> str:
        """``HOME: /root, should be /github/home (OFF)``."""
        return f"{self.name}: {self.found} ({'OFF' if self.off else 'unknown' if self.off is None else 'ok'})"


@dataclass(frozen=True)
class Diagnosis:
    """Why a start is slow, for an alert. ``known``: its cause was seen, and need not be looked for any more."""

    cause: str
    remedy: str
    evidence: tuple[str, ...]
    known: bool = True


def diagnose(
    launch: LaunchFacts,
    startup: Startup,
    builds: Sequence[str],
    *,
    compiling: bool,
    seen: Sequence[Alert],
    last_line: str,
) -> Diagnosis:
    """The cause that has evidence: lines of a build or a running compiler, else trouble that the log shows.

    ``builds`` are lines of kernels being compiled, ``seen`` the attempt's other alerts, ``last_line`` the log's last.
    """
    if builds or compiling:
        found = causes(launch, startup)
        off = ", ".join(cause.name for cause in found if cause.off) or "nothing that can be seen"
        shown = "the log shows that kernels are compiled" if builds else "a compiler is running"
        return Diagnosis(
            f"{shown}: usually the FlashInfer JIT of a broken environment, not a matter of thresholds, code or GPU "
            f"(off: {off})",
            remedy(startup, launch),
            (*builds, *(cause.sentence() for cause in found)),
        )
    if seen:
        alert = seen[-1]
        return Diagnosis(f"the log shows {alert.name}: {alert.cause}", alert.remedy, alert.evidence)
    return Diagnosis(
        f"no cause is known; last line: {last_line or '(the log is empty)'}",
        "read the log; the test's own limit and tune-mcp's decide how long it may take",
        (),
        known=False,
    )


def causes(launch: LaunchFacts, startup: Startup) -> tuple[SlowStartCause, ...]:
    """The usual causes of a start that compiles for ever, each judged on the launch environment (WDG-04)."""
    root = launch.variables.get("OMNI_CI_HOME", "")
    slice_root = Path(root) if root.startswith("/") else None
    return (
        _leftovers(slice_root, _flashinfer_base(launch.variables), launch.began),
        _home(launch.variables, startup.home),
        _below(launch.variables, "XDG_CACHE_HOME", slice_root),
        _compilers(launch),
        _below(launch.variables, "TORCHINDUCTOR_CACHE_DIR", slice_root),
    )


def remedy(startup: Startup, launch: LaunchFacts) -> str:
    """The steps in order. Without OMNI_CI_HOME nothing is named that could be deleted (WDG-05)."""
    steps = list(startup.remedy)
    if not launch.variables.get("OMNI_CI_HOME", "").startswith("/"):
        steps = ["set OMNI_CI_HOME to the CI slice", *(step for step in steps if "OMNI_CI_HOME" not in step)]
    return "; ".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _leftovers(slice_root: Path | None, base: str, began: float) -> SlowStartCause:
    """Kernels of an earlier build, in the slice and where FlashInfer itself caches: below ``base``."""
    name = "JIT leftovers"
    if slice_root is None:
        return SlowStartCause(name, None, "OMNI_CI_HOME is not set")
    folders = dict.fromkeys((f"{slice_root}/.cache/flashinfer", f"{Path(base or slice_root)}/.cache/flashinfer"))
    if old := next(_old_files(folders, began), None):
        return SlowStartCause(name, True, f"{old} is older than this launch")
    return SlowStartCause(name, False, f"nothing in {', '.join(folders)} is older than this launch")


def _flashinfer_base(variables: Mapping[str, str]) -> str:
    base = variables.get("FLASHINFER_WORKSPACE_BASE") or variables.get("HOME", "")
    return base if base.startswith("/") else ""


def _old_files(folders: Iterable[str], began: float) -> Iterator[Path]:
    """Files below ``folders`` that are older than ``began``; no more than the first 2000 are looked at."""
    every = (Path(where) / name for folder in folders for where, _, names in os.walk(folder) for name in names)
    for path in islice(every, _MOST_FILES):
        try:
            old = path.stat().st_mtime < began - 1
        except OSError:
            continue
        if old:
            yield path


def _home(variables: Mapping[str, str], expected: str | None) -> SlowStartCause:
    home = variables.get("HOME", "")
    if not expected or home == expected:
        return SlowStartCause("HOME", False, home or "not set")
    return SlowStartCause("HOME", True, f"{home or 'not set'}, should be {expected}")


def _below(variables: Mapping[str, str], name: str, slice_root: Path | None) -> SlowStartCause:
    value = variables.get(name, "")
    if slice_root is None:
        return SlowStartCause(name, None, f"{value or 'not set'}, and OMNI_CI_HOME is not set")
    if value and Path(value).is_relative_to(slice_root):
        return SlowStartCause(name, False, value)
    return SlowStartCause(name, True, f"{value or 'not set'}, should be below {slice_root}")


def _compilers(launch: LaunchFacts) -> SlowStartCause:
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
        return SlowStartCause("nvcc/ninja", True, "; ".join(wrong))
    return SlowStartCause("nvcc/ninja", False if seen else None, ", ".join(seen) or "neither is on PATH")


def old_locks(variables: Mapping[str, str], began: float) -> tuple[str, ...]:
    """Lock files below the JIT caches of this launch that are older than it (``began``: seconds since the epoch).

    A killed build leaves them behind; the next one waits on them for ever, silently.
    """
    names = ("HOME", "XDG_CACHE_HOME", "OMNI_CI_HOME", "FLASHINFER_WORKSPACE_BASE")
    home, cache, root, base = (variables.get(name, "") for name in names)
    folders = [
        variables.get("TORCH_EXTENSIONS_DIR", ""),
        f"{cache}/torch_extensions" if cache else "",
        f"{home}/.cache/torch_extensions" if home else "",
        f"{base or home}/.cache/flashinfer" if base or home else "",
        f"{root}/.cache/flashinfer" if root else "",
    ]
    old = _old_files(dict.fromkeys(folder for folder in folders if folder.startswith("/")), began)
    return tuple(sorted(str(path) for path in old if path.name == "lock" or path.suffix == ".lock"))
