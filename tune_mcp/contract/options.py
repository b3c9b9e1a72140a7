"""What every verb takes: where to look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What a caller may choose: ``--repo --host --config --venv-python``; None means "find it"."""

    repo: Path | None = None
    host: str | None = None
    config: Path | None = None
    venv_python: str | None = None
