"""Which revision of a declared model or data set a launch gets from the Hugging Face cache, and of which files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from tune_mcp.config.stages import Frozen
from tune_mcp.files import read_text
from tune_mcp.precheck.hub_cache import RepoKind
from tune_mcp.precheck.needs import Needs

_FILES_LIMIT = 5000


class Revision(Frozen):
    """``commit`` is what ``main`` means here ("": nothing); ``files`` maps a file of that snapshot to its blob's name,
    which is its digest, or to its size."""

    commit: str
    files: dict[str, str]


def of(env: Mapping[str, str], assets: Iterable[str]) -> dict[str, Revision]:
    """The revisions of ``model <id>`` and ``dataset <id>`` in the cache that a launch with ``env`` reads."""
    hub = Needs(env=env).hub()
    return {name: _revision(hub, name) for name in assets}


def named(kind: RepoKind, repo_id: str) -> str:
    """How an asset is spelled here."""
    return f"{kind} {repo_id}"


def difference(before: Revision, now: Revision) -> str:
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
