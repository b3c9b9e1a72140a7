"""One repository of a Hugging Face cache: what of it is missing, who writes it now, which revision a launch gets.

The library finds the snapshot and, where it kept the repository's listing, tells what that lacks; nothing is ever
asked of the network. On top are our own looks at the bytes: links that lead nowhere, empty or cut files, shards that
an index announces. A format is never asked for: what counts as whole is the repository's own list of files, or the
files that config names. Only the repositories that are asked for are looked at: a scan of the whole cache takes
minutes on a network file system. Nothing is locked to find out who writes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal, cast

from tune_mcp.config.stages import Frozen
from tune_mcp.files import read_text, real
from tune_mcp.precheck.subject import Needs
from tune_mcp.words import named

RepoKind = Literal["model", "dataset"]
_DESCRIBING = re.compile(
    r"(?i)(.*\.(json|jsonl|md|txt|rst|py|pyc|ya?ml|toml|cfg|ini|jinja|template|png|jpe?g|gif|svg|webp|pdf|html|lock|csv|tsv"
    r"|ipynb|sh|sha256|sig|gitignore|gitattributes)|license.*|notice.*|readme.*|\.git.*)"
)
_TOKENIZER = re.compile(
    r"(?i)(tokenizer.*|.*token.*\.model|.*(spm|bpe|spiece|sentencepiece).*\.(model|vocab)|.*\.tiktoken|tekken\.json|vocab\..*"
    r"|merges\.txt|special_tokens_map\.json|added_tokens\.json|(pre)?processor_config\.json|feature_extractor.*\.json)"
)
"""Names of what describes a model and of what a tokenizer or processor consists of; every other file is weights."""
_SHARD = re.compile(r"(?P<head>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})(?P<tail>\..+)")
NO_WEIGHTS = "no weight file"
_named = partial(named, most=3)


def folder_name(kind: RepoKind, repo_id: str) -> str:
    """The name under which the cache keeps a repository, and its locks."""
    from huggingface_hub.file_download import repo_folder_name

    return repo_folder_name(repo_id=repo_id, repo_type=kind)


def missing_parts(hub: Path, kind: RepoKind, repo_id: str, wanted: tuple[str, ...] | None = None) -> list[str]:
    """What is missing of a repository; empty when the whole snapshot of ``main`` is there.

    ``wanted`` limits the look to files that fit these globs, each of which needs one; empty takes what is there.

    Raises ``OSError`` for a cache that cannot be read, ``ValueError`` for a name that no repository can have.
    """
    # Imported here: the library takes a sixth of a second, which only a model with weights has to pay.
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    find: Callable[..., str] = import_module("huggingface_hub").snapshot_download  # its annotations are not complete
    repo = hub / folder_name(kind, repo_id)
    if not repo.is_dir():
        return [f"not in {hub}"]
    try:
        snapshot = find(repo_id, repo_type=kind, cache_dir=hub, local_files_only=True)
    except IncompleteSnapshotError as error:
        snapshot = error.snapshot_path
    except LocalEntryNotFoundError:
        return ["no snapshot of main", *_unfinished(repo)]
    return [*_in_snapshot(Path(snapshot), kind, _listed(hub, kind, repo_id), wanted), *_unfinished(repo)]


def _listed(hub: Path, kind: RepoKind, repo_id: str) -> dict[str, int]:
    """File -> bytes by the listing that the library kept of this commit; empty where an older one downloaded it."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        files = get_cached_repo_tree(repo_id, repo_type=kind, cache_dir=hub)
    except CachedRepoTreeNotFoundError:
        return {}
    return {file.path: file.size for file in files}


def _in_snapshot(
    snapshot: Path, kind: RepoKind, listed: dict[str, int], wanted: tuple[str, ...] | None
) -> Iterator[str]:
    present: dict[str, int] = {}
    broken: list[str] = []
    for path in sorted(snapshot.rglob("*")):
        name = str(path.relative_to(snapshot))
        target = real(path)
        if not target.exists() or target.name.endswith(".incomplete"):
            broken.append(name)
        elif target.is_file() and not name.endswith(".incomplete"):
            present[name] = target.stat().st_size
    broken += sorted(listed.keys() - present.keys() - set(broken))
    if wanted:
        broken = [name for name in broken if _fits(name, wanted)]
        absent = [glob for glob in wanted if not any(fnmatchcase(name, glob) for name in (*present, *broken))]
        present = {name: size for name, size in present.items() if _fits(name, wanted)}
        if absent:
            yield f"no file fits {_named(absent)}"
    elif wanted is not None:
        broken = [name for name in broken if (snapshot / name).is_symlink()]
    if broken:
        yield f"not downloaded: {_named(broken)}"
    if cut := [name for name, size in present.items() if size != listed.get(name, size)]:
        yield f"not as long as announced: {_named(cut)}"
    if wanted is None and not listed and (lacking := _lacking(kind, present)):
        yield lacking
    empty = [name for name, size in present.items() if size == 0 and name not in listed and _is_weights(name)]
    if kind == "model" and empty:
        yield f"empty: {_named(empty)}"
    if wanted is not None:
        return
    if absent := sorted(_expected(snapshot, present) - set(present) - set(broken)):
        yield f"shards not there: {_named(absent)}"
    if unread := [name for name in present if name.endswith(".index.json") and _index(snapshot / name) is None]:
        yield f"unreadable: {_named(unread)}"


def _fits(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _is_weights(name: str) -> bool:
    last = name.rpartition("/")[2]
    return _DESCRIBING.fullmatch(last) is None and _TOKENIZER.fullmatch(last) is None


def _lacking(kind: RepoKind, present: Mapping[str, int]) -> str:
    """What a snapshot without a listing cannot do without: some file, and weights where a model is described.

    ``config.json`` alone is what a cut download leaves; a tokenizer by itself has none.
    """
    if kind == "dataset":
        return "" if present else "no file in its snapshot"
    if any(_is_weights(name) for name in present):
        return ""
    alone = "config.json" not in present and any(_TOKENIZER.fullmatch(name.rpartition("/")[2]) for name in present)
    return "" if alone else NO_WEIGHTS


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
    return [f"download not finished: {_named([f'blobs/{name[:12]}….incomplete' for name in cut])}"] if cut else []


PROC_LOCKS = Path("/proc/locks")
_HELD = re.compile(r"\d+: \w+ +\w+ +WRITE (?P<pid>-?\d+) (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) ")


def holders(hub: Path, folder: str, table: Path = PROC_LOCKS) -> tuple[int, ...]:
    """The processes that hold a lock of one repository; 0 stands for one outside this container.

    Raises ``OSError`` when the locks or the table cannot be read.
    """
    locks = hub / ".locks" / folder
    if not locks.is_dir():
        return ()
    files = {_identity(path.stat()) for path in locks.iterdir()}
    return tuple(sorted({pid for pid, identity in _held(table.read_text().splitlines()) if identity in files}))


def _held(lines: Iterable[str]) -> Iterable[tuple[int, tuple[int, int, int]]]:
    for line in lines:
        if found := _HELD.match(line):
            identity = (int(found["major"], 16), int(found["minor"], 16), int(found["inode"]))
            yield max(0, int(found["pid"])), identity


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    return os.major(stat.st_dev), os.minor(stat.st_dev), stat.st_ino


_FILES_LIMIT = 5000


class Revision(Frozen):
    """``commit`` is what ``main`` means here ("": nothing); ``files`` maps a file of that snapshot to its blob's name,
    which is its digest, or to its size."""

    commit: str
    files: dict[str, str]


def revisions_of(env: Mapping[str, str], assets: Iterable[str]) -> dict[str, Revision]:
    """The revisions of ``model <id>`` and ``dataset <id>`` in the cache that a launch with ``env`` reads."""
    hub = Needs(env=env).hub()
    return {name: _revision(hub, name) for name in assets}


def asset_named(kind: RepoKind, repo_id: str) -> str:
    """How an asset is spelled here."""
    return f"{kind} {repo_id}"


def revision_change(before: Revision, now: Revision) -> str:
    """What of a repository is another one, a clause; empty when it is the same. A file that arrived later is none."""
    if not before.commit:
        return ""  # the first launch fetched it
    if before.commit != now.commit:
        return f"resolves to {now.commit or 'nothing'}, an earlier repeat had {before.commit}"
    names = [name for name in before.files if name in now.files and before.files[name] != now.files[name]]
    return f"has other bytes in {', '.join(sorted(names)[:3])}" if names else ""


def _revision(hub: Path, name: str) -> Revision:
    kind, _, repo_id = name.partition(" ")
    # As the library's repo_folder_name has it; importing that takes a sixth of a second, which each launch would pay.
    repo = hub / "--".join([f"{cast(RepoKind, kind)}s", *repo_id.split("/")])
    try:
        commit = read_text(repo / "refs" / "main").strip()
    except (OSError, ValueError):
        return Revision(commit="", files={})
    snapshot = repo / "snapshots" / commit
    found: dict[str, str] = {}
    for folder, _, names in os.walk(snapshot):
        for file in names:
            if len(found) >= _FILES_LIMIT:
                break
            path = Path(folder) / file
            try:
                blob = path.readlink().name if path.is_symlink() else f"size:{path.stat().st_size}"
            except OSError:
                continue
            found[str(path.relative_to(snapshot))] = blob
    return Revision(commit=commit, files=found)
