"""A gate says of every value what running the assertion says, for expressions that hypothesis makes up."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tune_mcp.discover.assertions import AssertionReader, Gate

FACTORS = st.sampled_from(["0.875", "1.125", "0.9", "1.1", "SLACK", "factor()", "1.25", "2"])
STEPS = st.sampled_from([0.001, 0.01, 0.3])


@st.composite
def limits(draw, depth: int = 2) -> str:
    """An expression over the constant in the grammar that is understood."""
    if depth == 0:
        return draw(st.sampled_from(["REF", "REF", "ALIAS", "D['k']"]))
    inner = draw(limits(depth=depth - 1))
    factor = draw(FACTORS)
    return draw(
        st.sampled_from(
            [
                inner,
                f"{inner} * {factor}",
                f"{factor} * ({inner})",
                f"({inner}) / {factor}",
                f"({inner}) - 0.02",
                f"({inner}) + {factor}",
                f"round({inner}, 2)",
                f"round(({inner}) * {factor}, 1)",
                f"min({inner}, 3.5)",
                f"max({inner}, 0.1)",
                f"float({inner})",
                f"slack({inner})",
                f"slack({inner}, by={factor})",
                f"(({inner}) if FLAG else 7.0)",
            ]
        )
    )


@st.composite
def bodies(draw) -> str:
    """A test's body that compares the measured value ``m`` with a limit in one of many ways."""
    limit = draw(limits())
    left = draw(st.sampled_from(["m", "m", "m", "m * SLACK", "m / 2", "m + 0.5", "round(m, 2)"]))
    op, other = draw(st.sampled_from([("<=", ">"), ("<", ">="), (">=", "<"), (">", "<=")]))
    turned = {"<=": ">=", "<": ">", ">=": "<=", ">": "<"}[op]
    return draw(
        st.sampled_from(
            [
                f"assert {left} {op} {limit}",
                f"assert {limit} {turned} {left}",
                f"assert not {left} {other} {limit}",
                f"assert ({left} {op} {limit}) is True",
                f"assert -1e308 <= {left} and {left} {op} {limit}",
                f"if {left} {other} {limit}:\n        raise AssertionError",
                f"if not {left} {op} {limit}:\n        pytest.fail('no')",
                f"bad = [1 for one in [{left}] if one {other} {limit}]\n    assert not bad",
                f"assert all(one {op} {limit} for one in [{left}])",
                f"checks = Checks()\n    checks.check({left} {op} {limit}, 'no')\n    checks.done()",
                f"holds({left} {op} {limit})",
            ]
        )
    )


SOURCE = """
import pytest
REF = {reference!r}
ALIAS = REF
D = {{"k": REF, "other": 5}}
SLACK = 1.1
FLAG = True

def factor(by=1.3):
    return by

def slack(value, by=1.25):
    return round(value * by, 3)

def holds(condition):
    assert condition

class Checks:
    def __init__(self):
        self.failures = []

    def check(self, condition, message=""):
        if not condition:
            self.failures.append(message)

    def done(self):
        if self.failures:
            raise AssertionError("; ".join(self.failures))

def test_a(m):
    {body}
"""


def really_passes(source: str, value: float) -> bool:
    names: dict[str, Any] = {}
    exec(compile(source, "test_x.py", "exec"), names)
    try:
        names["test_a"](value)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=bodies(),
    reference=st.floats(0.01, 200).map(lambda one: round(one, 4)),
    others=st.lists(st.floats(0.001, 500), min_size=1, max_size=3),
    values=st.lists(st.floats(0, 1000), min_size=2, max_size=6),
)
def test_passes_and_limit_are_what_running_the_assertion_says(
    body: str, reference: float, others: list[float], values: list[float]
) -> None:
    source = SOURCE.format(reference=reference, body=body)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_x.py").write_text(source)
        gate = AssertionReader(Path(folder)).gate("test_x.py", "test_x.py", "REF", None)
    assert isinstance(gate, Gate), (body, gate)
    for one in (reference, *others):
        replaced = SOURCE.format(reference=one, body=body)
        limit = gate.limit(one)
        assume(math.isfinite(limit))
        inside, outside = (math.inf, -math.inf) if gate.worst == "min" else (-math.inf, math.inf)
        around = [limit, math.nextafter(limit, inside), math.nextafter(limit, outside), limit + 0.1, limit - 0.1]
        for value in (*values, *around):
            assert gate.passes(value, one) is really_passes(replaced, value), (body, one, value)
        assert gate.passes(limit, one) is not gate.strict
        assert gate.passes(math.nextafter(limit, inside), one)
        assert not gate.passes(math.nextafter(limit, outside), one)
