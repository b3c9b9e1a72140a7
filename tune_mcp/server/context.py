"""What the server was started with; every call resolves the project anew, so nothing is remembered between calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tune_mcp.contract.options import Options
from tune_mcp.server.answers import Workers

if TYPE_CHECKING:
    from tune_mcp.calibration.project import Project


@dataclass
class ServerContext:
    """Set once by ``tune-mcp serve`` before the first message; ``mcp dev`` keeps the defaults."""

    options: Options = field(default_factory=Options)
    workers: Workers = field(default_factory=Workers)

    def project(self) -> Project:
        """The project as it is now."""
        from tune_mcp.calibration.project import Project

        return Project.resolve(self.options)


server_context = ServerContext()
