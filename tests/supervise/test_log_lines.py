"""A growing log is read once, in bounded memory, and what is found does not depend on how the bytes arrived."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune_mcp.config.signatures import LinePattern
from tune_mcp.supervise.watch.log_lines import OVERLAP, PIECE, Found, GrowingLog, LineFinder, last_line, redacted

DIED = LinePattern(words=("worker died",), pattern=r"^worker died$")
OOM = LinePattern(words=("out of memory",))
KERNEL = LinePattern(words=("gen_sm90_module",))
PATTERNS = (DIED, OOM, KERNEL)

texts = st.lists(
    st.one_of(
        st.sampled_from(
            [b"worker died", b"out of memory", b"\n", b"\r", b"\r\n", b"gen_sm90_module", b"gen_sm", b"90", b"died"]
        ),
        st.integers(0, 2 * PIECE).map(lambda size: b"x" * size),
    ),
    max_size=12,
).map(b"".join)


def found(parts: list[bytes]) -> list[Found[LinePattern]]:
    finder = LineFinder(PATTERNS)
    seen = [one for part in parts for one in finder.feed(part)]
    return seen + finder.unfinished()


@pytest.mark.rule("WDG-01")
@settings(max_examples=300, deadline=None)
@given(texts, st.lists(st.integers(0, 30_000), max_size=8))
@example(b"x" * (PIECE - 5) + b"out of memory\n", [PIECE])
@example(b"worker died", list(range(12)))
def test_any_split_of_a_log_finds_the_same_lines(text: bytes, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})

    assert found([text[a:b] for a, b in itertools.pairwise(places)]) == found([text])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3 * PIECE), st.integers(0, 3 * PIECE))
def test_words_are_found_wherever_they_stand_in_a_line_of_any_length(before: int, after: int) -> None:
    (first, *_) = found([b"y" * before + b"out of memory" + b"y" * after + b"\n"])
    assert first.pattern is OOM


def test_an_anchor_means_the_line_and_not_the_place_where_a_long_line_was_cut() -> None:
    assert [one.line for one in found([b"a\nworker died\rb\n"])] == ["worker died"]
    stride = PIECE - OVERLAP
    assert found([b"x" * stride + b"worker died" + b"x" * PIECE]) == []
    assert found([b"x" * (PIECE - len(b"worker died")) + b"worker died" + b"x" * PIECE]) == []


def test_lines_that_differ_in_their_numbers_only_are_told_apart_where_it_matters() -> None:
    (one,) = found([b"gen_sm80_module\ngen_sm90_module\ngen_sm100_module\n"])
    assert (one.line, one.pattern) == ("gen_sm90_module", KERNEL)


def test_a_line_without_an_end_is_seen_and_seen_again_when_it_has_one() -> None:
    finder = LineFinder(PATTERNS)
    assert finder.feed(b"fine\nworker died") == []
    assert [one.offset for one in finder.unfinished()] == [5]
    assert [one.offset for one in finder.feed(b"\n")] == [5]


def test_a_pattern_that_was_forgotten_is_not_found_any_more() -> None:
    finder = LineFinder(PATTERNS)
    finder.forget(OOM)
    assert [one.pattern for one in finder.feed(b"out of memory\nworker died\n")] == [DIED]


@pytest.mark.rule("WDG-01")
def test_two_hundred_megabytes_in_one_line_cost_no_memory(tmp_path: Path) -> None:
    log = tmp_path / "run1.log"
    block = b"\xff" * (1 << 20)
    finder, reader, seen = LineFinder(PATTERNS), GrowingLog(log), 0
    with log.open("wb", buffering=0) as stream:
        stream.truncate(200 << 20)  # zeros that take no space on the disk
        for at in (0, 100 << 20):
            stream.seek(at)
            stream.write(block)
        stream.seek(0, 2)
        stream.write(b"\nworker died\n")
    tracemalloc.start()
    assert reader.look()
    while data := reader.read():
        seen += len(finder.feed(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (seen, reader.position) == (1, log.stat().st_size)
    assert peak < 4 << 20


def test_only_what_was_appended_is_read(tmp_path: Path) -> None:
    log = tmp_path / "run1.log"
    reader = GrowingLog(log)
    assert not reader.look() and reader.read() == b""
    log.write_bytes(b"one\n")
    assert reader.look() and reader.read() == b"one\n" and reader.read() == b""
    with log.open("ab") as stream:
        stream.write(b"two\n")
    assert reader.look() and reader.read() == b"two\n"
    assert not reader.look()
    log.write_bytes(b"new\n")
    assert reader.look() and reader.read() == b"new\n", "a log that became shorter is a new one"


def test_the_last_fitting_line_tells_how_a_log_ended(tmp_path: Path) -> None:
    log = tmp_path / "run1.log"
    log.write_bytes(b"out of memory 1\nworker died\nout of memory 2\nfine\n")
    last = last_line(log, PATTERNS)
    assert last is not None and last.line == "out of memory 2"


@pytest.mark.parametrize("line", ["HF_TOKEN=abcdef", "token: s3cret", "x hf_abcdefghIJKLMNOP y", "API_KEY=zzz"])
def test_a_line_is_shown_without_its_secrets(line: str) -> None:
    assert "[redacted]" in redacted(line)
