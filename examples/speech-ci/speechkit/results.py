"""The files that a benchmark leaves: strict JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypedDict

Number = int | float | None
Summary = dict[str, Number]
Sample = dict[str, str | Number]


class Results(TypedDict):
    """One result file: figures over all samples, and what they were made from."""

    summary: Summary
    per_sample: list[Sample]


def write_results(path: Path, results: Results) -> None:
    """Write `results` to `path` through a temporary file beside it. Raises ValueError for NaN or infinity."""
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def figure(summary: Summary, name: str) -> float:
    """A figure of a summary. Raises ValueError if there is none because no sample could be evaluated."""
    value = summary[name]
    if value is None:
        raise ValueError(f"{name}: no sample could be evaluated")
    return value


def print_summary(title: str, summary: Summary) -> None:
    """Show a summary in the log, one figure a line."""
    print(f"\n{title}")
    for name, value in summary.items():
        print(f"  {name:<20} {'-' if value is None else format(value, '.4g'):>10}")
