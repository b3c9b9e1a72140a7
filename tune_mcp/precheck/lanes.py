"""The lanes of the host profile: enough for the selected tests, and each with CPUs that can be had here."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tune_mcp.config.lanes import parse_cpus
from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject
from tune_mcp.words import number_of

ID = "host.lanes"


def checks(subject: Subject) -> Iterator[Check]:
    """``host.lanes``: one check for each lane that cannot be used, one more for a need that no lane covers."""
    placement, profile = subject.placement, f"hosts/{subject.host or '<name>'}.yaml"
    if not placement.lanes:
        if subject.needs.lane:
            what = "the thresholds of this model hold for a launch with CPUs of its own, and no host profile has lanes"
            fix = f"add lanes with gpus and cpus to {profile} (docs/how-to/lanes.md)"
            yield Check(id=ID, status="missing", detail=what, fix=fix)
        return
    gaps = [*_gaps(subject, profile)]
    yield from gaps
    if not gaps:
        used = {lane.name: lane for count in _needed(subject) for lane in placement.lanes_for(count)}
        detail = f"launches get one of {', '.join(lane.text() for lane in used.values())}"
        others = [lane.name for lane in placement.usable_lanes() if lane.name not in used]
        detail += f"; not used, another number of CPUs or too few GPUs: {', '.join(others)}" if others else ""
        yield Check(id=ID, status="ok", detail=detail)


def _needed(subject: Subject) -> list[int]:
    return sorted({*subject.gpus_per_test.values()}, reverse=True)


def _gaps(subject: Subject, profile: str) -> Iterator[Check]:
    placement, here = subject.placement, os.sched_getaffinity(0)
    for lane in placement.usable_lanes():
        if lane.cpus and (away := sorted({*parse_cpus(lane.cpus)} - here)):
            detail = f"lane {lane.name} names CPUs that this process cannot have: {', '.join(map(str, away[:8]))}"
            yield Check(
                id=f"{ID}:{lane.name}",
                status="missing",
                detail=detail,
                fix=f"correct cpus in {profile}: nproc --all; taskset -pc $$",
            )
        elif subject.needs.lane and not lane.cpus:
            detail = f"lane {lane.name} has no CPUs of its own, and the model's thresholds hold for a launch that has"
            yield Check(id=f"{ID}:{lane.name}", status="missing", detail=detail, fix=f"add cpus to it in {profile}")
    most = max(_needed(subject), default=0)
    if not placement.lanes_for(most):
        detail = f"{number_of(most, 'GPU')} needed at once, and no lane has as many that may be used"
        yield Check(id=f"{ID}:gpus", status="missing", detail=detail, fix=f"add a lane with {most} GPUs to {profile}")
