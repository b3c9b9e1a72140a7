"""Figures of tune-mcp, each a ratio measured side by side in one run: ``make bench``.

``python benchmarks/run.py [--markdown] [TOPIC...]``; each topic (characters, startup, ...) is a module of its own.
``--discover REPO MODEL`` measures discover alone, over a real checkout.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import characters
import lanes
import makespan
import quiet
import reading
import startup
import supervision
from figure import show

TOPICS = {
    "characters": characters,
    "startup": startup,
    "reading": reading,
    "supervision": supervision,
    "lanes": lanes,
    "quiet": quiet,
    "makespan": makespan,
}


def main() -> int:
    """Measure and print; exit code 1 when a figure is over its ceiling."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("topics", nargs="*", choices=[[], *TOPICS], help="all unless given")
    arguments.add_argument("--markdown", action="store_true", help="the table as docs/reference/benchmarks.md has it")
    arguments.add_argument("--discover", nargs=2, metavar=("REPO", "MODEL"), help="discover alone, over a checkout")
    given = arguments.parse_args()
    if given.discover:
        repo, model = given.discover
        return show(reading.discovered_in(Path(repo).resolve(), model), given.markdown)
    return show(chain.from_iterable(TOPICS[name].figures() for name in given.topics or TOPICS), given.markdown)


if __name__ == "__main__":
    raise SystemExit(main())
