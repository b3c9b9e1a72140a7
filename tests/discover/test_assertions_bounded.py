"""Odd test files cannot hold up a report: what takes long is unread with the reason, and so is what would need it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tune_mcp.discover.assertions import AssertionReader, Gate, Unread, UnreadKind, evaluator, reader

HEAD = "import pytest\nREF = 2.0\n"
LONG = {
    "conditions that double": "def test_a(m):\n    ok = m <= REF\n"
    + "".join(f"    ok = (ok and m[{one}]) or (m[{one}] > 1 and not ok)\n" for one in range(40))
    + "    assert ok",
    "nested loops": "def test_a(m):\n    for i in range(900):\n        for j in range(900):\n"
    "            if m[i] > j:\n                break\n            assert m <= REF",
    "recursion": "def f(n, r):\n    return f(n, r) + f(n, r)\ndef test_a(m):\n    assert m <= f(3, REF)",
    "a list that doubles": "X = [1]\nfor _ in range(60):\n    X = X + X\ndef test_a(m):\n    assert m <= REF",
    "a list that extends itself": "X = [1]\nfor _ in range(60):\n    X.extend(X)\ndef test_a(m):\n    assert m <= REF",
    "very many parameter sets": "".join(f"@pytest.mark.parametrize('{one}', range(999))\n" for one in "abc")
    + "def test_a(m, a, b, c):\n    assert m <= REF",
}
LARGE = [
    "9 ** 9 ** 9",
    "1 << 10 ** 11",
    "'a' * 10 ** 10",
    "(0,) * 10 ** 9",
    "f'{1:>{10 ** 10}}'",
    "'%9999999999d' % 1",
    "'x'.ljust(10 ** 10)",
    "'{:>9999999999}'.format(1)",
    "pow(9, 9 ** 9)",
]


def gate_of(tmp_path: Path, body: str) -> Gate | Unread:
    (tmp_path / "test_x.py").write_text(HEAD + body)
    return AssertionReader(tmp_path).gate("test_x.py", "test_x.py", "REF", None)


@pytest.mark.parametrize("body", LONG.values(), ids=LONG)
def test_what_takes_too_many_steps_is_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(reader, "_GATE_SECONDS", 0.2)
    found = gate_of(tmp_path, body)
    assert isinstance(found, Unread)
    assert (found.kind, found.reason) == (UnreadKind.UNCLEAR, "the tests take too many steps to follow")


@pytest.mark.parametrize("value", LARGE)
def test_a_value_that_would_be_very_large_is_never_computed(tmp_path: Path, value: str) -> None:
    unused = gate_of(tmp_path, f"X = {value}\ndef test_a(m):\n    assert m <= REF")
    assert isinstance(unused, Gate) and unused.limit(2.0) == 2.0
    used = gate_of(tmp_path, f"X = {value}\ndef test_a(m):\n    assert m <= REF * len(str(X))")
    assert isinstance(used, Unread) and used.kind is UnreadKind.UNCLEAR


def test_a_long_list_takes_what_fits_beside_it(tmp_path: Path) -> None:
    body = (
        "A = list(range(1000))\nB = A + A + A + A + A + A\nB.extend([1])\ndef test_a(m):\n    assert m <= REF * B[-1]"
    )
    assert isinstance(gate_of(tmp_path, body), Gate)


@pytest.mark.parametrize("call", ["max()", "min(*[])", "range()"])
def test_a_call_that_python_refuses_leaves_the_rest_readable(tmp_path: Path, call: str) -> None:
    body = f"def test_a(m):\n    with pytest.raises(TypeError):\n        {call}\n    assert m <= REF"
    assert isinstance(gate_of(tmp_path, body), Gate)


def test_sums_that_double_are_read_without_doing_them_twice(tmp_path: Path) -> None:
    found = gate_of(tmp_path, "def test_a(m):\n    x = REF\n" + "    x = x + x\n" * 60 + "    assert m <= x")
    assert isinstance(found, Gate) and found.limit(1.0) == 2.0**60


def test_a_key_of_sums_that_double_is_not_written_out(tmp_path: Path) -> None:
    """As in a test that counts pairs of labels: written out, this key would have 2**60 parts."""
    body = "def test_a(m, seen, other):\n    x = m[0]\n" + "    x = x + x\n" * 60
    body += "    {}[x, 1] = 0\n    other[x, 1] += 1\n    seen[1, x] = 1\n    assert m[1] <= REF"
    found = gate_of(tmp_path, body)
    assert isinstance(found, Gate) and found.limit(2.0) == 2.0


def test_a_file_that_has_taken_its_time_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_FILE_SECONDS", 0.0)
    (tmp_path / "test_x.py").write_text(HEAD + "REF2 = 3.0\ndef test_a(m):\n    assert m <= REF\n    assert m <= REF2")
    assertions = AssertionReader(tmp_path)
    first, second, again = (assertions.gate("test_x.py", "test_x.py", name, None) for name in ("REF", "REF2", "REF"))
    assert isinstance(first, Gate) and again == first
    assert isinstance(second, Unread) and second.kind is UnreadKind.UNCLEAR
    # Which tests read it is known all the same.
    assert assertions.reading_tests("test_x.py", "test_x.py", "REF").tests == {"test_a"}


@pytest.mark.parametrize("change", ["LIMITS['x'] = 155", "LIMITS.update({'x': 155})", "LIMITS.update(x=155)"])
def test_a_limit_that_is_pinned_to_another_number_is_said_to_be(tmp_path: Path, change: str) -> None:
    body = f"LIMITS = {{'x': REF * 1.1}}\n{change}\ndef test_a(m):\n    assert m <= LIMITS['x']"
    found = gate_of(tmp_path, body)
    assert isinstance(found, Unread) and found.kind is UnreadKind.NOT_ASSERTED
    assert found.reason == f"its limit is pinned to 155 (test_x.py:4: {change})"


def test_the_end_of_the_time_ends_a_reading_however_deep_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two functions that the constant does not reach are given up for their steps; the time is up within them."""
    body = "def inner(n):\n" + "    n = n + 1\n" * 200 + "    return n\ndef outer(n):\n    return inner(n)\n"
    (tmp_path / "test_x.py").write_text(HEAD + body + "def test_a(m):\n    outer(m)\n    assert m <= REF")
    assertions = AssertionReader(tmp_path)
    run = evaluator.Evaluator.run

    def late(self: Any, function: Any, *given: Any) -> Any:
        if function.name == "inner":
            self.deadline = -1.0
        found = run(self, function, *given)
        self.deadline = math.inf
        return found

    monkeypatch.setattr(evaluator.Evaluator, "run", late)
    found = assertions.gate("test_x.py", "test_x.py", "REF", None)
    assert isinstance(found, Unread) and found.reason == "the tests take too many steps to follow"
