"""From measured values to the file and back: never tighter than observed, and a second plan has nothing to do."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.config.stages import Display, GroupPolicy, Number, WorstOp
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.constants import parse_module
from tune_mcp.observe.worst import direction, write_value

PATH = "tests/test_asr.py"
_POLICIES = [GroupPolicy(rounding=rounding) for rounding in ("raw", "ceil4", "display", "ceil_int")]
_values = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000),
    st.decimals(-10, 10, places=4).map(float),
)
_tokens = st.one_of(
    st.sampled_from(["0", "5", "0.70", "1_000", "5e-3", ".25", "-3", "+0.5", "0x10"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**6), 10**6).map(str),
)


@pytest.mark.rule("APL-08", "APL-09", "APL-10", "APL-11", "APL-14")
@settings(max_examples=600, deadline=None)
@given(
    st.lists(_values, min_size=1, max_size=7),
    st.sampled_from(["min", "max"]),
    st.sampled_from(_POLICIES),
    st.sampled_from([1.0, 100.0]),
    st.integers(0, 6),
    _tokens,
)
@example([1e300], "max", _POLICIES[1], 1.0, 4, "0.5")
@example([5e-324], "max", _POLICIES[1], 1.0, 4, "0.5")
@example([0.0122, 0.0121], "max", _POLICIES[1], 1.0, 4, "0.5")
@example([-0.0], "min", _POLICIES[2], 1.0, 2, "5")
@example([2**53], "max", _POLICIES[2], 1.0, 2, "0.5")
def test_what_is_written_holds_every_repeat_and_is_a_fixed_point_of_the_next_plan(
    values: list[Number], worst: WorstOp, policy: GroupPolicy, scale: float, digits: int, token: str
) -> None:
    display = Display(label="x", scale=scale, digits=digits)
    raw = min(values) if worst == "min" else max(values)
    new = write_value(raw, worst, display, policy)
    before = f"A = 1\nX = {token}  # é\nB = X * 0.9\n".encode()
    literal = parse_module(before, PATH).find("X", None)

    after = rewrite(before, PATH, [Edit("X", None, literal.token, literal.value, new)])

    written = parse_module(after, PATH).find("X", None).value
    assert all(value >= written if worst == "min" else value <= written for value in values)
    assert direction(worst, written, new) is Direction.EQUAL
    assert write_value(written, worst, display, policy) == written
    assert rewrite(after, PATH, [Edit("X", None, None, written, new)]) == after
