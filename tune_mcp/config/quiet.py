"""``quiet`` of a host profile: how much foreign CPU time a measurement on a lane bears, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tune_mcp.config.fields import ConfigModel

FOREIGN_CORES = 0.10
"""The instrument resolves 0.02; what a machine does all the time sets the limit."""
WINDOW_S = 30.0


class Quiet(ConfigModel):
    """More than ``foreign_cores`` on a lane's CPUs for ``window_s`` seconds disturbs what is measured there."""

    foreign_cores: Annotated[float, Field(gt=0, le=1024, allow_inf_nan=False)] = FOREIGN_CORES
    window_s: Annotated[float, Field(ge=2, le=3600, allow_inf_nan=False)] = WINDOW_S

    @property
    def step_s(self) -> float:
        """How often to look: a sixth of the window, between half a second and five."""
        return min(5.0, max(0.5, self.window_s / 6))
