"""Slack is read only where the code leaves no doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.report.slack import Slack, SlackReader

KIT = """
FACTOR = 1.25
def scaled(reference, factor=FACTOR):
    '''Documented.'''
    return reference * factor
def lowered(reference, by=0.02):
    return reference - by
def clever(reference, factor=1.25):
    if reference > 1:
        return reference
    return reference * factor
"""


def find(
    tmp_path: Path, source: str, *, symbol: str = "REF", subkey: str | None = None, worst: str = "max"
) -> Slack | None:
    (tmp_path / "kit").mkdir(exist_ok=True)
    (tmp_path / "kit/slack.py").write_text(KIT)
    (tmp_path / "tests").mkdir(exist_ok=True)
    (tmp_path / "tests/test_x.py").write_text(
        "from kit.slack import scaled, lowered, clever, FACTOR\nREF = 2.0\nSLACK = 1.1\n" + source
    )
    op = "min" if worst == "min" else "max"
    return SlackReader(tmp_path).find(("tests/test_x.py",), symbol, subkey, op, "tests/test_x.py")


@pytest.mark.parametrize(
    ("source", "factor", "offset"),
    [
        ("def t(x):\n    assert x <= REF", 1.0, 0.0),
        ("def t(x):\n    assert REF >= x, 'too slow'", 1.0, 0.0),
        ("def t(x):\n    assert x <= REF * SLACK", 1.1, 0.0),
        ("def t(x):\n    assert x <= (1 + 0.2) * REF", 1.2, 0.0),
        ("def t(x):\n    assert x <= REF / 0.8", 1.25, 0.0),
        ("def t(x):\n    assert x >= REF - 0.02", 1.0, -0.02),
        ("LIMIT = round(REF * SLACK, 3)\ndef t(x):\n    assert x <= LIMIT", 1.1, 0.0),
        ("LIMIT: float = REF * SLACK\n", 1.1, 0.0),
        ("LIMIT = REF\ndef t(x):\n    assert x <= LIMIT * 1.5", 1.5, 0.0),
        ("def t(x):\n    assert x <= scaled(REF)", 1.25, 0.0),
        ("def t(x):\n    assert x <= scaled(REF, 1.4)", 1.4, 0.0),
        ("def t(x):\n    assert x <= scaled(REF, factor=SLACK)", 1.1, 0.0),
        ("LIMIT = lowered(REF)\n", 1.0, -0.02),
        ("LIMIT = REF * FACTOR\n", 1.25, 0.0),
    ],
)
def test_certain_shapes_give_factor_and_offset(tmp_path: Path, source: str, factor: float, offset: float) -> None:
    slack = find(tmp_path, source)
    assert slack is not None
    assert (slack.factor, slack.offset) == (pytest.approx(factor), pytest.approx(offset))
    assert slack.how.startswith("tests/test_x.py:")
    assert slack.limit(2.0) == pytest.approx(2.0 * factor + offset)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def t(x):\n    check(x, REF)",
        "PRESET = dict(limit=REF)",
        "def t(x):\n    assert x <= clever(REF)",
        "def t(x):\n    assert x <= REF * unknown_name",
        "def t(x):\n    assert x <= REF * SLACK\n    assert x <= REF",
        "def t(x):\n    if x <= REF:\n        pass",
        "def t(x):\n    assert x == REF",
        "def t(x):\n    assert 0 < x <= REF",
        "LIMIT = REF * SLACK\ndef t(x):\n    assert x <= LIMIT * 2",
        "def t(x):\n    assert x <= -REF",
        "def t(x):\n    assert x <= 3 - REF",
        "LIMIT = REF / 0\n",
        "def t(x):\n    assert x <= scaled(*REF)",
        "def t(x):\n    assert x <= REF *",
    ],
)
def test_anything_else_is_unknown_and_never_guessed(tmp_path: Path, source: str) -> None:
    assert find(tmp_path, source) is None


NESTED = """
_P95 = {8: {"qps": 5.0, "latency": 1.0}}
THRESHOLDS = apply_slack(_P95, 0.9, 1.1)
def t(x):
    check(x, THRESHOLDS[8])
"""


def test_apply_slack_gives_lower_bounds_the_second_and_upper_bounds_the_third_argument(tmp_path: Path) -> None:
    low = find(tmp_path, NESTED, symbol="_P95", subkey="qps", worst="min")
    high = find(tmp_path, NESTED, symbol="_P95", subkey="latency")
    assert low is not None and high is not None
    assert (low.factor, high.factor) == (0.9, 1.1)


def test_a_use_of_another_key_of_the_same_dict_does_not_matter(tmp_path: Path) -> None:
    source = (
        "_P95 = {8: {'qps': 5.0, 'latency': 1.0}}\n"
        "def t(x):\n    assert x >= _P95[8]['qps'] * 0.8\n    log(_P95[8]['latency'])\n"
    )
    low = find(tmp_path, source, symbol="_P95", subkey="qps", worst="min")
    assert low is not None and low.factor == 0.8
    assert find(tmp_path, source, symbol="_P95", subkey="latency") is None


def test_a_symbol_imported_by_the_test_is_followed_to_its_use(tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text("REF = 2.0\n")
    (tmp_path / "test_y.py").write_text("from limits import REF as BOUND\ndef t(x):\n    assert x <= BOUND * 1.5\n")
    found = SlackReader(tmp_path).find(("limits.py", "test_y.py"), "REF", None, "max", "limits.py")
    assert found is not None and found.factor == 1.5


def test_a_missing_file_is_unknown(tmp_path: Path) -> None:
    assert SlackReader(tmp_path).find(("nowhere.py",), "REF", None, "max", "nowhere.py") is None
