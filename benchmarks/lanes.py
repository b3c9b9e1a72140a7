"""Wall time of a run on two lanes beside the same run on one: real supervisors, runners and pytests. About a minute.

The tests wait, as real ones wait for their server, so that two cores are enough for two lanes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, in_turn, show

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import laned
import toy

REPEATS = 2
WAITS_S = 2.0
"""Each of a file's two tests waits so long."""


def figures() -> Iterator[Figure]:
    """Two files, two repeats each; two lanes take at best half of what one takes."""
    two, one = in_turn(lambda: wall_s(2), lambda: wall_s(1), rounds=3)
    yield Figure("a run on two lanes", two, one, "s", "on one lane", 0.65, 1)


def wall_s(lanes: int) -> float:
    """From the first test's begin to the run's last event."""
    with tempfile.TemporaryDirectory(prefix="tune-lanes-") as folder:
        project = laned.make(Path(folder) / "repo", body=f"    import time\n    time.sleep({WAITS_S})\n")
        run = toy.start(project, REPEATS, lanes=lanes)
        if not toy.wait_until_rest(project, run.run_id, 300).strict_complete:
            raise RuntimeError(toy.told(run))
        return run.events.stat().st_mtime - min(float(fact["began"]) for fact in laned.seen(project))


if __name__ == "__main__":
    sys.exit(show(figures()))
