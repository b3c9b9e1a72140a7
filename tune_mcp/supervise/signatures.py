"""Known failure signatures, as data: which log line names an infrastructure failure (rule WDG-01)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from tune_mcp.config.stages import Frozen

_TAIL_BYTES = 256 * 1024


class Signature(Frozen):
    """One pattern, searched line by line, and the name that people see."""

    pattern: str
    name: str


class Signatures(Frozen):
    """The shipped table."""

    fatal: tuple[Signature, ...]


@cache
def shipped() -> Signatures:
    """``signatures.yaml`` beside this module."""
    return Signatures.model_validate(yaml.safe_load(Path(__file__).with_name("signatures.yaml").read_bytes()))


def fatal_in(log: Path) -> str:
    """Name and line of the last fatal signature in the end of a log; empty when there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        for signature in shipped().fatal:
            if re.search(signature.pattern, line):
                return f"{signature.name}: {line.strip()[:200]}"
    return ""
