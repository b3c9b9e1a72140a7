"""One measured figure, what stands beside it, and the table of them. A figure without its neighbour means nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """Ours and its neighbour in the same unit; the ratio must not pass the ceiling."""

    name: str
    ours: float
    beside: float
    unit: str
    what: str
    ceiling: float
    digits: int = 2

    @property
    def ratio(self) -> float:
        return self.ours / self.beside

    @property
    def held(self) -> bool:
        return self.ratio <= self.ceiling

    def cells(self) -> tuple[str, str, str, str, str, str]:
        ours, beside = (f"{value:.{self.digits}f} {self.unit}" for value in (self.ours, self.beside))
        verdict = "" if self.held else "over"
        return self.name, ours, f"{beside} ({self.what})", f"{self.ratio:.2f}", f"{self.ceiling:.2f}", verdict


def in_turn(*works: Callable[[], float], rounds: int = 7) -> list[float]:
    """The median of what each of these gives, asked in turn, so that a drift of the machine meets all alike.

    A first round warms caches and does not count.
    """
    found = [[work() for work in works] for _ in range(rounds + 1)]
    return [median(column) for column in zip(*found[1:], strict=True)]


def cpu_of(work: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """CPU seconds of ``work`` in this process, a mean of so many ``times``."""

    def measured() -> float:
        begin = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - begin) / times

    return measured


def cpu_of_command(argv: list[str]) -> Callable[[], float]:
    """CPU seconds of a command, from the start of its process to the end."""

    def measured() -> float:
        before = children_cpu()
        subprocess.run(argv, check=True, capture_output=True, env=environment())
        return children_cpu() - before

    return measured


def cpu_now(pid: int) -> float:
    """CPU seconds of a living process so far, by its own clock of nanoseconds (clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def environment() -> dict[str, str]:
    """Ours, in which Python keeps the bytecode of what it imports, as it does where nobody says otherwise."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTEST_ADDOPTS")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def children_cpu() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(figures: Iterable[Figure], markdown: bool = False) -> int:
    """Print the table; returns 1 when a figure is over its ceiling."""
    before, found = os.getloadavg()[0], list(figures)
    machine = f"{os.cpu_count()} CPUs, Python {sys.version.split()[0]}, load {before:.1f} → {os.getloadavg()[0]:.1f}"
    if markdown:
        print(f"{machine}\n\n| figure | ours | beside | ratio | ceiling |\n|---|---|---|---|---|")
        for figure in found:
            print(f"| {' | '.join(figure.cells()[:5])} |")
    else:
        table = Table(title=machine, box=None)
        for name in ("figure", "ours", "beside", "ratio", "ceiling", ""):
            table.add_column(name, no_wrap=True)
        for figure in found:
            table.add_row(*figure.cells())
        Console(width=170).print(table)
    return 0 if all(figure.held for figure in found) else 1
