"""Pages of a pytest log: never a whole file, never a secret, nothing twice and nothing left out."""

from __future__ import annotations

import pytest
import toy

from tune_mcp.contract.tail_pytest import TailReply
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.tail_pytest import tail_pytest

pytestmark = pytest.mark.usefixtures("warm")


def write(run: RunDir, text: str | bytes, repeat: int = 1) -> None:
    run.log(toy.TEST_KEY, repeat).write_bytes(text.encode() if isinstance(text, str) else text)


def page(project: Project, run: RunDir, **more: object) -> TailReply:
    return tail_pytest(project, run.run_id, **{"test": toy.TEST_KEY, "repeat": 1, **more})


def onwards(project: Project, run: RunDir, cursor: str | None, lines: int = 30, grep: str | None = None) -> TailReply:
    return tail_pytest(project, run.run_id, lines, cursor=cursor, grep=grep)


@pytest.mark.rule("POL-07")
def test_the_last_lines_come_first_and_the_cursor_continues_after_them(project: Project, run: RunDir) -> None:
    write(run, "".join(f"line {n}\n" for n in range(100)))
    first = page(project, run, lines=3)
    assert first.log_lines == ("line 97", "line 98", "line 99")
    assert onwards(project, run, first.cursor).log_lines == ()
    with run.log(toy.TEST_KEY, 1).open("a") as stream:
        stream.write("one more\nand another\n")

    second = onwards(project, run, first.cursor, lines=1)
    third = onwards(project, run, second.cursor)

    assert (second.log_lines, third.log_lines) == (("one more",), ("and another",))
    assert second.left_bytes > 0 and third.left_bytes == 0


@pytest.mark.rule("SUP-07")
def test_before_there_is_a_pytest_log_none_is_shown_and_never_the_milestones(project: Project, run: RunDir) -> None:
    assert run.run_log.stat().st_size
    for repeat in (1, 2):
        run.log(toy.TEST_KEY, repeat).unlink()

    for reply in (tail_pytest(project, run.run_id), page(project, run), page(project, run, repeat=None)):
        assert (reply.path, reply.log_lines, reply.active) == (None, (), False)
        assert reply.text().startswith("[no pytest log yet]\n")


@pytest.mark.rule("POL-07")
def test_following_the_cursor_shows_every_line_once_whatever_the_size(project: Project, run: RunDir) -> None:
    wanted = [f"{n} {'é' * (n % 97)}" for n in range(3000)]
    write(run, "first\n")
    cursor = page(project, run).cursor
    with run.log(toy.TEST_KEY, 1).open("ab") as stream:
        stream.write("".join(f"{line}\n" for line in wanted).encode())
    seen: list[str] = []
    while True:
        reply = onwards(project, run, cursor, lines=500)
        assert len(reply.text()) <= 8000
        seen += reply.log_lines
        if reply.cursor == cursor:
            break
        cursor = reply.cursor
    assert seen == wanted


@pytest.mark.rule("POL-07")
def test_an_endless_line_binary_bytes_and_progress_bars_stay_readable(project: Project, run: RunDir) -> None:
    write(run, b"x" * 1_000_000 + b"\n" + b"\x00\x1b[31m\xff\xfe red\n" + b"10%\r50%\r100%\n" + b"no end")
    reply = page(project, run, lines=10)

    assert len(reply.text()) <= 8000
    assert reply.log_lines[-2:] == ("100%", "no end")
    assert all(line.isprintable() for line in reply.log_lines)


def test_secrets_are_not_shown(project: Project, run: RunDir) -> None:
    write(
        run,
        "HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz\nlogin with hf_abcdefghijklmnopqrstuvwxyz\nOPENAI_API_KEY: sk-123\n",
    )

    text = page(project, run).text()

    assert "ijklmnop" not in text and "sk-123" not in text
    assert text.count("[redacted]") == 3


def test_grep_shows_only_what_fits(project: Project, run: RunDir) -> None:
    write(run, "".join(f"line {n}\n" for n in range(100)))

    assert page(project, run, grep="7$", lines=2).log_lines == ("line 87", "line 97")


@pytest.mark.rule("POL-11", "POL-07")
def test_a_pattern_that_would_search_for_years_is_refused_and_holds_nobody(
    project: Project, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_mcp.verbs.tail_pytest.DEADLINE_S", 0.5)
    write(run, "a" * 60 + "!\n")

    with pytest.raises(Refusal, match=r"^INVALID_ARGUMENT \[POL-07\]: grep takes longer than 0.5 s"):
        page(project, run, grep="(a+)+$")


@pytest.mark.rule("SES-06")
def test_only_logs_of_this_run_can_be_named(project: Project, run: RunDir) -> None:
    for more, code in (
        ({"test": "../../plan"}, "UNKNOWN_STAGE"),
        ({"test": "nope"}, "UNKNOWN_STAGE"),
        ({"repeat": 0}, "INVALID_ARGUMENT"),
        ({"repeat": 3}, "INVALID_ARGUMENT"),
        ({"lines": 0}, "INVALID_ARGUMENT"),
        ({"lines": 501}, "INVALID_ARGUMENT"),
        ({"cursor": "nonsense"}, "INVALID_ARGUMENT"),
        ({"cursor": "../../plan:1:1:0"}, "INVALID_ARGUMENT"),
        ({"cursor": f"{toy.TEST_KEY}:99:1:0"}, "INVALID_ARGUMENT"),
    ):
        with pytest.raises(Refusal) as caught:
            page(project, run, **more)
        assert caught.value.code == code, more


@pytest.mark.rule("SUP-09", "GAP-11")
def test_a_log_that_was_taken_away_is_no_bug_and_the_cursor_waits_for_the_next_one(
    project: Project, run: RunDir
) -> None:
    write(run, "old\n")
    cursor = page(project, run).cursor
    run.log(toy.TEST_KEY, 1).rename(run.path / "elsewhere.log")

    gone = onwards(project, run, cursor)
    write(run, "new\n")

    assert (gone.path, gone.log_lines, gone.cursor) == (None, (), cursor)
    assert onwards(project, run, gone.cursor).log_lines == ("new",)


@pytest.mark.rule("SUP-09")
def test_a_log_that_was_replaced_is_shown_from_its_beginning(project: Project, run: RunDir) -> None:
    write(run, "old\n" * 50)
    cursor = page(project, run).cursor
    path = run.log(toy.TEST_KEY, 1)
    path.rename(path.with_suffix(".old"))
    write(run, "new 1\nnew 2\n")

    assert onwards(project, run, cursor).log_lines == ("new 1", "new 2")


@pytest.mark.rule("SUP-08", "SUP-10")
@pytest.mark.usefixtures("warm")
def test_the_tail_of_an_active_run_is_that_of_the_pytest_at_work_and_moves_on_with_it(project: Project) -> None:
    run = toy.start_and_hold(project)
    try:
        first = tail_pytest(project, run.run_id)
        assert (first.test, first.repeat, first.active) == (toy.TEST_KEY, 1, True)
        toy.hold(project, 2)
        toy.let_go(project, 1)
        toy.wait_for(lambda: toy.launches(project, 2), what="the second pytest")
        seen, cursor = list(first.log_lines), first.cursor
        reply = first
        for _ in range(50):
            reply = onwards(project, run, cursor)
            seen += [f"{reply.repeat}: {line}" for line in reply.log_lines]
            if reply.repeat == 2:
                break
            cursor = reply.cursor
        assert any("2 passed" in line and line.startswith("1:") for line in seen)
        assert reply.repeat == 2 and reply.active
    finally:
        toy.let_go(project, 1)
        toy.let_go(project, 2)
    assert toy.wait_until_rest(project, run.run_id).state == "finished"
    assert tail_pytest(project, run.run_id).repeat == 2
