"""One repository of a Hugging Face cache: what is missing in it, in words; looked up through huggingface_hub itself.

The library finds the snapshot and, where it kept the repository's listing, tells what that lacks; nothing is ever
asked of the network. On top stand our own looks at the bytes: links that lead nowhere, empty or cut files, shards that
an index announces. Only the repositories that are asked for are looked at: a whole-cache scan takes minutes on a
network file system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast

from tune_mcp.files import read_text

RepoKind = Literal["model", "dataset"]
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_SHARD = re.compile(r"(?P<head>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})(?P<tail>\..+)")
_NAMED_AT_ONCE = 3


class _FindSnapshot(Protocol):
    """``snapshot_download`` as it is used here; its own annotations are not complete."""

    def __call__(self, repo_id: str, *, repo_type: str, cache_dir: Path, local_files_only: bool) -> str: ...


def folder_name(kind: RepoKind, repo_id: str) -> str:
    """The name under which the cache keeps a repository, and its locks."""
    from huggingface_hub.file_download import repo_folder_name

    return repo_folder_name(repo_id=repo_id, repo_type=kind)


def gaps(hub: Path, kind: RepoKind, repo_id: str) -> list[str]:
    """What is missing of a repository; empty when the whole snapshot of ``main`` is there.

    Raises ``OSError`` for a cache that cannot be read, ``ValueError`` for a name that no repository can have.
    """
    # Imported here: the library takes a sixth of a second, which only a model with weights has to pay.
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    find: _FindSnapshot = import_module("huggingface_hub").snapshot_download
    repo = hub / folder_name(kind, repo_id)
    if not repo.is_dir():
        return [f"not in {hub}"]
    try:
        snapshot = find(repo_id, repo_type=kind, cache_dir=hub, local_files_only=True)
    except IncompleteSnapshotError as error:
        snapshot = error.snapshot_path
    except LocalEntryNotFoundError:
        return ["no snapshot of main", *_unfinished(repo)]
    return [*_in_snapshot(Path(snapshot), kind, _listed(hub, kind, repo_id)), *_unfinished(repo)]


def _listed(hub: Path, kind: RepoKind, repo_id: str) -> dict[str, int]:
    """File -> bytes by the listing that the library kept of this commit; empty where an older one downloaded it."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(repo_id, repo_type=kind, cache_dir=hub)
    except CachedRepoTreeNotFoundError:
        return {}
    return {file.path: file.size for file in files}


def _in_snapshot(snapshot: Path, kind: RepoKind, listed: dict[str, int]) -> Iterator[str]:
    present: dict[str, int] = {}
    broken: list[str] = []
    for path in sorted(snapshot.rglob("*")):
        name = str(path.relative_to(snapshot))
        target = path.resolve()
        if not target.exists() or target.name.endswith(".incomplete"):
            broken.append(name)
        elif target.is_file() and not name.endswith(".incomplete"):
            present[name] = target.stat().st_size
    broken += sorted(listed.keys() - present.keys() - set(broken))
    if broken:
        yield f"not downloaded: {_some(broken)}"
    if cut := [name for name, size in present.items() if size != listed.get(name, size)]:
        yield f"not as long as announced: {_some(cut)}"
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
        value: object = json.loads(read_text(path))
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
