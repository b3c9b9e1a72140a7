"""Short names for sets of stages, and the one function that expands what was asked for (rules STG-01 to STG-05)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from tune_mcp.actions import Step, call
from tune_mcp.config.stages import Stage, StageTable
from tune_mcp.errors import Code, Refusal

ALL = "ALL"


def base_of(stage: Stage) -> str:
    """The part of a stage's key that stands for its test file, or for a variant whose own name config leaves out."""
    base = stage.key
    for part in (stage.group, stage.variant, stage.calibration_preset):
        base = base.removesuffix(f"_{part}") if part else base
    return base


def aliases(table: StageTable) -> dict[str, tuple[str, ...]]:
    """Alias -> stage keys, both in catalogue order: ALL, test-file bases, base with preset and variant, ``@group``."""
    found: dict[str, list[str]] = {ALL: list(table)}
    owner: dict[str, str] = {}
    # Stages with thresholds name the bases first: `tts_docs` of another file must not join the alias `tts`.
    for stage in sorted(table.values(), key=lambda stage: stage.is_docs):
        for alias in _names(stage):
            if alias in table or owner.setdefault(alias, stage.test) != stage.test:
                continue
            found.setdefault(alias, []).append(stage.key)
    groups = {f"@{stage.group}": None for stage in table.values()}
    found |= {f"@{group[1:]}": [s.key for s in table.values() if f"@{s.group}" == group] for group in groups}
    order = {key: number for number, key in enumerate(table)}
    return {alias: tuple(sorted(keys, key=order.__getitem__)) for alias, keys in found.items()}


def _names(stage: Stage) -> list[str]:
    base, preset, variant = base_of(stage), stage.calibration_preset, stage.variant
    names = [base]
    names += [f"{base}_{preset}"] if preset else []
    names += [f"{base}_{variant}"] if variant else []
    names += [f"{base}_{preset}_{variant}"] if preset and variant else []
    return names


def expand(tokens: Sequence[str], table: StageTable) -> tuple[str, ...]:
    """The stage keys that ``tokens`` mean, in catalogue order, each once.

    A token is a stage key, an alias or several of them with commas or spaces between. Raises UNKNOWN_STAGE when one is
    unknown or when nothing is asked for: an empty matrix is never ready; NO_THRESHOLDS for a table without stages.
    """
    names = [name for token in tokens for name in re.split(r"[,\s]+", token) if name]
    if names and not table:
        raise Refusal(
            Code.NO_THRESHOLDS,
            "STG-01",
            "the stage table is empty: no test has a threshold that config or a name pattern claims",
            Step(call("discover"), ": it lists what the tests assert, with the block for config.yaml"),
            {"stages": [*tokens]},
        )
    short = aliases(table)
    chosen: set[str] = set()
    for name in names:
        if name not in table and name not in short:
            raise _unknown(name, [*short, *table])
        chosen.update((name,) if name in table else short[name])
    if not chosen:
        raise Refusal(
            Code.UNKNOWN_STAGE, "STG-01", "no stage is named", "name stages, or ALL", {"stages": [*tokens], "near": []}
        )
    return tuple(key for key in table if key in chosen)


def _unknown(name: str, known: list[str]) -> Refusal:
    folded = {candidate.casefold(): candidate for candidate in reversed(known)}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, 4, 0.5)]
    groups = [candidate for candidate in known if candidate.startswith("@")]
    offered = near or groups if name.startswith("@") else near or [ALL]
    return Refusal(
        Code.UNKNOWN_STAGE,
        "STG-01",
        f"there is no stage or alias {name!r}",
        Step(f"name {' or '.join(offered)}; the full list: ", call("catalog")),
        {"stage": name, "near": [*near]},
    )
