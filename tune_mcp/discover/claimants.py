"""Which constants may stand for a metric of a test: those that its tests read, each of them (rule DSC-10).

A result file is a test's own. A constant that the test does not read says nothing about it, whatever its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.calibrated import CalibratedFile
from tune_mcp.discover.routing import Claim, Routing, Tree


@dataclass(frozen=True)
class _Dropped:
    file: CalibratedFile
    claim: Claim


def drop_unread(routes: Sequence[tuple[CalibratedFile, Routing]], reader: AssertionReader) -> list[str]:
    """Take the claims out of ``routes`` whose constant no test of their file reads.

    Gives a line for each constant that no other test file calibrates, and for each that may be read by a computed name.
    """
    kept: set[tuple[str, str]] = set()
    dropped: list[_Dropped] = []
    lines: list[str] = []
    for file, routing in routes:
        for tree in routing.trees:
            claims: list[Claim] = []
            for claim in tree.claims:
                reading = reader.reading(file.path, file.thresholds.path, claim.source)
                if reading.tests or reading.unsure:
                    claims.append(claim)
                    kept.add((file.thresholds.path, claim.source))
                else:
                    dropped.append(_Dropped(file, claim))
                if reading.tests and reading.unsure:
                    lines.append(
                        f"{file.thresholds.path}: {claim.source} is assumed to be read by the test: {reading.unsure}"
                    )
            tree.claims = claims
        with_claims = {tree.variant for tree in routing.trees if tree.claims}
        routing.trees = [tree for tree in routing.trees if tree.variant in with_claims]
    for one in dropped:
        place = (one.file.thresholds.path, one.claim.source)
        if place not in kept:
            kept.add(place)
            lines.append(f"{place[0]}: {place[1]} is not calibrated: no test of {one.file.name} reads it")
    return lines


def rivals_of(
    metric: str, claims: Sequence[Claim], tree: Tree, file: CalibratedFile, reader: AssertionReader
) -> list[Claim]:
    """Constants that bear the metric's name as well, are read by the test, and are not made of one of its claims."""
    threshold_file = file.thresholds.path
    return [
        rival
        for rival in tree.rivals
        if rival.spec.key == metric
        and reader.reading_tests(file.path, threshold_file, rival.source)
        and not any(reader.derives(threshold_file, rival.symbol, claim.source) for claim in claims)
    ]
