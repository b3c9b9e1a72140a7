"""Read metric values and sample counts out of the JSON files that a test left under its basetemp.

Nothing is parsed from stdout (MET-02). The files are read as any JSON parser reads them: what stands in a field that
nobody tracks is ignored. A tracked value counts only as a finite int or float: no bool, no string, no NaN, and not
under a key that is there twice with different values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from tune_mcp.config.stages import ONE, Frozen, Location, Stage, finite_number
from tune_mcp.errors import Json
from tune_mcp.files import LARGEST_FILE, Ambiguous, inside, parse_result, printable, read_plain
from tune_mcp.run_dir import RECORD_FILE

_RECORDED_AGAIN = (
    "recorded {times} times in one launch, so it is no single number: give each test, each parameter and each turn "
    'of a loop a name of its own, as tune_record(f"{name}_{{case}}", value), and calibrate those'
)


class Extraction(Frozen):
    """What one stage yielded: every tracked metric (None where unreadable), the counts, and the problems.

    ``problems`` are sentences that name file, key and near matches, ``absent`` the result files that are not there at
    all (so perhaps the test never came to write them). ``invalid`` names the place where the test itself says that this
    repeat is no observation.
    """

    metrics: dict[str, int | float | None]
    total: int | None
    ok: int | None
    problems: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    invalid: str = ""


@dataclass
class ResultFiles:
    """The result files of one basetemp; each is read once however many stages look into it.

    ``absent`` are those that were looked for and are not there.
    """

    basetemp: Path
    absent: set[str] = field(default_factory=set[str])
    _read: dict[str, tuple[Json, str]] = field(default_factory=dict[str, "tuple[Json, str]"])
    """What each file holds, or why that cannot be read."""

    def look_up(self, location: Location) -> tuple[int | float | None, str, tuple[str, ...]]:
        """The number at ``location``, or None with the reason and names that look alike."""
        document, reason = self._document(location.json_file)
        if reason:
            return None, reason, self._files_like(location.json_file)
        node = document
        walked: list[str] = []
        for part in location.json_path.split("."):
            if isinstance(node, list) and part.isascii() and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            elif part == "__len__" and isinstance(node, list):
                node = len(node)
            elif isinstance(node, Ambiguous):
                return None, str(node), ()
            else:
                names = list(node) if isinstance(node, dict) else []
                near = get_close_matches(part, names, n=3, cutoff=0.5) or sorted(names)[:5]
                where = ".".join(walked) or "the top level"
                return None, f"no {part!r} in {where}", tuple(near)
            walked.append(part)
        if isinstance(node, list) and location.json_file == RECORD_FILE:
            return None, _RECORDED_AGAIN.format(times=len(node), name=location.json_path), ()
        return _number(node)

    def flag(self, location: Location) -> bool | None:
        """The boolean at ``location``; None where there is none."""
        node = self._document(location.json_file)[0]
        for part in location.json_path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, bool) else None

    def unreadable(self, name: str) -> bool:
        """Whether the file is there and was found to be nothing that can be read."""
        return name not in self.absent and bool(self._read.get(name, (None, ""))[1])

    def document(self, name: str) -> Json:
        """What the file holds; None when it cannot be read."""
        return self._document(name)[0]

    def _document(self, name: str) -> tuple[Json, str]:
        if name not in self._read:
            self._read[name] = self._from_disk(name)
        return self._read[name]

    def _from_disk(self, name: str) -> tuple[Json, str]:
        try:
            path = inside(self.basetemp, name)
            if not path.is_file():
                self.absent.add(name)
                return None, "file missing"
            if path.stat().st_size > LARGEST_FILE:
                return None, "file larger than 256 MiB"
            data = read_plain(path)
        except (OSError, ValueError) as error:
            return None, str(error)
        try:
            return parse_result(data), ""
        except ValueError as error:
            return None, f"not JSON that can be read: {error}"

    def _files_like(self, name: str) -> tuple[str, ...]:
        if not self.basetemp.is_dir():
            return ()
        found = [str(path.relative_to(self.basetemp)) for path in self.basetemp.rglob("*.json") if path.is_file()]
        return tuple(get_close_matches(name, sorted(found)[:500], n=3, cutoff=0.4))


def _number(node: Json) -> tuple[int | float | None, str, tuple[str, ...]]:
    value = finite_number(node)
    if value is not None:
        return value, "", ()
    if isinstance(node, int | float) and not isinstance(node, bool):
        return None, "not finite", ()  # json.loads makes it of NaN, Infinity and 1e999
    if isinstance(node, Ambiguous):
        return None, str(node), ()
    return None, f"not a number but {'null' if node is None else type(node).__name__}", ()


@dataclass
class _Reading:
    """Numbers read one by one, with a sentence for each that cannot be read and the files that are not there."""

    files: ResultFiles
    problems: list[str] = field(default_factory=list[str])
    absent: set[str] = field(default_factory=set[str])

    def number(self, key: str, place: Location) -> int | float | None:
        value, reason, near = self.files.look_up(place)
        if value is None:
            self.miss(key, place, reason, near)
        return value

    def count(self, key: str, place: Location) -> int | None:
        value = self.number(key, place)
        if value is not None and (value != int(value) or value < 0):
            self.miss(key, place, f"{value} is not a count")
            return None
        return None if value is None else int(value)

    def unknown(self, key: str, what: str) -> None:
        self.problems.append(printable(f"{key}: NEEDS_CONFIG: {what}"))

    def miss(self, key: str, place: Location, reason: str, near: tuple[str, ...] = ()) -> None:
        name = place.json_file
        if name in self.files.absent:
            self.absent.add(name)
        where = f"{key}: {name}::{place.json_path}"
        if self.files.unreadable(name):
            where, near = name, ()  # the same sentence for everything that stands in it
        hint = f" (near: {', '.join(near)})" if near else ""
        self.problems.append(printable(f"{where}: {reason}{hint}"))


def extract(stage: Stage, files: ResultFiles) -> Extraction:
    """Read every tracked metric and both sample counts of ``stage``. Never raises for bad content."""
    read = _Reading(files)
    metrics: dict[str, int | float | None] = {}
    for key, metric in stage.metrics.items():
        if metric.json_file is None or metric.json_path is None:
            read.unknown(key, "no JSON path is known")
            metrics[key] = None
            continue
        metrics[key] = read.number(key, Location(json_file=metric.json_file, json_path=metric.json_path))
    total = ok = None
    if stage.sample_counts == ONE:
        total = ok = 1
    elif stage.sample_counts:
        total = read.count("sample_counts.total", stage.sample_counts.total)
        ok = read.count("sample_counts.ok", stage.sample_counts.ok)
    elif stage.metrics:
        read.unknown("sample_counts", "no sample counts are configured")
    invalid = ""
    if (place := stage.observation_validity) is not None:
        valid = files.flag(place)
        if valid is None:
            read.miss("observation_validity", place, "not true or false")
        elif not valid:
            invalid = f"{place.json_file}::{place.json_path} is false"
    return Extraction(
        metrics=metrics,
        total=total,
        ok=ok,
        problems=tuple(read.problems),
        absent=tuple(sorted(read.absent)),
        invalid=invalid,
    )
