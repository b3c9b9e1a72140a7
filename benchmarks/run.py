"""Figures of tune-mcp, each a ratio measured side by side in one run: ``make bench``.

``python benchmarks/run.py [--markdown] [startup] [reading] [supervision]``; each topic is a module of its own.
"""

from __future__ import annotations

import sys
from itertools import chain

import reading
import startup
import supervision
from figure import show

TOPICS = {"startup": startup, "reading": reading, "supervision": supervision}


def main(words: list[str]) -> int:
    """Measure and print; exit code 1 when a figure is over its ceiling."""
    chosen = [word for word in words if word in TOPICS] or list(TOPICS)
    return show(chain.from_iterable(TOPICS[name].figures() for name in chosen), "--markdown" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
