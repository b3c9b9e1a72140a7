"""The edit: exactly the planned literals, and nothing else, byte for byte."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_mcp.apply.literals import Edit, number_text, rewrite
from tune_mcp.errors import Refusal


def edit(source: str, old: float, new: float, concurrency: int | None = None, text: str | None = None) -> Edit:
    return Edit(source=source, concurrency=concurrency, old_token=None, old_value=old, new_value=new, new_text=text)


@pytest.mark.rule("APL-15")
@pytest.mark.parametrize(
    ("before", "old", "after"),
    [
        (b"X_ACC_MIN = 0.81\n", 0.81, b"X_ACC_MIN = 0.9\n"),
        (b"X_ACC_MIN = 0.81  # X_ACC_MIN = 0.81\n", 0.81, b"X_ACC_MIN = 0.9  # X_ACC_MIN = 0.81\n"),
        (b"X_ACC_MIN: float | None = 2\n", 2, b"X_ACC_MIN: float | None = 0.9\n"),
        (b"X_ACC_MIN = 2.5e-2\n", 2.5e-2, b"X_ACC_MIN = 0.9\n"),
        (b"X_ACC_MIN = 12_000\n", 12000, b"X_ACC_MIN = 0.9\n"),
        (b"X_ACC_MIN = -0.3\n", -0.3, b"X_ACC_MIN = 0.9\n"),
        (b"X_ACC_MIN = .25\n", 0.25, b"X_ACC_MIN = 0.9\n"),
        (b"X_ACC_MIN = (0.25)\n", 0.25, b"X_ACC_MIN = (0.9)\n"),
        (b"A = 0.5; X_ACC_MIN = 0.5; B = 0.5\n", 0.5, b"A = 0.5; X_ACC_MIN = 0.9; B = 0.5\n"),
        (
            b"\xef\xbb\xbf# \xc3\xa4\r\nX_ACC_MIN = 0.5\t# \xe2\x9c\x93\r\n",
            0.5,
            b"\xef\xbb\xbf# \xc3\xa4\r\nX_ACC_MIN = 0.9\t# \xe2\x9c\x93\r\n",
        ),
        (
            '"""X_ACC_MIN = 0.5"""\nS = "é"; X_ACC_MIN = 0.5\n'.encode(),
            0.5,
            '"""X_ACC_MIN = 0.5"""\nS = "é"; X_ACC_MIN = 0.9\n'.encode(),
        ),
        (b"X_ACC_MIN = \\\n    0.5\n", 0.5, b"X_ACC_MIN = \\\n    0.9\n"),
    ],
)  # fmt: skip
def test_a_bare_number_is_replaced_by_token_and_the_rest_stays(before: bytes, old: float, after: bytes) -> None:
    assert rewrite(before, "t.py", [edit("X_ACC_MIN", old, 0.9)]) == after


@pytest.mark.rule("APL-16")
def test_a_nested_number_is_found_by_its_keys_and_not_by_its_value() -> None:
    before = (
        b"_X_P95 = {\n    2: {'qps': 1.0, 'mean': 1.0},  # 4: {'qps': 1.0}\n    4: {'qps': 1.0, 'mean': 1.0,},\n}\n"
    )

    after = rewrite(before, "t.py", [edit("_X_P95['qps']", 1.0, 7.25, concurrency=4)])

    assert after == before.replace(b"4: {'qps': 1.0, 'mean'", b"4: {'qps': 7.25, 'mean'")


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    "source",
    [
        "X_ACC_MIN = 0.5\nX_ACC_MIN = 0.6\n",
        "if True:\n    X_ACC_MIN = 0.5\n",
        "try:\n    X_ACC_MIN = 0.5\nexcept ValueError:\n    pass\n",
        "X_ACC_MIN = Y = 0.5\n",
        "X_ACC_MIN = 0.5 * 2\n",
        "R = 0.5\nX_ACC_MIN = R\n",
        "X_ACC_MIN = round(0.5, 3)\n",
        "X_ACC_MIN = None\n",
        "X_ACC_MIN = '0.5'\n",
        "X_ACC_MIN = True\n",
        "X_ACC_MIN = [0.5]\n",
        "X_ACC_MIN = 0.5\nX_ACC_MIN += 1\n",
        "X_ACC_MIN = 0.5\ndel X_ACC_MIN\n",
        "X_ACC_MIN = 0.5\ndef X_ACC_MIN(): pass\n",
        "from elsewhere import X_ACC_MIN\n",
        "Y = 0.5\n",
        "def f():\n    X_ACC_MIN = 0.5\n",
    ],
)
def test_what_is_no_plain_literal_is_refused_by_name(source: str) -> None:
    with pytest.raises(Refusal, match=r"^THRESHOLD_UNKNOWN .*X_ACC_MIN"):
        rewrite(source.encode(), "t.py", [edit("X_ACC_MIN", 0.5, 0.9)])


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("source", "concurrency"),
    [
        ("_X_P95 = {2: {'qps': 1.0}, 4: {'qps': 1.0}}\n", None),
        ("_X_P95 = {2: {'qps': 1.0}}\n", 4),
        ("_X_P95 = {2: {'mean': 1.0}}\n", 2),
        ("_X_P95 = {2: {'qps': 0.5 * 2}}\n", 2),
        ("_X_P95 = {2: {'qps': 1.0, 'qps': 2.0}}\n", 2),
        ("_X_P95 = {2: {'qps': 1.0}, 2: {'qps': 2.0}}\n", 2),
        ("_X_P95 = {'2': {'qps': 1.0}}\n", 2),
        ("_X_P95 = dict()\n", 2),
    ],
)
def test_a_nested_source_that_is_not_certain_is_refused(source: str, concurrency: int | None) -> None:
    with pytest.raises(Refusal, match=r"^THRESHOLD_UNKNOWN"):
        rewrite(source.encode(), "t.py", [edit("_X_P95['qps']", 1.0, 2.0, concurrency)])


@pytest.mark.rule("APL-24")
def test_another_present_value_than_the_plan_saw_is_refused() -> None:
    with pytest.raises(Refusal, match=r"^THRESHOLD_CHANGED .*0\.7"):
        rewrite(b"X_ACC_MIN = 0.7\n", "t.py", [edit("X_ACC_MIN", 0.5, 0.9)])


@pytest.mark.rule("APL-14")
def test_two_edits_of_one_literal_are_a_conflict_and_not_a_race() -> None:
    with pytest.raises(Refusal, match=r"two edits"):
        rewrite(b"X_ACC_MIN = 0.5\n", "t.py", [edit("X_ACC_MIN", 0.5, 0.9), edit("X_ACC_MIN", 0.5, 0.8)])


@pytest.mark.rule("APL-13")
def test_a_custom_value_keeps_the_spelling_that_the_person_gave() -> None:
    assert rewrite(b"X = 0.5\n", "t.py", [edit("X", 0.5, 0.25, text="2.50e-1")]) == b"X = 2.50e-1\n"


def test_an_equal_value_keeps_its_own_spelling() -> None:
    assert rewrite(b"X = 0.50\n", "t.py", [edit("X", 0.5, 0.5)]) == b"X = 0.50\n"


@pytest.mark.parametrize(
    ("value", "old", "text"),
    [(5, "4", "5"), (5.0, "4", "5"), (5.5, "4", "5.5"), (5.0, "4.0", "5.0"), (5, "4.0", "5.0")],
)
def test_a_count_stays_a_count(value: float, old: str, text: str) -> None:
    assert number_text(value, old) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True])
def test_what_is_no_finite_number_is_never_written(value: float) -> None:
    with pytest.raises(Refusal):
        number_text(value, "1.0")


NUMBERS = st.one_of(st.floats(min_value=1e-6, max_value=1e6, allow_nan=False).map(repr), st.integers(0, 10**6).map(str))
COMMENTS = st.sampled_from(["", "  # plain", "  # ü ✓ 0.5", "  # X0 = 1"])
ENDS = st.sampled_from(["\n", "\r\n"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NUMBERS, COMMENTS), min_size=1, max_size=6), ENDS, st.data())
def test_only_the_planned_leaves_of_any_module_change(
    rows: list[tuple[str, str]], end: str, data: st.DataObject
) -> None:
    source = "".join(f"X{index} = {number}{comment}{end}" for index, (number, comment) in enumerate(rows)).encode()
    chosen = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    new = {index: data.draw(st.floats(min_value=1e-3, max_value=1e3, allow_nan=False)) for index in chosen}
    edits = [edit(f"X{index}", ast.literal_eval(rows[index][0]), value) for index, value in new.items()]

    after = rewrite(source, "t.py", edits)

    before_lines, after_lines = source.decode().split(end), after.decode().split(end)
    assert len(before_lines) == len(after_lines)
    for index, (number, comment) in enumerate(rows):
        if index not in new:
            assert after_lines[index] == before_lines[index]
            continue
        assert after_lines[index].endswith(comment)
        written = ast.literal_eval(after_lines[index].removeprefix(f"X{index} = ").split("  #")[0])
        assert written == new[index] or (written == ast.literal_eval(number) == new[index])
