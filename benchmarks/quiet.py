"""What the quiet monitor reads beside the truth, with real processes, and whole calibrations that are simulated.

``python benchmarks/quiet.py``, about two minutes.

The truth is the kernel's own books by nanosecond and CPU (cgroup v1, cpuacct: what the lane did less what our tree did
on it), which the monitor never reads. Without them it is what the intruders themselves use, on a machine that is idle.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import quiet_simulated
from figure import Figure, cpu_of, in_turn, show

from tune_mcp import procfs
from tune_mcp.supervise.processes import become_subreaper
from tune_mcp.supervise.quiet.foreign import ForeignUse, foreign_use
from tune_mcp.supervise.quiet.look import Looker

SECONDS = 8.0
ALLOWED_CORES = 0.02
"""What the instrument resolves in a few seconds, for one CPU."""
SPIN = "while True: pass"
THIRTY = (
    "import time\nwhile True:\n    end = time.thread_time() + {on}\n    while time.thread_time() < end: pass\n"
    "    time.sleep({off})"
)
STORM = (
    "import os, time\nwhile True:\n    if not (pid := os.fork()):\n        end = time.thread_time() + 0.005\n"
    "        while time.thread_time() < end: pass\n        os._exit(0)\n    os.waitpid(pid, 0)\n    time.sleep(0.003)"
)
DETACHED = "import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
SERVER = DETACHED + THIRTY.format(on=0.03, off=0.03)
"""It detaches itself, as the servers of the real suite do."""


@dataclass(frozen=True)
class Scenario:
    """Programs of ours and of others, each with the CPU that it is pinned to: 0 is the lane, 1 another CPU."""

    name: str
    ours: tuple[tuple[str, int], ...] = ()
    others: tuple[tuple[str, int], ...] = ()


SCENARIOS = (
    Scenario("a spinner of others on the lane", others=((SPIN, 0),)),
    Scenario("a spinner of ours on the lane", ours=((SPIN, 0),)),
    Scenario("one of each on one CPU", ours=((SPIN, 0),), others=((SPIN, 0),)),
    Scenario("a spinner of others on another CPU", others=((SPIN, 1),)),
    Scenario("our server that forks twice", ours=((SERVER, 0),)),
    Scenario("our storm of 5 ms processes", ours=((STORM, 0),)),
    Scenario("a storm of 5 ms processes of others", others=((STORM, 0),)),
    Scenario("others, 30 % every 100 ms", others=((THIRTY.format(on=0.03, off=0.07), 0),)),
    Scenario("others, 30 % every 10 ms", others=((THIRTY.format(on=0.003, off=0.007), 0),)),
)


def figures() -> Iterator[Figure]:
    yield from measured()
    yield from quiet_simulated.figures()


def measured() -> Iterator[Figure]:
    """The error of each reading, beside what is allowed."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SystemExit("two CPUs are needed: one is the lane, the other is not")
    lane, other = cpus[0], cpus[1]
    os.sched_setaffinity(0, {other})
    for scenario in SCENARIOS:
        found, truth = run(scenario, lane, other)
        low, high = found.low or 0.0, found.high or 0.0
        error = max(low - truth, truth - high, 0.0)
        allowed = max(ALLOWED_CORES, 0.1 * truth if "storm" in scenario.name else 0.0)
        what = f"{scenario.name}: true {truth:.3f}, read {(low + high) / 2:.3f} ± {(high - low) / 2:.3f}"
        yield Figure(what, error, allowed, "cores", "allowed", 1.0, 3)
    os.sched_setaffinity(0, cpus)
    looker = Looker(frozenset({lane}), os.getpid())
    look, least = in_turn(cpu_of(looker.look), cpu_of(read_stats), rounds=21)
    yield Figure(
        "a look of the quiet monitor, CPU", look * 1000, least * 1000, "ms", "the stat of each process read", 1.8
    )


def read_stats() -> None:
    """The least that has to be read to know who used the processors."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                Path(f"/proc/{entry}/stat").read_bytes()


def run(scenario: Scenario, lane: int, other: int) -> tuple[ForeignUse, float]:
    """What was read, and what was true."""
    with ExitStack() as stack:
        books = stack.enter_context(accounts())
        root = stack.enter_context(tree([(code, (lane, other)[at]) for code, at in scenario.ours]))
        others = [stack.enter_context(program(code, (lane, other)[at])) for code, at in scenario.others]
        books.begin(root, lane, [child.pid for child, (_, at) in zip(others, scenario.others, strict=True) if at == 0])
        time.sleep(1.0)
        looker = Looker(frozenset({lane}), root.pid)
        before, then, at = looker.look(), books.foreign(), time.monotonic()
        time.sleep(SECONDS)
        after, now, end = looker.look(), books.foreign(), time.monotonic()
        return foreign_use(before, after, frozenset({lane}), root.pid), (now - then) / (end - at)


@contextmanager
def program(code: str, cpu: int) -> Generator[subprocess.Popen[bytes]]:
    """A Python program pinned to one CPU, killed in the end with all that it started."""
    child = subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-S", "-c", code], start_new_session=True)
    try:
        yield child
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def tree(programs: list[tuple[str, int]]) -> Generator[subprocess.Popen[bytes]]:
    """A process that stands for our supervisor: a subreaper, with these programs below it. It starts them at a line of
    input, when it is in its own accounts, and ends with all of them at the end of its input."""
    argv = [sys.executable, __file__, "--tree", *(word for code, cpu in programs for word in (code, str(cpu)))]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, bufsize=0)
    try:
        yield child
    finally:
        assert child.stdin
        child.stdin.close()
        child.wait()


def be_tree(words: list[str]) -> None:
    """The body of that process."""
    become_subreaper()
    sys.stdin.readline()
    for code, cpu in zip(words[::2], words[1::2], strict=True):
        subprocess.Popen(["taskset", "-c", cpu, sys.executable, "-S", "-c", code], stdin=subprocess.DEVNULL)
    sys.stdin.read()
    from tune_mcp.supervise.process_tree import read_tree

    while living := [one for one in read_tree().values() if one.alive]:
        for one in living:
            os.kill(one.pid, signal.SIGKILL)
        time.sleep(0.05)


@dataclass
class Accounts:
    """Foreign seconds on the lane so far, by somebody else's books."""

    ours: Path | None
    lane: int = 0
    intruders: list[int] = field(default_factory=list)

    def begin(self, root: subprocess.Popen[bytes], lane: int, intruders: list[int]) -> None:
        """Let the tree start its programs: from here on its time is in the books."""
        self.lane, self.intruders = lane, intruders
        if self.ours is not None:
            (self.ours / "cgroup.procs").write_text(str(root.pid))
        assert root.stdin
        root.stdin.write(b"\n")

    def foreign(self) -> float:
        if self.ours is None:
            return sum(procfs.cpu_seconds(pid) or 0.0 for pid in self.intruders)
        return self._percpu(CPUACCT) - self._percpu(self.ours)

    def _percpu(self, group: Path) -> float:
        return int((group / "cpuacct.usage_percpu").read_text().split()[self.lane]) / 1e9


CPUACCT = Path("/sys/fs/cgroup/cpuacct")


@contextmanager
def accounts() -> Generator[Accounts]:
    """Accounts for one tree, where this machine has such."""
    group = CPUACCT / f"quiet-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield Accounts(None)
        return
    try:
        yield Accounts(group)
    finally:
        group.rmdir()  # the tree is gone, zombies too


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tree"]:
        be_tree(sys.argv[2:])
    else:
        sys.exit(show(figures(), "--markdown" in sys.argv))
