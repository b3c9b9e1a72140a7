"""What is checked, and the form of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.config.lanes import Placement
from tune_mcp.precheck.needs import Needs

if TYPE_CHECKING:
    from tune_mcp.config.metrics import MetricRules
    from tune_mcp.config.model import ModelConfig
    from tune_mcp.config.stages import Stage, StageTable


@dataclass(frozen=True)
class Subject:
    """A model's selected stages on this machine: where the repository and its interpreter are, and what they need.

    ``gpus_per_test`` maps a test key to the GPUs that one launch of it needs; ``allow_mig`` lets split ones count,
    ``placement`` says which GPUs and lanes of the host may be used;
    ``gpus_by_default`` are the test files of which no config says how many, so that one is assumed. ``needs`` is the
    rest that they ask of the machine. ``catalogue`` is what their table was
    discovered by, and the table; None where it is fixed already: in a run that was planned.
    """

    repo_root: Path
    model: str
    stages: tuple[Stage, ...]
    venv_python: Path | None
    venv_source: str
    venv_candidates: tuple[str, ...]
    host: str | None
    gpus_per_test: dict[str, int]
    allow_mig: bool = False
    placement: Placement = field(default_factory=Placement)
    gpus_by_default: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    catalogue: tuple[ModelConfig, MetricRules, StageTable] | None = None
