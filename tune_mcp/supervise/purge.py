"""Take one pytest repeat out of the live set: all its stages and its evidence, into ``purged/`` (GAP-05, GAP-11)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from tune_mcp.files import new_folder, sync_folder, write_json
from tune_mcp.run_dir import RunDir, iso, utc_stamp
from tune_mcp.session import events


def purge(
    run: RunDir,
    test: str,
    stage_keys: Iterable[str],
    repeat: int,
    *,
    who: str,
    reason: str,
    now: datetime,
    replaced: bool = False,
) -> Path:
    """Move the repeat's artifacts; nothing is ever deleted (STR-22). Returns the folder that holds them now.

    ``replaced``: the repeat counted, and the person ``who`` took it out.
    """
    name = f"{utc_stamp(now)}_{test}_run{repeat}"
    folder = new_folder(run.purged, (name, *(f"{name}-{number}" for number in range(2, 1000))))
    write_json(
        folder / "purge.json",
        {"schema_version": 1, "test": test, "repeat": repeat, "who": who, "when": iso(now), "reason": reason},
    )
    for key in stage_keys:
        source = run.observation(key, repeat)
        if source.exists():
            events.append(run, "withdrawn", now, f"{key} run {repeat}", stage=key, repeat=repeat)
            source.rename(folder / f"{key}.json")
            sync_folder(source.parent)
    for source in (*run.usual(test, repeat), *(path for _, path in run.attempts(test, repeat))):
        if source.is_symlink():
            source.unlink()  # what it points to goes with its attempt
        elif source.exists():
            source.rename(folder / source.name)
    sync_folder(folder)
    events.append(
        run, "purged", now, f"{test} run {repeat}: {reason} (by {who})",
        test=test, repeat=repeat, reason=reason, who=who, folder=str(folder.relative_to(run.path)),
        **({"replaced": True} if replaced else {}),
    )  # fmt: skip
    return folder
