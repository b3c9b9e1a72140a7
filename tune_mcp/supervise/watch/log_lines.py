"""Read a log while it grows, and find the lines that fit: only what was appended, in bounded memory.

The stream of bytes is cut into pieces by position alone: at line ends (``\\n`` and ``\\r``), and a line longer than
``PIECE`` into pieces that overlap. So what is found does not depend on how the bytes arrived, and a line of any
length or of garbage costs a few kilobytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from tune_mcp.config.signatures import LinePattern, WatchRules
from tune_mcp.files import plain_handle

PIECE = 4096
OVERLAP = 512
_STRIDE = PIECE - OVERLAP
_END = re.compile(rb"[\r\n]")
_SECRET = re.compile(r"(hf_[A-Za-z0-9]{8})[A-Za-z0-9]+|((?:TOKEN|SECRET|PASSWORD|API_KEY)\S*[=:]\s*)\S+", re.IGNORECASE)
_DIGITS = b"0123456789"
_CUT = "\0"
"""Stands where a long line was cut, so that ``^`` and ``$`` do not take the cut for an end of the line."""

Pattern = TypeVar("Pattern", bound=LinePattern)


def redacted(line: str) -> str:
    """A log line as it may be shown: no token, password or key in it."""
    return _SECRET.sub(lambda match: f"{match[1] or match[2]}[redacted]", line)


@dataclass(frozen=True)
class Found(Generic[Pattern]):
    """A piece that fits: where it begins in the stream, its text, and the first pattern that it fits."""

    offset: int
    line: str
    pattern: Pattern


class LineFinder(Generic[Pattern]):
    """Feed bytes in order; get the pieces that fit one of the patterns, each with the first pattern it fits.

    Pieces that begin as ``but`` says are passed over.
    """

    def __init__(self, patterns: Iterable[Pattern], but: re.Pattern[str] | None = None) -> None:
        self._patterns: list[Pattern] = list(patterns)
        self._but = but
        self._words: tuple[bytes, ...] = ()
        self._rest = b""
        self._rest_at = 0
        self._continued = False
        self._index()

    def _index(self) -> None:
        self._words = tuple(dict.fromkeys(word.encode() for one in self._patterns for word in one.words))

    def forget(self, pattern: Pattern) -> None:
        """Look for this one no more."""
        self._patterns = [one for one in self._patterns if one is not pattern]
        self._index()

    def skip(self, offset: int) -> None:
        """Go on at ``offset`` of the stream: what lies before it is given up."""
        self._rest, self._rest_at, self._continued = b"", offset, True

    def feed(self, data: bytes) -> list[Found[Pattern]]:
        """The pieces that these bytes complete, in order."""
        text = self._rest + data
        words = self._present(text)
        cut = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        found = list(self._whole(text[:cut], words)) if words else []
        if cut:
            self._rest_at += cut
            self._continued = False
        while len(text) - cut > PIECE:
            piece = text[cut : cut + PIECE]
            found += self._piece(piece, words, self._rest_at, more=True, continued=self._continued)
            cut += _STRIDE
            self._rest_at += _STRIDE
            self._continued = True
        self._rest = text[cut:]
        return found

    def _present(self, text: bytes) -> tuple[bytes, ...]:
        """The words that stand in ``text``.

        Most lines of a busy log differ in their numbers only, so it is searched without digits and each line once:
        a word that is in a text is, without its digits, in the text without digits.
        """
        shapes = b"\n".join(set(text.translate(None, _DIGITS).split(b"\n")))
        return tuple(word for word in self._words if word.translate(None, _DIGITS) in shapes and word in text)

    def unfinished(self) -> list[Found[Pattern]]:
        """What the last, unfinished line looks like now; it is not used up."""
        return self._piece(self._rest, self._words, self._rest_at, more=False, continued=self._continued)

    def _whole(self, text: bytes, words: tuple[bytes, ...]) -> Iterator[Found[Pattern]]:
        """Lines that are complete: only those that hold a word are cut out at all."""
        begins: set[int] = set()
        for word in words:
            at = text.find(word)
            while at >= 0:
                begins.add(max(text.rfind(b"\n", 0, at), text.rfind(b"\r", 0, at)) + 1)
                end = _END.search(text, at)
                at = text.find(word, end.start() if end else len(text))
        for begin in sorted(begins):
            found = _END.search(text, begin)
            end = found.start() if found else len(text)
            continued = self._continued and begin == 0
            while end - begin > PIECE:
                piece = text[begin : begin + PIECE]
                yield from self._piece(piece, words, self._rest_at + begin, more=True, continued=continued)
                begin, continued = begin + _STRIDE, True
            yield from self._piece(text[begin:end], words, self._rest_at + begin, more=False, continued=continued)

    def _piece(
        self, piece: bytes, words: tuple[bytes, ...], offset: int, *, more: bool, continued: bool
    ) -> list[Found[Pattern]]:
        if not any(word in piece for word in words):
            return []
        text = piece.decode(errors="replace")
        framed = f"{_CUT if continued else ''}{text}{_CUT if more else ''}"
        if self._but and self._but.match(framed):
            return []
        return [Found(offset, text, one) for one in self._patterns if one.fits(framed)][:1]


class GrowingLog:
    """What was appended to a file since the last look, a bounded part at a time."""

    BLOCK = 256 * 1024

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.size = 0

    def look(self) -> bool:
        """Whether the file grew since the last look; a file that is not there has not."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return False
        grew = size != self.size
        if size < self.position:
            self.position = 0
        self.size = size
        return grew

    def read(self) -> bytes:
        """The next block, empty at the end. Raises ``OSError``."""
        if self.position >= self.size:
            return b""
        handle = plain_handle(self.path, os.O_RDONLY)
        try:
            data = os.pread(handle, self.BLOCK, self.position)
        finally:
            os.close(handle)
        self.position += len(data)
        return data


def last_line(log: Path, patterns: Sequence[Pattern], but: re.Pattern[str] | None = None) -> Found[Pattern] | None:
    """The last fitting line in the end of a log, ``but`` as for ``LineFinder``: only the end tells how it ended."""
    reader, finder, last = GrowingLog(log), LineFinder(patterns, but), None
    reader.look()
    reader.position = max(0, reader.size - GrowingLog.BLOCK)
    if reader.position:
        finder.skip(reader.position)
    while data := reader.read():
        for found in finder.feed(data):
            last = found
    for found in finder.unfinished():
        last = found
    return last


def last_text(log: Path) -> str:
    """The last line of a log that is not blank, as it may be shown; empty when there is none."""
    reader = GrowingLog(log)
    reader.look()
    reader.position = max(0, reader.size - PIECE)
    try:
        lines = [line.strip() for line in reader.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    return redacted(next((line for line in reversed(lines) if line), ""))[:200]


_RAISED = re.compile(r"^E {3}(\w[\w.]*(?:: .*)?)$")
_REFUSED = re.compile(r"^(?:.*: error|ERROR): (?!usage: )(.+)$")
_CONFTEST = re.compile(r"^(\w+ while loading conftest '.*')\.?$")


def start_error_in(log: Path) -> str:
    """pytest's own line about why it did not start, as it may be shown; else the last line of the log.

    That is an exception of a conftest, or an option that it does not know.
    """
    reader = GrowingLog(log)
    reader.look()
    reader.position = max(0, reader.size - GrowingLog.BLOCK)
    try:
        lines = reader.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for pattern in (_RAISED, _REFUSED):
        if found := [match[1] for match in map(pattern.match, lines) if match]:
            where = next((match[1] for match in map(_CONFTEST.match, lines) if match), "")
            return redacted(": ".join(filter(None, (where, found[-1]))))[:400]
    return last_text(log)


QUOTED_SOURCE = re.compile(r"\0?(>? {4,}|> {2,})\S")
"""Source code that a traceback quotes: an error that is written there was perhaps never raised."""

_NOT_PRINTED = re.compile(rf"{QUOTED_SOURCE.pattern}|\0?E {{2,}}")
"""The same, or pytest's own report of an error, which is the last link of the chain and seldom the first: not printed
by the process that it happened to."""


def failure_in(log: Path, rules: WatchRules, raised: Iterable[str] = ()) -> str:
    """Name and line of the last infrastructure signature in the end of a log; empty when there is none.

    A process's own line goes before pytest's report of it, a cause before its ``consequence``. Where the log has none,
    ``raised`` are looked at: what failed, as the guard saw it.
    """
    known = [one for one in rules.fatal + rules.suspicious if one.infrastructure]
    causes = [one for one in known if not one.consequence]
    for patterns, but in ((causes, _NOT_PRINTED), (known, _NOT_PRINTED), (known, QUOTED_SOURCE)):
        if found := last_line(log, patterns, but):
            return f"{found.pattern.name}: {redacted(found.line.strip()[:200])}"
    lines = [line for line in raised if not QUOTED_SOURCE.match(line)]
    seen = ((one.name, line) for line in lines for one in known if one.fits(line))
    return next((f"{name}: {redacted(line[:200])}" for name, line in seen), "")
