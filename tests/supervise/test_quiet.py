"""When others have disturbed a measurement, and when a launch waits for them: by the machine, never by values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.config.lanes import Quiet
from tune_mcp.procfs import TICKS_PER_S, CpuTicks
from tune_mcp.supervise.quiet import monitor as monitors
from tune_mcp.supervise.quiet.foreign import ForeignUse
from tune_mcp.supervise.quiet.look import Look, Member, Where
from tune_mcp.supervise.quiet.monitor import Monitor
from tune_mcp.supervise.quiet.rule import busiest, intrusion, mean
from tune_mcp.supervise.watch.alerts import AlertBook

QUIET = Quiet(foreign_cores=0.10, window_s=30)
STEP_S = 5.0


def course(*parts: tuple[float, float | None], step_s: float = STEP_S) -> list[ForeignUse]:
    """Readings in steps: (seconds, foreign cores) after each other; None is not measured."""
    return [
        ForeignUse(step_s, cores, cores, unmeasured="" if cores is not None else "nobody knows")
        for seconds, cores in parts
        for _ in range(round(seconds / step_s))
    ]


@pytest.mark.parametrize(
    ("parts", "disturbed"),
    [
        ([(120, 0.03)], False),
        ([(60, 0.02), (30, 0.3), (30, 0.02)], True),
        ([(120, 0.11)], True),
        ([(120, 0.09)], False),
        ([(40, 0.0), (5, 8.0), (75, 0.0)], False),
        ([(10, 0.9), (10, 0.0)] * 6, True),
        ([(5, 1.0), (295, 0.02)] * 4, False),
        ([(40, 0.02), (20, 1.0), (60, 0.02)], True),
        ([(600, 0.0), (35, 0.2), (600, 0.0)], True),
        ([(600, 0.0), (25, 0.2), (600, 0.0)], False),
        ([(120, None)], False),
        ([(20, 1.0), (5, None), (20, 1.0), (600, 0.0)], False),
    ],
    ids=[
        "the host's background",
        "thirty seconds in the middle",
        "a little above, all the time",
        "a little below, all the time",
        "one burst of many cores",
        "on and off",
        "a burst every five minutes",
        "twenty seconds of two minutes",
        "a stretch in a long measurement",
        "a short one in a long measurement",
        "nothing was measured",
        "a hole in the measuring proves nothing",
    ],
)
def test_only_what_lasts_or_comes_again_disturbs(parts: Sequence[tuple[float, float | None]], disturbed: bool) -> None:
    assert (intrusion(course(*parts), QUIET) is not None) is disturbed


def test_a_measurement_shorter_than_the_window_is_disturbed_where_others_were_there_throughout() -> None:
    assert intrusion(course((6, 0.5), step_s=0.5), QUIET)
    assert intrusion(course((2, 0.0), (1.5, 1.0), (2.5, 0.0), step_s=0.5), QUIET) is None
    assert intrusion([], QUIET) is None


def test_what_may_be_ours_disturbs_nothing() -> None:
    doubtful = [ForeignUse(STEP_S, low=0.02, high=0.9) for _ in range(30)]

    assert intrusion(doubtful, QUIET) is None


def test_the_heaviest_stretch_is_the_one_that_is_reported() -> None:
    found = intrusion(course((20, 0.0), (40, 0.2), (10, 0.0), (40, 0.8), (20, 0.0)), QUIET)

    assert found is not None and not found.recurring
    assert (found.since_s, found.seconds, round(found.cores, 3)) == (70.0, 30.0, 0.8)


def test_mean_and_busiest_stretch_leave_out_what_was_not_measured() -> None:
    readings = course((30, 0.0), (30, 0.6), (60, None))

    assert mean(readings) == pytest.approx(0.3) and busiest(readings, 30) == pytest.approx(0.6)
    assert mean(course((30, None))) is None and busiest(course((20, 0.5)), 30) is None


# ---- the monitor, on a machine that a test makes up ------------------------------------------------------------

ROOT = 1
GONE = 2**22 - 1


@dataclass
class Machine:
    """Two CPUs on which others use ``load(second)`` cores; its clock goes on by waiting and by looks alone."""

    load: Callable[[float], float]
    now: float = 1000.0
    look_s: float = 0.002
    used: float = 0.0
    cost: float = 0.0
    blind: bool = False
    looks: list[float] = field(default_factory=list[float])

    def sleep(self, seconds: float) -> None:
        """Time passes in small parts, as a load that changes wants it."""
        while seconds > 1e-9:
            part = min(0.1, seconds)
            self.used += self.load(self.now - 1000.0) * part
            self.now += part
            seconds -= part

    def take(self) -> Look:
        self.cost += self.look_s
        self.looks.append(self.now)
        idle = round((2 * self.now - self.used) * TICKS_PER_S)
        half = CpuTicks(round(self.now * TICKS_PER_S) - idle // 2, 0, 0, idle // 2, 0, 0, 0, 0)
        ours = {(ROOT, ROOT): Member(0, 1.0, 0.0, Where.MIXED)}
        other = {(GONE, 1): round(self.used * TICKS_PER_S)}
        return Look(self.now, {} if self.blind else {0: half, 1: half}, ours, other, (0.1 * self.now, 0.0), None)

    def monitor(self, quiet: Quiet | None) -> Monitor:
        made = Monitor(frozenset({0, 1}), ROOT, quiet, self.take, lambda: self.cost, lambda: self.now)
        made.begin()
        return made

    def measure(self, made: Monitor, seconds: float, book: AlertBook | None = None) -> None:
        """A launch of that length, looked at four times a second."""
        for _ in range(round(seconds * 4)):
            self.sleep(0.25)
            made.look(book)


def test_a_quiet_lane_is_waited_for_a_second_at_most() -> None:
    machine = Machine(lambda _: 0.05)
    made, said = machine.monitor(QUIET), list[str]()

    assert (
        made.wait(machine.now + monitors.WAIT_LIMIT_S, machine.sleep, lambda: False, said.append) == "" and said == []
    )
    assert machine.now <= 1001.1


def test_a_noisy_lane_is_waited_for_until_a_step_is_quiet_and_the_intruders_are_named_once() -> None:
    machine = Machine(lambda second: 0.8 if second < 42 else 0.0)
    made, said = machine.monitor(QUIET), list[str]()

    assert made.wait(machine.now + monitors.WAIT_LIMIT_S, machine.sleep, lambda: False, said.append) == ""
    assert 1042 < machine.now < 1060
    assert said and said[0].startswith("0.80 cores of other processes on CPUs 0-1: ")


def test_the_wait_ends_with_who_was_there_and_at_a_stop_at_once() -> None:
    machine = Machine(lambda _: 1.5)
    why = machine.monitor(QUIET).wait(machine.now + monitors.WAIT_LIMIT_S, machine.sleep, lambda: False, lambda _: None)

    assert why.startswith("1.50 cores of other processes on CPUs 0-1") and why.endswith("waited 600 s")
    assert machine.now == pytest.approx(1000 + monitors.WAIT_LIMIT_S, abs=2 * STEP_S)
    blocked = monitors.not_quiet(why)
    assert (blocked.code, blocked.retryable) == ("NOT_QUIET", True) and "quiet.foreign_cores" in blocked.next
    stopped = Machine(lambda _: 1.5)
    assert stopped.monitor(QUIET).wait(stopped.now, stopped.sleep, lambda: True, lambda _: None) == ""


def test_what_came_before_a_launch_is_no_part_of_what_is_recorded_of_it() -> None:
    machine = Machine(lambda second: 2.0 if second < 30 else 0.0)
    made = machine.monitor(QUIET)
    made.wait(machine.now + monitors.WAIT_LIMIT_S, machine.sleep, lambda: False, lambda _: None)
    made.begin()
    machine.measure(made, 60)

    assert made.end() is None
    assert (made.quietness().foreign_cores, made.quietness().others) == (0.0, {})


@pytest.mark.parametrize("quiet", [QUIET, None], ids=["deciding", "recording only"])
def test_an_intrusion_is_recorded_always_and_decides_only_where_the_profile_says_so(quiet: Quiet | None) -> None:
    machine = Machine(lambda second: 1.2 if 20 <= second < 80 else 0.0)
    made = machine.monitor(quiet)
    machine.measure(made, 100)
    found = made.end()
    kept = made.quietness()

    assert (found is not None) is (quiet is not None)
    if found:
        assert made.sentence(found).startswith("1.20 cores of other processes on CPUs 0-1 for 3")
        assert f"(limit 0.1 for 30 s): ended since (process {GONE})" in made.sentence(found)
    assert kept.foreign_cores == pytest.approx(0.72, abs=0.01) and kept.window_cores == pytest.approx(1.2, abs=0.01)
    assert kept.peak_cores == pytest.approx(1.2, abs=0.01) and kept.measured_s == pytest.approx(100, abs=1)
    assert (kept.memory_wait, kept.io_wait, kept.stolen_cores) == ((0.1, 0.1), None, 0.0)
    assert sum(step[0] for step in kept.steps) == pytest.approx(100, abs=1)


def test_looking_costs_less_than_half_a_percent_of_a_core_however_slow_a_look_is() -> None:
    for look_s in (0.0015, 0.02, 0.2):
        machine = Machine(lambda _: 0.0, look_s=look_s)
        made = machine.monitor(QUIET)
        machine.measure(made, 600)
        made.end()
        cost = made.quietness().cost
        assert cost is not None and cost < 0.005, look_s


def test_an_intrusion_is_an_alert_while_it_lasts_and_so_is_a_machine_that_cannot_be_measured(tmp_path: Path) -> None:
    book = AlertBook(tmp_path / "watch.json", lambda: datetime(2026, 4, 23, tzinfo=UTC))
    machine = Machine(lambda second: 1.0 if 20 <= second < 80 else 0.0)
    made = machine.monitor(QUIET)
    machine.measure(made, 70, book)
    assert book.open("not quiet") and "cores of CPUs 0-1; the repeat will be" in book.alerts["not quiet"].cause
    machine.measure(made, 30, book)
    assert not book.open("not quiet") and not book.open("quiet unknown")

    machine.blind = True
    machine.measure(made, 30, book)
    assert "cannot be measured: /proc/stat does not show CPU 0" in book.alerts["quiet unknown"].cause
    assert made.quietness().unmeasured and made.quietness().steps[-1][1] is None


def test_a_short_measurement_is_seen_in_parts() -> None:
    machine = Machine(lambda second: 1.0 if 2 <= second < 3 else 0.0)
    made = machine.monitor(QUIET)
    machine.measure(made, 6)

    assert made.end() is None
    assert len(made.quietness().steps) >= 5
