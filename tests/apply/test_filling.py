"""The bytes of a filled table: its own style, its comments, its line ends, and nothing else."""

from __future__ import annotations

import pytest

from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.errors import Code, Refusal


def edit(source: str, value: float, concurrency: int | None = 8) -> Edit:
    return Edit(source, concurrency, None, None, value)


A, B = edit("_P95['rtf_mean']", 0.5), edit("_P95['latency_mean_s']", 2.0)


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("before", "edits", "after"),
    [
        ("_P95 = {}\n", [A, B], '_P95 = {8: {"rtf_mean": 0.5, "latency_mean_s": 2.0}}\n'),
        ("_P95 = {  }\n", [A], '_P95 = {8: {"rtf_mean": 0.5}}\n'),
        ("_P95 = {\n}\n", [A], '_P95 = {8: {"rtf_mean": 0.5}}\n'),
        ("_P95 = {\n    # by load\n}\n", [A], '_P95 = {\n    # by load\n    8: {"rtf_mean": 0.5},\n}\n'),
        (
            "_P95 = {\n    8: {\n        # none yet\n    },\n}\n",
            [A, B],
            '_P95 = {\n    8: {\n        # none yet\n        "rtf_mean": 0.5,\n'
            '        "latency_mean_s": 2.0,\n    },\n}\n',
        ),
        ("_P95 = {8: {'q': 1}}\n", [A], "_P95 = {8: {'q': 1, 'rtf_mean': 0.5}}\n"),
        ('_P95 = {8: {"q": 1,}}\n', [A], '_P95 = {8: {"q": 1, "rtf_mean": 0.5,}}\n'),
        ('_P95 = {8: {"q": (1)}}\n', [A], '_P95 = {8: {"q": (1), "rtf_mean": 0.5}}\n'),
        (
            '_P95 = {\n  8: {\n    "q": 1  # a, (b)\n  }\n}\n',
            [A, B],
            '_P95 = {\n  8: {\n    "q": 1,  # a, (b)\n    "rtf_mean": 0.5,\n    "latency_mean_s": 2.0\n  }\n}\n',
        ),
        (
            '_P95 = {\n  8: {\n    "q": 1,\n    # the end\n  }\n}\n',
            [A],
            '_P95 = {\n  8: {\n    "q": 1,\n    "rtf_mean": 0.5,\n    # the end\n  }\n}\n',
        ),
        (
            '_P95 = {8: {\n\t"q": 1,\n}}\n',
            [A],
            '_P95 = {8: {\n\t"q": 1,\n\t"rtf_mean": 0.5,\n}}\n',
        ),
        (
            '_P95 = {8: {\r\n    "q": 1,  # ü\r\n}}\r\n',
            [A],
            '_P95 = {8: {\r\n    "q": 1,  # ü\r\n    "rtf_mean": 0.5,\r\n}}\r\n',
        ),
        (
            '_P95 = {8: {"p": 0, "q": 1,\n             "r": 2}}\n',
            [A],
            '_P95 = {8: {"p": 0, "q": 1,\n             "r": 2, "rtf_mean": 0.5}}\n',
        ),
        (
            '_P95 = {\n    8: {\n        "p": 0, "q": 1,\n    },\n}\n',
            [A],
            '_P95 = {\n    8: {\n        "p": 0, "q": 1, "rtf_mean": 0.5,\n    },\n}\n',
        ),
        ('\ufeffé = "ü"; _P95 = {8: {"rtf_mean": None}}\n', [A], '\ufeffé = "ü"; _P95 = {8: {"rtf_mean": 0.5}}\n'),
    ],
)
def test_the_entry_is_written_as_the_dicts_own_entries_are(before: str, edits: list[Edit], after: str) -> None:
    assert rewrite(before.encode(), "t.py", edits).decode() == after


@pytest.mark.rule("APL-15")
def test_a_value_and_a_first_value_of_one_table_are_written_together() -> None:
    old = 'X = None\n_P95 = {8: {"q": 1.0, "rtf_mean": None}}\n'
    edits = [Edit("_P95['q']", 8, "1.0", 1.0, 2.5), A, B, edit("X", 3, None)]
    new = 'X = 3\n_P95 = {8: {"q": 2.5, "rtf_mean": 0.5, "latency_mean_s": 2.0}}\n'
    assert rewrite(old.encode(), "t.py", edits).decode() == new


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("now", ["X = 0.5\n", "X = None\nX = None\n", "X = float()\n", "Y = None\n"])
def test_a_place_that_is_no_longer_blank_is_refused(now: str) -> None:
    with pytest.raises(Refusal) as caught:
        rewrite(now.encode(), "t.py", [edit("X", 0.5, None)])
    assert caught.value.code is Code.THRESHOLD_CHANGED


@pytest.mark.rule("APL-17")
def test_a_dict_without_a_place_for_an_entry_is_refused() -> None:
    with pytest.raises(Refusal) as caught:
        rewrite(b"_P95 = {8: { \\\n }}\n", "t.py", [A])
    assert caught.value.code is Code.THRESHOLD_UNKNOWN
