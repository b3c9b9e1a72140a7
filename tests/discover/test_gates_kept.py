"""What tests assert is evaluated once in a process, and anew as soon as any file that was looked at is another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune_mcp.discover import python_files
from tune_mcp.discover.assertions import AssertionReader, Gate, Unread, reader

TEST, LIMITS = "tests/test_x.py", "tests/limits.py"
FILES = {
    TEST: "from helper import slack\nfrom tests.limits import REF\ndef test_a(m):\n    assert m <= slack(REF)\n",
    LIMITS: "REF = 2.0\nOTHER = 3.0\n",
    "tests/conftest.py": "from tests.more import FACTOR\n",
    "tests/more.py": "FACTOR = 1.5\n",
    "helper.py": "def slack(value):\n    return value * 1.5\n",
}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The constants that were evaluated, in order."""
    found: list[str] = []
    right = AssertionReader._gate  # pyright: ignore[reportPrivateUsage]

    def counted(self: AssertionReader, *asked: Any) -> Gate | Unread:
        found.append(asked[2])
        return right(self, *asked)

    monkeypatch.setattr(AssertionReader, "_gate", counted)
    return found


def write(root: Path, files: dict[str, str] | None = None) -> None:
    for name, text in (files or FILES).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def limit(root: Path, source: str = "REF", **more: Any) -> float | str:
    found = AssertionReader(root).gate(TEST, LIMITS, source, None, **more)
    return found.limit(2.0) if isinstance(found, Gate) else found.reason


def test_an_unchanged_repository_is_evaluated_once(tmp_path: Path, evaluated: list[str]) -> None:
    write(tmp_path)

    assert [limit(tmp_path) for _ in range(3)] == [3.0, 3.0, 3.0]
    assert limit(tmp_path, "OTHER") == limit(tmp_path, "OTHER")
    assert limit(tmp_path) == 3.0
    assert evaluated == ["REF", "OTHER"]


CHANGES: dict[str, tuple[Callable[[Path], object], float | None]] = {
    "the test file": (lambda root: write(root, {TEST: FILES[TEST].replace("slack(REF)", "REF")}), 2.0),
    "the threshold file": (lambda root: write(root, {LIMITS: "REF = 2.5\n"}), 3.0),
    "a conftest": (lambda root: write(root, {"tests/conftest.py": "import helper\nhelper.slack = max\n"}), None),
    "what a conftest imports": (lambda root: write(root, {"tests/more.py": "import helper\n"}), 3.0),
    "an imported helper": (lambda root: write(root, {"helper.py": FILES["helper.py"].replace("1.5", "1.25")}), 2.5),
    "a new file that shadows an import": (
        lambda root: write(root, {"tests/helper.py": FILES["helper.py"].replace("1.5", "2")}),
        4.0,
    ),
    "a new conftest": (lambda root: write(root, {"conftest.py": "import helper\nhelper.slack = max\n"}), None),
    "a new package": (lambda root: write(root, {"tests/__init__.py": ""}), 3.0),
    "a helper that is gone": (lambda root: (root / "helper.py").unlink(), None),
    "a helper behind a link": (
        lambda root: (
            write(root, {"elsewhere.py": FILES["helper.py"].replace("1.5", "1.25")}),
            (root / "helper.py").unlink(),
            (root / "helper.py").symlink_to("elsewhere.py"),
        ),
        2.5,
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_any_file_that_was_looked_at_is_evaluated_anew(
    tmp_path: Path, evaluated: list[str], what: str
) -> None:
    write(tmp_path)
    assert limit(tmp_path) == 3.0
    change, wanted = CHANGES[what]
    change(tmp_path)
    # The times say nothing.
    for path in tmp_path.rglob("*.py"):
        os.utime(path, (0, 0))
    found = limit(tmp_path)

    assert evaluated == ["REF", "REF"]
    assert (found if isinstance(found, float) else None) == wanted, found


def test_a_change_of_a_file_that_nothing_looks_at_changes_nothing(tmp_path: Path, evaluated: list[str]) -> None:
    write(tmp_path)
    limit(tmp_path)
    write(tmp_path, {"tests/test_other.py": "def test_b():\n    pass\n", "README.md": "helper"})
    limit(tmp_path)

    assert evaluated == ["REF"]


def test_another_environment_is_another_question(tmp_path: Path, evaluated: list[str]) -> None:
    text = "import os\nfrom tests.limits import REF\ndef test_a(m):\n    assert m <= REF * float(os.environ['K'])\n"
    write(tmp_path, {**FILES, TEST: text})

    found = [limit(tmp_path, env={"K": value}) for value in ("2", "3", "2")]
    assert (found, evaluated) == ([4.0, 6.0, 4.0], ["REF", "REF"])


def test_a_reader_answers_for_the_files_as_it_first_read_them(tmp_path: Path) -> None:
    write(tmp_path)
    early = AssertionReader(tmp_path)
    assert isinstance(early.gate(TEST, LIMITS, "REF", None), Gate)
    CHANGES["an imported helper"][0](tmp_path)
    assert limit(tmp_path) == 2.5
    # What the early reader keeps is for its own files.
    early.gate(TEST, LIMITS, "OTHER", None)
    assert limit(tmp_path) == 2.5


def test_a_reading_while_a_file_was_replaced_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[str]
) -> None:
    """As git does at a checkout: the file is gone for a moment, and back before the end of the reading."""
    write(tmp_path)
    right, away = python_files.read_plain, [tmp_path / "helper.py"]

    def gone_once(path: Path) -> bytes:
        if path in away:
            away.remove(path)
            raise FileNotFoundError(path)
        return right(path)

    monkeypatch.setattr(python_files, "read_plain", gone_once)
    assert limit(tmp_path) != 3.0
    assert (limit(tmp_path), limit(tmp_path), evaluated) == (3.0, 3.0, ["REF", "REF"])


@pytest.mark.parametrize("seconds", ["_GATE_SECONDS", "_FILE_SECONDS", "_SECONDS"])
def test_a_reading_that_the_time_ended_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[str], seconds: str
) -> None:
    write(tmp_path)
    with monkeypatch.context() as short:
        short.setattr(reader, seconds, -1.0)
        assert limit(tmp_path) == "the tests take too many steps to follow"
    assert limit(tmp_path) == 3.0


def test_what_follows_a_reading_that_the_time_ended_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[str]
) -> None:
    """A function may have been given up for the time, and a reader gives it up no second time."""
    write(tmp_path)
    one = AssertionReader(tmp_path)
    with monkeypatch.context() as short:
        short.setattr(reader, "_GATE_SECONDS", -1.0)
        one.gate(TEST, LIMITS, "OTHER", None)
    one.gate(TEST, LIMITS, "REF", None)
    limit(tmp_path)

    assert evaluated == ["OTHER", "REF", "REF"]


def test_only_the_last_repositories_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[str]
) -> None:
    kept: dict[Path, object] = {}
    monkeypatch.setattr(reader, "_KEPT", kept)
    monkeypatch.setattr(reader, "_MAX_REPOSITORIES", 2)
    monkeypatch.setattr(reader, "_MAX_GATES", 1)
    roots = [tmp_path / name for name in "abc"]
    for root in roots:
        write(root)
        limit(root)
        limit(root, "OTHER")

    assert list(kept) == roots[1:]
    assert evaluated == ["REF", "OTHER"] * 3
    assert (limit(roots[2], "OTHER"), evaluated[6:]) == (limit(roots[2], "OTHER"), [])
    assert (limit(roots[2]), evaluated[6:]) == (3.0, ["REF"])
