"""Foreign CPU time is what the lane's CPUs did less what our own tree did, in made-up looks and with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tune_mcp import procfs
from tune_mcp.procfs import TICKS_PER_S, CpuTicks
from tune_mcp.supervise.quiet.foreign import ForeignUse, foreign_use, intruders
from tune_mcp.supervise.quiet.look import Look, Looker, Member, Where

LANE = frozenset({0, 1})
ROOT = 10
IN, OUT, MIXED = Where.INSIDE, Where.OUTSIDE, Where.MIXED
Tree = Mapping[int, tuple[int, float, float, Where]]
"""pid -> parent, seconds of its own, seconds of children it waited for, where it may run."""
START: Tree = {ROOT: (1, 5.0, 0.0, MIXED), 20: (ROOT, 100.0, 40.0, IN), 30: (ROOT, 900.0, 0.0, OUT)}


def look(at: float, busy: Mapping[int, float], tree: Tree, **kinds: float) -> Look:
    """A machine of four CPUs on which each has been busy for so many seconds since boot."""
    ticks = {cpu: round((at - busy.get(cpu, 0.0)) * TICKS_PER_S) for cpu in range(4)}
    other = {name: round(seconds * TICKS_PER_S) for name, seconds in kinds.items()}
    cpus = {
        cpu: CpuTicks(
            **dict.fromkeys(CpuTicks._fields, 0) | {"idle": idle, "user": round(at * TICKS_PER_S) - idle} | other
        )
        for cpu, idle in ticks.items()
    }
    members = {(pid, pid): Member(parent, own, reaped, where) for pid, (parent, own, reaped, where) in tree.items()}
    return Look(at, cpus, members, {}, None, None)


def between(busy: Mapping[int, float], tree: Tree, **kinds: float) -> ForeignUse:
    """Ten seconds in which the CPUs were busy for so long, from ``START`` to ``tree``."""
    return foreign_use(look(1000, {}, START), look(1010, busy, tree, **kinds), LANE, ROOT)


def cores(found: ForeignUse) -> tuple[float | None, float | None]:
    return tuple(None if one is None else round(one, 3) for one in (found.low, found.high))  # pyright: ignore


def test_others_are_what_is_left_of_the_lane_and_our_own_work_is_none_of_it() -> None:
    ours = {**START, 20: (ROOT, 108.0, 40.0, IN)}

    assert cores(between({0: 8.0}, ours)) == (0.0, 0.0)
    assert cores(between({0: 8.0, 1: 10.0}, ours)) == (1.0, 1.0)
    assert cores(between({0: 8.0, 3: 10.0}, ours)) == (0.0, 0.0)


def test_another_lane_of_ours_takes_nothing_from_this_one_and_adds_nothing_to_it() -> None:
    assert cores(between({0: 3.0, 2: 9.0}, {**START, 30: (ROOT, 909.0, 0.0, OUT)})) == (0.3, 0.3)


def test_a_child_that_lived_between_two_looks_counts_as_ours_through_its_parent() -> None:
    assert cores(between({0: 4.0}, {**START, 20: (ROOT, 100.0, 44.0, IN)})) == (0.0, 0.0)


def test_a_detached_server_that_ends_is_reaped_by_the_supervisor_and_was_in_the_lane_all_the_same() -> None:
    server = {**START, 40: (ROOT, 60.0, 0.0, IN)}
    gone = {**START, ROOT: (1, 5.0, 66.0, MIXED)}

    found = foreign_use(look(1000, {}, server), look(1010, {0: 6.0, 1: 2.0}, gone), LANE, ROOT)

    assert cores(found) == (0.2, 0.2)


def test_another_lane_that_ends_leaves_no_doubt_about_this_one() -> None:
    gone = {pid: one for pid, one in START.items() if pid != 30} | {ROOT: (1, 5.0, 903.0, MIXED)}

    assert cores(between({0: 5.0, 2: 3.0}, gone)) == (0.5, 0.5)


def test_a_process_of_ours_that_may_run_anywhere_makes_an_interval_and_not_an_intruder() -> None:
    found = between({0: 4.0, 2: 1.0}, {**START, ROOT: (1, 9.0, 0.0, MIXED)})

    assert cores(found) == (0.0, 0.1)


def test_a_process_that_changed_its_place_is_taken_for_one_that_may_run_anywhere() -> None:
    assert cores(between({0: 4.0}, {**START, 30: (ROOT, 904.0, 0.0, IN)})) == (0.0, 0.0)


def test_where_a_parent_reaps_a_child_of_another_place_nobody_claims_to_know() -> None:
    child = {**START, 50: (20, 80.0, 0.0, OUT)}
    moved = {**START, 20: (ROOT, 100.0, 40.0, IN), 30: (ROOT, 900.0, 85.0, OUT)}

    found = foreign_use(look(1000, {}, child), look(1010, {0: 5.0}, moved), LANE, ROOT)

    assert cores(found) == (0.0, 0.0)


def test_interrupts_are_nobodys_and_stolen_time_is_told_apart() -> None:
    interrupts = between({0: 3.0, 1: 3.0}, START, irq=1.0, softirq=0.5)

    assert cores(interrupts) == (0.3, 0.6)
    before, after = look(1000, {}, START), look(1010, {0: 5.0, 1: 5.0}, START, steal=5.0)
    stolen = foreign_use(before, after, LANE, ROOT)
    assert cores(stolen) == (0.0, 0.0) and stolen.stolen == pytest.approx(1.0)


def test_a_parent_that_lets_its_childrens_time_vanish_makes_nothing_certain() -> None:
    deaf = look(1010, {0: 9.0}, START)
    deaf.tree[20, 20] = Member(ROOT, 100.0, 40.0, IN, ignores_children=True)

    assert cores(foreign_use(look(1000, {}, START), deaf, LANE, ROOT)) == (0.0, 0.9)


def test_what_cannot_be_measured_is_null_and_says_why() -> None:
    away = foreign_use(look(1000, {}, START), look(1010, {}, START), frozenset({0, 77}), ROOT)
    headless = between({0: 9.0}, {20: START[20]})
    before = look(1000, {}, START)
    made_up = foreign_use(before, Look(1010, before.cpus, before.tree, {}, None, None), LANE, ROOT)
    hidden = foreign_use(
        Look(1000, {}, {}, {}, (1.0, 0.0), (2.0, 0.0)), Look(1010, {}, {}, {}, (1.5, 0.0), (7.0, 0.0)), LANE, 1
    )

    assert [(one.low, one.high, one.stolen) for one in (away, headless, made_up, hidden)] == [(None, None, None)] * 4
    assert away.unmeasured == "/proc/stat does not show CPU 77"
    assert headless.unmeasured == "the supervisor has ended"
    assert made_up.unmeasured == "/proc/stat accounts for 0.00 of the time that passed"
    assert (hidden.memory, hidden.io, away.memory) == (0.05, 0.5, None)


def test_those_that_used_most_come_first_and_idle_ones_are_not_named() -> None:
    before = Look(0.0, {}, {}, {(1, 1): 900, (2, 2): 100}, None, None)
    after = Look(10.0, {}, {}, {(1, 1): 900, (2, 2): 100 + 2 * TICKS_PER_S, (3, 3): 5 * TICKS_PER_S}, None, None)

    assert intruders(before, after) == {(3, 3): 0.5, (2, 2): 0.2}


# ---- real processes: the machine may be busy, so what is compared are bounds that hold on any --------------------

SPIN = "import os\nprint(os.getpid(), flush=True)\nwhile True: pass"
FORKS_TWICE = f"import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n{SPIN}"
TREE = """import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1]])
sys.stdin.read()
"""


@contextmanager
def ours(code: str, cpus: set[int]) -> Generator[tuple[int, int]]:
    """A tree with a subreaper on top and ``code`` below it, on these CPUs: pids of the top and of who runs the code."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", TREE, code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    ) as top:
        assert top.stdout
        worker = int(top.stdout.readline())
        try:
            yield top.pid, worker
        finally:
            os.kill(worker, 9)
            top.kill()


def watched(root: int, cpus: set[int], *pids: int) -> tuple[ForeignUse, list[float], float]:
    """What is read of these CPUs over a second, the cores that these processes used at least meanwhile, and the share
    of the time that the two looks took: on a busy machine a look's own parts lie apart."""
    looker = Looker(frozenset(cpus), root)
    began = time.monotonic()
    first, before = looker.look(), [procfs.cpu_seconds(pid) or 0.0 for pid in pids]
    seen = time.monotonic()
    time.sleep(1)
    after, again = [procfs.cpu_seconds(pid) or 0.0 for pid in pids], time.monotonic()
    last = looker.look()
    seconds = last.at - first.at
    found = foreign_use(first, last, frozenset(cpus), root)
    used = [(now - then) / seconds for then, now in zip(before, after, strict=True)]
    return found, used, (seen - began + time.monotonic() - again) / seconds


@pytest.mark.parametrize("code", [SPIN, FORKS_TWICE], ids=["a child", "a server that forks twice"])
def test_a_busy_process_of_our_own_tree_is_never_foreign(code: str) -> None:
    cpus = {max(os.sched_getaffinity(0))}
    with ours(code, cpus) as (root, worker):
        found, (used,), _ = watched(root, cpus, worker)

    assert found.high is not None and found.low is not None
    assert used > 0.02 and found.high <= 1 - used + 0.06


def test_a_busy_process_of_somebody_else_is_foreign_even_where_ours_work_beside_it() -> None:
    cpus = {max(os.sched_getaffinity(0))}
    with (
        ours(SPIN, cpus) as (root, worker),
        subprocess.Popen([sys.executable, "-S", "-c", SPIN], preexec_fn=lambda: os.sched_setaffinity(0, cpus)) as one,
    ):
        try:
            found, (mine, others), looking = watched(root, cpus, worker, one.pid)
        finally:
            one.kill()

    assert found.low is not None and found.high is not None
    assert others - 0.06 - looking <= found.low <= found.high <= 1 - mine + 0.06


def test_a_process_table_of_another_kind_of_machine_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  1 2 3\n")

    assert procfs.cpus(tmp_path) == {} and procfs.cpus(tmp_path / "nowhere") == {}
    assert procfs.pressure("memory", tmp_path) is None
    assert procfs.cpu_seconds(2**22 - 1) is None and procfs.allowed_cpus(2**22 - 1, threads=True) is None
