"""What a test leaves behind: the values that it records by name, and the JSON files that it writes or reads.

A value of a result file is taken for the one that a test asserts only where both are the same value of the test's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tune_mcp.discover.assertions.formula import Apply, Opaque, Value
from tune_mcp.discover.assertions.objects import MISSING, Table, is_plain

_PART = re.compile(r"… / '(?:[^']*/)?([^'/]+)'")
_FOLDER = re.compile(r"(?:tmp_path|tmpdir)(?:_factory)?(?:\.mktemp\(…\))?")

Keys = tuple[str, ...]


@dataclass(frozen=True)
class LeftAt:
    """Where a run leaves a value: below ``keys`` in a JSON file of that name; empty where the code does not name it."""

    file: str
    keys: Keys


@dataclass(eq=False)
class Document:
    """One JSON document: its values by their keys, as they were at the moment when it was ``made``.

    ``text`` stands for it where it is not in a file (yet). ``doubtful``: the file may be written again, by a loop or by
    code that is not followed, or may not be below a folder of pytest.
    """

    values: dict[Keys, Value]
    made: int
    file: str = ""
    text: Opaque | None = None
    is_read: bool = False
    doubtful: bool = False

    def keys_of(self, value: Opaque, compared: int) -> list[Keys]:
        """The keys under which a value stands in it as it is compared; none where it may change in between."""
        first, last = sorted((self.made, compared))
        found: list[Keys] = []
        keys: Keys | None = ()
        above: Opaque | None = value
        while above is not None:
            if any(first < moment < last for moment in above.touched):
                return []
            if keys is not None:
                found += [(*begin, *keys) for begin, one in self.values.items() if one is above]
                kind, key = above.part
                keys = (key, *keys) if kind == "item" and isinstance(key, str) else None
            above = above.owner
        return found

    def may_have(self, keys: Keys) -> bool:
        """Whether a number stands, or may stand, below ``keys``."""
        return any(
            keys[: len(begin)] == begin and (begin == keys or not is_plain(one)) for begin, one in self.values.items()
        )


@dataclass
class LeftBehind:
    """The documents of one run of a test, in their order."""

    documents: list[Document] = field(default_factory=list[Document])

    def put_into_file(self, given: Value, path: Value) -> None:
        """A text is written into a file: the document that it is, with a line end or without, is there, too."""
        if isinstance(given, Apply) and isinstance(given.args[-1], str) and not given.args[-1].strip():
            given = given.args[0]
        if isinstance(given, Opaque) and given.name.endswith(".encode(…)"):
            given = next((one for one in given.parents if one.name == given.name.removesuffix(".encode(…)")), given)
        self.documents += [
            replace(one, file=file_name(path), text=None, doubtful=one.doubtful or not below_tmp(path))
            for one in self.documents
            if one.text is given
        ]

    def may_be_written(self, path: Opaque) -> None:
        """Code that is not followed gets a file, or a folder of pytest: a document in it may be another one then."""
        found = _PART.fullmatch(path.name)
        if found is None and not _FOLDER.fullmatch(path.name):
            return
        for one in self.documents:
            if found is None or "." not in found[1] or one.file in ("", found[1]):
                one.doubtful = True

    def places(self, value: Opaque, compared: int) -> frozenset[LeftAt]:
        """Where a value is left, for certain, as it is at the moment when it is ``compared``."""
        return frozenset(
            LeftAt(document.file, keys)
            for document in self.documents
            if document.text is None and not document.doubtful
            for keys in document.keys_of(value, compared)
            if keys
            and not any(
                self._may_replace(one, document) and one.may_have(keys) and keys not in one.keys_of(value, compared)
                for one in self.documents
            )
        )

    def _may_replace(self, other: Document, document: Document) -> bool:
        """Whether another document may be what is in the file of one in the end."""
        if other is document or other.text is not None:
            return False
        if other.file and document.file and other.file != document.file:
            return False
        if other.is_read == document.is_read:
            return True
        # What is read is what was written before it.
        return document.is_read and self.documents.index(other) > self.documents.index(document)


def values_of(value: Value, keys: Keys = ()) -> Iterator[tuple[Keys, Value]]:
    """The values of a JSON document by their keys; those in lists have no keys."""
    if isinstance(value, Table):
        for key, one in value.entries.items():
            if isinstance(key, str | int) and one is not MISSING:
                yield from values_of(one, (*keys, str(key)))
        if value.unseen:
            yield keys, value.unseen
    else:
        yield keys, value


def file_name(path: Value) -> str:
    """The name of the JSON file at a path, or behind a file that is open; empty where the code does not say it."""
    made_of = {path.root, *path.parents} if isinstance(path, Opaque) else set[Opaque]()
    parts = {found[1] for one in made_of if (found := _PART.fullmatch(one.name))}
    names = [one for one in parts if one.endswith(".json")]
    return names[0] if len(names) == 1 else ""


def below_tmp(path: Value) -> bool:
    """Whether a path lies below a temporary folder of pytest."""
    return isinstance(path, Opaque) and any(_FOLDER.fullmatch(one.name) for one in (path.root, *path.parents))
