"""Wall time of a run on two lanes beside the same run on one: real supervisors, runners and pytests. About a minute.

The tests wait, as real ones wait for their server, so that two cores are enough for two lanes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, show

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import laned
import toy

REPEATS = 4
WAITS_S = 2.0
"""Each of a file's two tests waits so long."""


def figures() -> Iterator[Figure]:
    """Two files, four repeats each: on two lanes half of the work, and at most one launch at the end of only one."""
    walls: dict[int, float] = {}
    for lanes in (1, 2):
        with tempfile.TemporaryDirectory(prefix="tune-lanes-") as folder:
            project = laned.make(Path(folder) / "repo", body=f"    import time\n    time.sleep({WAITS_S})\n")
            run = toy.start(project, REPEATS, lanes=lanes)
            if not toy.wait_until_rest(project, run.run_id, 300).strict_complete:
                raise RuntimeError(toy.told(run))
            began = min(float(fact["began"]) for fact in laned.seen(project))
            walls[lanes] = run.events.stat().st_mtime - began
    launch = walls[1] / (2 * REPEATS)
    what = f"half of {walls[1]:.1f} s on one lane; one launch, {launch:.1f} s, taken off ours"
    yield Figure("run on two lanes", walls[2] - launch, walls[1] / 2, "s", what, 1.10, 1)


if __name__ == "__main__":
    sys.exit(show(figures()))
