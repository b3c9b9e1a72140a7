"""A report.md that was committed below docs/calibration, read back: enough of it to compare a new run with (PRF-01).

Run directories stay on the machine that measured; the published report is what another clone has. Its form is our own
(``markdown``), so anything that does not fit it is no report.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.config.stages import Number
from tune_mcp.files import parse_json, read_text

FOLDER = "docs/calibration"
_HEAD = re.compile(
    r"\A# Calibration report — (?P<model>\S+)\n\n\*\*Calibration commit:\*\* `(?P<sha>[0-9a-f]{40}|[0-9a-f]{64})`\n\n"
    r"Strict worst of (?P<repeats>\d+): .*, run `(?P<run_id>[^`]+)`, (?P<gpus>.*)\.\n"
)
_GENERATED = re.compile(r"^- Report generated: (\S+)$", re.MULTILINE)
_STAGE = re.compile(r"^## Stage `([^`]+)`.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_WORST = re.compile(r"^\| (\w+) \| `[^|]*` \| (?:min|max) \| (-?[0-9.]+) \|", re.MULTILINE)


@dataclass(frozen=True)
class Published:
    """What a published report says about a calibration; ``worst`` maps ``stage/metric`` to the raw worst value."""

    model: str
    run_id: str
    calibration_git_sha: str
    repeats: int
    gpu_summary: str
    generated_at: str
    worst: dict[str, Number]


def read(text: str) -> Published | None:
    """The calibration that a report.md tells of; None for a text of another form."""
    head, generated = _HEAD.match(text), _GENERATED.search(text)
    if head is None or generated is None:
        return None
    worst: dict[str, Number] = {}
    for stage in _STAGE.finditer(text):
        for key, value in _WORST.findall(stage.group()):
            number = parse_json(value.encode())
            if isinstance(number, int | float):
                worst[f"{stage.group(1)}/{key}"] = number
    return Published(
        model=head["model"],
        run_id=head["run_id"],
        calibration_git_sha=head["sha"],
        repeats=int(head["repeats"]),
        gpu_summary=head["gpus"],
        generated_at=generated.group(1),
        worst=worst,
    )


def read_all(repo_root: Path) -> list[Published]:
    """Every published report of a repository that can be read."""
    found: list[Published] = []
    for path in sorted((repo_root / FOLDER).glob("*.md")):
        try:
            one = read(read_text(path))
        except (OSError, ValueError):
            continue
        if one is not None:
            found.append(one)
    return found
