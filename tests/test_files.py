"""Files are whole or not there, JSON is strict, paths stay inside, locks hold across processes."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tune_mcp
from tune_mcp import files
from tune_mcp.files import FileLock, append_line, dump_json, inside, is_locked, parse_json, write_atomic

NAMES = ("write", "fsync", "fchmod", "rename")


class Broken(Exception):
    """The injected failure."""


def fail(*_: object, **__: object) -> None:
    raise Broken


def break_step(patch: pytest.MonkeyPatch, step: str) -> None:
    match step:
        case "write":
            patch.setattr(os, "fdopen", fail)
        case "fsync":
            patch.setattr(files.os, "fsync", fail)
        case "fchmod":
            patch.setattr(files.os, "fchmod", fail)
        case _:
            patch.setattr(Path, "replace", fail)


@pytest.mark.parametrize("step", NAMES)
def test_a_failed_write_leaves_the_old_bytes_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"old")

    with monkeypatch.context() as patch:
        break_step(patch, step)
        with pytest.raises(Broken):
            write_atomic(path, b"new")

    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("step", NAMES)
def test_a_failed_first_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with monkeypatch.context() as patch:
        break_step(patch, step)
        with pytest.raises(Broken):
            write_atomic(tmp_path / "plan.json", b"new")

    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_keeps_its_mode_and_a_new_one_is_readable_by_all(tmp_path: Path) -> None:
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    old.write_bytes(b"1")
    old.chmod(0o750)

    write_atomic(old, b"2")
    write_atomic(new, b"3")
    write_atomic(tmp_path / "secret", b"4", mode=0o600)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (old, new, tmp_path / "secret")]
    assert modes == [0o750, 0o644, 0o600]
    assert (old.read_bytes(), new.read_bytes()) == (b"2", b"3")


def test_a_durable_write_syncs_the_file_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        sync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)

    write_atomic(tmp_path / "a", b"1")
    write_atomic(tmp_path / "b", b"1", durable=False)

    assert steps == ["sync file", "rename", "sync folder", "rename"]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": -1e999}', '{"a": 1, "a": 2}', "{",
        "", "{} {}", "{'a': 1}", "\ufeff{}", "[" * 200_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_json_that_is_not_strict_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode())


@pytest.mark.parametrize("data", [b"\xff\xfe{}", b'{"a": "\xe9"}'])
def test_json_that_is_not_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_that_json_does_not_have_is_ever_written(value: float) -> None:
    with pytest.raises(ValueError):
        dump_json({"a": value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40, deadline=None)
@given(JSON)
def test_what_was_written_is_read_back(value: object) -> None:
    try:
        data = dump_json(value)
    except UnicodeEncodeError:
        return
    assert parse_json(data) == value


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()))
def test_the_same_value_gives_the_same_bytes_whatever_its_order(value: dict[str, int]) -> None:
    assert dump_json(value) == dump_json(dict(reversed(value.items())))


def test_a_log_line_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        append_line(tmp_path / "log", "a\nb")
    assert not (tmp_path / "log").exists()


def test_half_a_line_of_a_crash_is_ended_before_the_next_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"whole\nhal")

    append_line(log, "next")

    assert log.read_bytes() == b"whole\nhal\nnext\n"


def test_a_disk_that_takes_half_a_line_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))

    with pytest.raises(OSError, match="No space"):
        append_line(tmp_path / "log", "one line")


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import sys; from pathlib import Path; from tune_mcp.files import append_line\n"
        "for _ in range(40): append_line(Path(sys.argv[1]), sys.argv[2] * 500)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(log), letter]) for letter in "abc"]

    assert [writer.wait(timeout=30) for writer in writers] == [0, 0, 0]
    # The end of a line that another process is just writing can look like the torn end of a crash: an empty line
    # follows then, which readers pass over. The lines themselves are whole.
    lines = [line for line in log.read_text().splitlines() if line]
    assert sorted(lines) == ["a" * 500] * 40 + ["b" * 500] * 40 + ["c" * 500] * 40


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "..", "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        inside(tmp_path, name)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.json").write_text("{}")
    (root / "out").symlink_to(elsewhere)
    (root / "x.json").symlink_to(elsewhere / "x.json")
    (root / "real").mkdir()
    (root / "in").symlink_to(root / "real")

    for name in ("out", "out/x.json", "out/not/there", "x.json"):
        with pytest.raises(ValueError, match="link"):
            inside(root, name)
    assert inside(root, "in/y.json") == root / "in" / "y.json"
    assert inside(root, "real/y.json") == root / "real" / "y.json"


HOLDER = (
    "import sys; from pathlib import Path; from tune_mcp.files import FileLock\n"
    "lock = FileLock.take(Path(sys.argv[1]), {'run_id': 'r'})\n"
    "print('refused' if lock is None else 'taken', flush=True)\n"
    "sys.stdin.read()\n"
)


def hold_elsewhere(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline().strip() == "taken"
    return holder


@pytest.mark.parametrize("end", [lambda p: p.kill(), lambda p: p.stdin.close()], ids=["killed", "ended"])
def test_a_lock_of_another_process_lives_as_long_as_that_process(
    tmp_path: Path, end: Callable[[subprocess.Popen[str]], object]
) -> None:
    path = tmp_path / "lock"
    holder = hold_elsewhere(path)

    assert is_locked(path)
    assert FileLock.take(path, {"run_id": "mine"}) is None
    assert json.loads(path.read_text()) == {"run_id": "r"}, "a refused taker leaves the holder's name alone"

    end(holder)
    holder.wait(timeout=60)
    assert not is_locked(path)
    lock = FileLock.take(path, {"run_id": "mine"})
    assert lock is not None
    lock.release()


def test_a_child_that_inherits_a_lock_keeps_it_when_the_parent_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path, {})
    assert lock is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.handle,))
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)

    lock.release()
    assert is_locked(path)

    assert child.stdin and bystander.stdin
    child.stdin.close()
    child.wait(timeout=60)
    assert not is_locked(path), "a child that was not handed the lock does not have it"
    bystander.stdin.close()
    bystander.wait(timeout=60)


def test_a_lock_file_that_does_not_exist_is_free_and_one_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nothing")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        is_locked(blocked / "lock")


_OWN = {"files.py", "procfs.py", "demo.py", "prompts.py", "venv.py", "imports.py", "host_limits.py",
        "lane_proposal.py"}  # fmt: skip
"""What opens files in its own way: the module for all others, that for /proc, and readers of what only they make."""
_KERNEL = ("/proc", "_PROC", "proc /", "/sys/", '"stat")', '"status")', '"environ")', '"cmdline")', "table.", "status.")


def test_every_file_that_others_can_write_is_opened_by_one_module() -> None:
    root = Path(tune_mcp.__file__).parent
    opened = re.compile(r"\.read_bytes\(|\.read_text\(|\.open\(\"|(?<![\w.])open\((?!…)|os\.open\(")
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        if path.name not in _OWN
        for line in path.read_text().splitlines()
        if opened.search(line)
        and "with_name" not in line
        and not any(word in line for word in _KERNEL)
        and "pidfd_open(" not in line
        and "O_EXCL" not in line  # a new file, or none
        and '"xb"' not in line
        and not re.search(r"def open\(|self\.book\.open\(|self\.open\(", line)
    ]

    assert [line for line in found if not line.startswith("supervise/guard.py")] == [], "use read_plain and the like"


def test_a_file_is_read_whole_also_while_it_grows_and_takes_no_more_room_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked, opened = tmp_path / "file", list[int](), files.open_plain
    path.write_bytes(b"begun ")

    class Growing(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            if not asked:
                path.write_bytes(b"begun ended")
            asked.append(size or 0)
            return super().read(size)

    monkeypatch.setattr(files, "open_plain", lambda path: Growing(opened(path).detach()))

    assert (files.read_plain(path), asked[0]) == (b"begun ended", 7)
    with pytest.raises(files.NotPlain, match="larger than 0 MiB"):
        files.read_plain(path, 10)
