"""Which machine the thresholds of a model belong to (rules SCP-01, SCP-02)."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from tune_mcp.config.fields import ConfigModel, Regex


class CiMachine(ConfigModel):
    """The machine whose numbers the thresholds are, CI's: GPUs by their NVML name, torch by its CUDA (SCP-01).

    ``gpu`` is a pattern for the whole name; ``cuda`` opens the version, so 13 is every 13.x.
    """

    gpu: Regex | None = None
    cuda: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = None
