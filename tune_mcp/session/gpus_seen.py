"""``gpus.json``: the GPUs as the run last saw them. Readers take this; only precheck and a runner ask NVML.

NVML can take seconds or hang, and a look of its own for each poll would load the machine that is being measured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from tune_mcp.config.stages import Frozen
from tune_mcp.files import dump_json, read_plain, write_atomic
from tune_mcp.gpus import GpuReader, GpuReading
from tune_mcp.run_dir import RunDir, iso


class GpusSeen(Frozen):
    """One look and when it was taken (UTC)."""

    schema_version: int = 1
    seen_at: str
    reading: GpuReading


@dataclass(frozen=True)
class Recording:
    """A reader that leaves what it saw in the run."""

    run: RunDir
    read: GpuReader
    now: Callable[[], datetime]

    def __call__(self) -> GpuReading:
        """One look."""
        reading = self.read()
        seen = GpusSeen(seen_at=iso(self.now()), reading=reading)
        with suppress(OSError):  # a view for readers: a full disk costs the view, never the measurement
            write_atomic(self.run.gpus, dump_json(seen.model_dump(mode="json")), durable=False)
        return reading


def last(run: RunDir) -> GpusSeen | None:
    """The last look; None when there was none or its file is damaged."""
    try:
        return GpusSeen.model_validate_json(read_plain(run.gpus))
    except (OSError, ValidationError):
        return None
