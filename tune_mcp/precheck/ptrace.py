"""CAP_SYS_PTRACE, which two processes need to pass file descriptors (pidfd_getfd): tests with tensor parallelism."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tune_mcp.config.stages import Stage
from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject

STATUS = Path("/proc/self/status")
CAP_SYS_PTRACE = 19
"""Its bit in the masks of /proc/<pid>/status, which hold numbers and never the capability's name."""
_NAMED = re.compile(r"(?:^|_)tp([2-9]|[1-9]\d+)(?:_|$)")
_VARIABLE = re.compile(r"(?:^|_)(?:TP|TP_SIZE|TENSOR_PARALLEL_SIZE)$")


def needs_it(stage: Stage) -> bool:
    """Whether the test's file name (``_tp2_``) or environment (``TP_SIZE: 2``) says that one model spans GPUs."""
    parallel = (value for name, value in stage.extra_env.items() if _VARIABLE.search(name))
    return bool(_NAMED.search(PurePosixPath(stage.test).stem)) or any(
        value.isdigit() and int(value) > 1 for value in parallel
    )


def checks(subject: Subject, status: Path = STATUS) -> Iterator[Check]:
    """``host.ptrace``, for a selection with such a test."""
    tests = sorted({PurePosixPath(stage.test).name for stage in subject.stages if needs_it(stage)})
    if not tests:
        return
    mask = _effective(status)
    if mask is None:
        yield Check(
            id="host.ptrace",
            status="unknown",
            detail=f"{status} does not say which capabilities are in force; {', '.join(tests)} needs CAP_SYS_PTRACE",
            fix=f"grep CapEff {status}",
        )
    elif mask >> CAP_SYS_PTRACE & 1:
        yield Check(id="host.ptrace", status="ok", detail=f"CAP_SYS_PTRACE is in force, for {', '.join(tests)}")
    else:
        yield Check(
            id="host.ptrace",
            status="missing",
            detail=f"{', '.join(tests)} needs CAP_SYS_PTRACE, which only the container's start can give",
            fix="docker run --cap-add=SYS_PTRACE",
        )


def _effective(status: Path) -> int | None:
    try:
        found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)\s*$", status.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(found.group(1), 16) if found else None
