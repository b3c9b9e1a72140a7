"""One repository of a Hugging Face cache, read by the documented folder layout: what is missing in it, in words.

``<hub>/{models,datasets}--<org>--<name>/`` holds ``refs/<branch>`` (a commit), ``snapshots/<commit>/`` (links) and
``blobs/`` (the bytes; ``<etag>.incomplete`` while they arrive). Only the repositories that are asked for are looked
at: a whole-cache scan takes minutes on a network file system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

RepoKind = Literal["model", "dataset"]
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_SHARD = re.compile(r"(?P<head>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})(?P<tail>\..+)")
_NAMED_AT_ONCE = 3


def folder(hub: Path, kind: RepoKind, repo_id: str) -> Path:
    """Where the cache keeps a repository."""
    return hub / f"{kind}s--{repo_id.replace('/', '--')}"


def gaps(hub: Path, kind: RepoKind, repo_id: str) -> list[str]:
    """What is missing of a repository; empty when one whole snapshot is there. Raises ``OSError``."""
    repo = folder(hub, kind, repo_id)
    if not repo.is_dir():
        return [f"not in {hub}"]
    snapshots = _snapshots(repo)
    if not snapshots:
        return ["no snapshot", *_unfinished(repo)]
    found = [[*_in_snapshot(path, kind), *_unfinished(repo)] for path in snapshots]
    return min(found, key=len)


def _snapshots(repo: Path) -> list[Path]:
    """The snapshot of ``main``, which is what a test loads; every snapshot where no branch is recorded."""
    try:
        commit = (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        root = repo / "snapshots"
        return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    path = repo / "snapshots" / commit
    return [path] if commit and path.is_dir() else []


def _in_snapshot(snapshot: Path, kind: RepoKind) -> Iterator[str]:
    present: dict[str, int] = {}
    broken: list[str] = []
    for path in sorted(snapshot.rglob("*")):
        name = str(path.relative_to(snapshot))
        target = path.resolve()
        if not target.exists() or target.name.endswith(".incomplete"):
            broken.append(name)
        elif target.is_file() and not name.endswith(".incomplete"):
            present[name] = target.stat().st_size
    if broken:
        yield f"not downloaded: {_some(broken)}"
    if kind == "dataset":
        if not present:
            yield "no file in its snapshot"
    else:
        weights = {name: size for name, size in present.items() if name.endswith(WEIGHTS)}
        if not weights:
            yield "no weight file"
        if empty := [name for name, size in weights.items() if size == 0]:
            yield f"empty: {_some(empty)}"
    if absent := sorted(_expected(snapshot, present) - set(present) - set(broken)):
        yield f"shards not there: {_some(absent)}"
    if unread := [name for name in present if name.endswith(".index.json") and _index(snapshot / name) is None]:
        yield f"unreadable: {_some(unread)}"


def _expected(snapshot: Path, present: dict[str, int]) -> set[str]:
    """Files that others announce: shards of an index, and the siblings of ``x-00001-of-00005.y``."""
    named: set[str] = set()
    for name in present:
        if name.endswith(".index.json"):
            below = Path(name).parent
            named |= {str(below / shard) for shard in _index(snapshot / name) or ()}
        elif match := _SHARD.fullmatch(name):
            total = match["total"]
            first = 0 if f"{match['head']}00000-of-{total}{match['tail']}" in present else 1
            named |= {
                f"{match['head']}{number:05}-of-{total}{match['tail']}" for number in range(first, int(total) + first)
            }
    return named


def _index(path: Path) -> set[str] | None:
    """The shards of a weight index; empty for another kind of index, None for one that is no JSON."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    shards: object = cast("dict[str, object]", value).get("weight_map") if isinstance(value, dict) else None
    values = cast("dict[str, object]", shards).values() if isinstance(shards, dict) else ()
    return {shard for shard in values if isinstance(shard, str)}


def _unfinished(repo: Path) -> list[str]:
    """Downloads that were cut short; one whose blob arrived all the same is a leftover."""
    blobs = repo / "blobs"
    if not blobs.is_dir():
        return []
    names = {path.name for path in blobs.iterdir()}
    cut = sorted(name for name in names if name.endswith(".incomplete") and name.partition(".")[0] not in names)
    return [f"download not finished: {_some([f'blobs/{name[:12]}….incomplete' for name in cut])}"] if cut else []


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_ONCE
    return ", ".join(names[:_NAMED_AT_ONCE]) + (f" and {more} more" if more > 0 else "")
