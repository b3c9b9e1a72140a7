"""What pytest reported about the tests of one repeat, as judgements about thresholds need it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TestFailure:
    """One failed phase of one test. ``assertion``: an AssertionError or a ``pytest.fail``; ``test_line``: the innermost
    line of the test's own file, 0 where there is none.
    """

    __test__ = False

    nodeid: str
    when: str
    exception: str
    assertion: bool
    message: str
    test_line: int = 0

    @property
    def by_assert(self) -> bool:
        """Raised by an ``assert`` of the call phase, not by ``pytest.fail``, a fixture or another exception."""
        return self.when == "call" and self.assertion and not self.exception.endswith("Failed")


@dataclass(frozen=True)
class Outcome:
    """One pytest session that counts: the node ids that ran, and what failed."""

    tests: tuple[str, ...]
    failures: tuple[TestFailure, ...]

    def failed(self) -> frozenset[str]:
        """Node ids with a failed phase."""
        return frozenset(one.nodeid for one in self.failures)


Outcomes = Mapping[tuple[str, int], Outcome]
"""(test key, repeat from 1) -> what pytest reported; a repeat of an older script has none."""


def names(nodeid: str) -> frozenset[str]:
    """How a test may be called: the node id, with and without its parameters, its path in the file, its function."""
    bare = nodeid.partition("[")[0]
    parts = bare.split("::")
    return frozenset({nodeid, bare, "::".join(parts[1:]) or bare, parts[-1]})


def matching(nodeids: Iterable[str], tests: Iterable[str]) -> Iterator[str]:
    """Those of ``nodeids`` that one of ``tests`` names."""
    wanted = frozenset(tests)
    return (nodeid for nodeid in nodeids if names(nodeid) & wanted)
