"""Where a run was measured, in audit and report: hosts and lanes that stand apart, repeats that are quarantined."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.contract.strict_audit import HostRow
from tune_mcp.observe.observation import Attempt, AttemptVerdict
from tune_mcp.report import apart
from tune_mcp.report.facts import Launch
from tune_mcp.supervise import comparing
from tune_mcp.supervise.job import AttemptResult, Engine, Job
from tune_mcp.verbs.report import report
from tune_mcp.verbs.strict_audit import strict_audit

ACCURACY, SPEED = toy.STAGES
LIKE_OTHERS = 10.0


def on(node: str, job: Job, throughput: float = LIKE_OTHERS, **facts: object) -> AttemptResult:
    """A healthy attempt on that node, whose machine differs from the run's in ``facts``."""
    machine = comparing.recorded_machine(job.run)
    assert machine is not None
    values = {"throughput_qps": throughput * (1 + job.repeat / 1000), "latency_mean_s": 2.5 / throughput}
    machine = machine.model_copy(update={"hostname": node, **facts})
    return toy.measured(job, speed=values).model_copy(
        update={"environment": machine, "engine": Engine(job_id="7", node=node)}
    )


def rows(project: toy.Project, run_id: str) -> dict[str, HostRow]:
    return {one.host: one for one in strict_audit(project, run_id).hosts}


def test_a_host_whose_repeats_stand_apart_is_flagged_in_audit_and_report_and_every_repeat_counts(
    tmp_path: Path,
) -> None:
    project = toy.make_toy(tmp_path / "repo")
    slow = {2: "slow", 5: "slow"}

    run = toy.finished_run(
        project, 6, lambda job: on(slow.get(job.repeat, "fast"), job, 8.0 if job.repeat in slow else LIKE_OTHERS)
    )

    found = rows(project, run.run_id)
    assert {name: one.repeats for name, one in found.items()} == {
        "fast": {ACCURACY: 4, SPEED: 4},
        "slow": {ACCURACY: 2, SPEED: 2},
    }
    (told,) = found["slow"].apart
    assert told.startswith("speed 25.") and "worse than on the other hosts (median of 1 test, z = " in told
    assert f"STANDS APART: {told}" in found["slow"].line()
    page = Path(report(project, run.run_id).report_md).read_text()
    assert told.partition(" (")[0] in page


def test_hosts_that_measure_alike_are_not_flagged(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    run = toy.finished_run(project, 6, lambda job: on("even" if job.repeat % 2 == 0 else "odd", job))

    assert [one.apart for one in rows(project, run.run_id).values()] == [(), ()]


@pytest.mark.rule("SCP-02")
def test_a_repeat_from_a_host_off_the_fingerprint_is_quarantined_named_and_measured_elsewhere(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    why = "image_digest is sha256:ab, was None"

    def measured(job: Job) -> AttemptResult:
        if job.repeat == 2 and job.attempt == 1:
            return on("odd", job, image_digest="sha256:ab").model_copy(update={"incomparable": why})
        return on("even", job)

    run = toy.finished_run(project, 2, measured)

    found = rows(project, run.run_id)
    assert {name: one.repeats for name, one in found.items()} == {"even": {ACCURACY: 2, SPEED: 2}, "odd": {}}
    (told,) = found["odd"].quarantined
    assert told.startswith("test_toy_ci repeat 2: ") and why in told
    page = Path(report(project, run.run_id).report_md).read_text()
    assert f"quarantined: {told}" in next(line for line in page.splitlines() if line.startswith("| `odd`"))


@pytest.mark.rule("SCP-02")
def test_a_recorded_repeat_from_a_host_off_the_fingerprint_is_no_evidence(tmp_path: Path) -> None:
    """Whatever judged it when it was recorded: the audit compares fingerprints itself."""
    project = toy.make_toy(tmp_path / "repo")

    run = toy.finished_run(
        project, 2, lambda job: on("odd", job, image_digest="sha256:ab" if job.repeat == 2 else None)
    )

    audited = strict_audit(project, run.run_id)
    assert not audited.ready and audited.strict_ready == "0/2"
    assert rows(project, run.run_id)["odd"].quarantined == (
        "test_toy_ci repeat 2: quarantined: odd has another fingerprint than the run's",
    )


def launch(lane: str, seconds: float, test: str = "a", *, superseded: bool = False) -> Launch:
    at = "2026-04-23T05:00:00Z"
    attempt = Attempt(
        attempt=1, verdict=AttemptVerdict.KEPT, started_at=at, ended_at=at, duration_s=seconds, log="x", lane=lane
    )  # fmt: skip
    return Launch(test=test, repeat=1, superseded=superseded, attempt=attempt)


def test_a_lane_that_is_slower_than_the_others_is_flagged_across_tests_of_any_length() -> None:
    alike = [launch(lane, base * factor, test) for test, base in (("a", 10), ("b", 300)) for lane, factor in
             (("left", 1.0), ("right", 1.01), ("left", 0.99), ("right", 1.0))]  # fmt: skip
    slow = [launch("far", base * 1.2, test) for test, base in (("a", 10), ("b", 300), ("b", 301))]

    told = apart.lanes([*alike, *slow, launch("far", 9.0, superseded=True)])

    assert [line.split(":")[0] for line in told] == ["Lane far", "Lane left", "Lane right"]
    assert ["stands apart" in line for line in told] == [True, False, False] and "3 counted" in told[0]


def test_a_run_on_one_lane_or_none_says_nothing_and_two_repeats_are_too_few_for_a_flag() -> None:
    assert apart.lanes([launch("", 1.0), launch("", 2.0)]) == [] == apart.lanes([launch("left", 1.0)])
    few = [launch("left", 10.0), launch("left", 10.0), launch("right", 20.0), launch("right", 20.0)]
    assert not any("apart" in line for line in apart.lanes(few))
