"""The project's own cleanup script, where the host profile names one (rules GPU-07 to GPU-11).

It may end processes that are not ours, so a person enables it for one machine: nothing runs it but a runner whose
run is active, around a launch that uses GPUs. tune-mcp itself ends its own descendants and nobody else (GPU-16).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.run_dir import RunDir
from tune_mcp.session.state import Liveness, liveness
from tune_mcp.supervise.processes import StopLadder

LIMIT_S = 600.0
_TICK_S = 0.1


@dataclass(frozen=True)
class Cleanup:
    """The script, where it runs, and who hears of it. What it prints goes to the attempt's own log."""

    command: tuple[str, ...]
    repo_root: Path
    run: RunDir
    say: Callable[[str], None]
    limit_s: float = LIMIT_S

    def __call__(self, cancelled: Callable[[], bool]) -> str:
        """Run it; why it did not succeed, empty when it did or when there is none."""
        if not self.command:
            return ""
        shown = shlex.join(self.command)
        if liveness(self.run) is not Liveness.HELD:
            return f"the cleanup script was not run: {self.run.run_id} is not active ({shown})"
        self.say(f"cleanup: {shown}")
        begin = time.monotonic()
        try:
            script = subprocess.Popen(
                self.command,
                cwd=self.repo_root,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                stderr=sys.stderr,
                start_new_session=True,
            )
        except OSError as error:
            return f"the cleanup script could not be started: {error} ({shown})"
        while script.poll() is None and time.monotonic() < begin + self.limit_s and not cancelled():
            time.sleep(_TICK_S)
        code = script.poll()
        left = StopLadder(self.say).drain(script)
        self.say(
            f"cleanup ended with {code} after {time.monotonic() - begin:.1f} s, {len(left)} process(es) of it left"
        )
        if code is None:
            return f"the cleanup script was stopped: it did not end within {self.limit_s:g} s ({shown})"
        return f"the cleanup script ended with exit code {code} ({shown})" if code else ""
