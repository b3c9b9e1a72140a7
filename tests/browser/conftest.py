"""One browser for all tests, and one report that has everything in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from browser.devtools import Page, browser
from speech_run import START, VALUES, Workshop, attempt

from tune_mcp.config.model import Optimisation
from tune_mcp.report.write import write_report
from tune_mcp.session import events

OPTIMISATIONS = {
    "cuda_graph": Optimisation(evidence="cuda graph: True", tests=("test_tts_ci.py",)),
    "batched_encoder": Optimisation(evidence=r"encoder batch=\d+", tests=("test_asr_ci.py",)),
}


@dataclass(frozen=True)
class Report:
    """A report.html, and how many metrics and repeats it must show."""

    html: Path
    metrics: int
    repeats: int


def write(folder: Path, repeats: int) -> Report:
    """A dirty run with a retry, a purge, an alert, a last calibration, and optimisations seen and unseen."""
    values = {key: [row[k % 5] for k in range(repeats)] for key, row in VALUES.items()}
    workshop = Workshop(folder)
    workshop.make(stamp="20260301T050000Z", values=values, repeats=repeats, precheck={}).report()
    launches = (attempt(1, "retried", "the server died: CUDA out of memory"), attempt(2, "kept"))
    case = workshop.make(
        values=values,
        repeats=repeats,
        dirty=True,
        history={("test_tts_ci", 2): launches},
        titles={"tts_wer": "Word errors of synthesised speech, transcribed by the recogniser of the same family"},
    )
    for repeat in range(1, repeats):
        log = case.run.log("test_tts_ci", repeat)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Decode batch, cuda graph: True\n")
    events.append(case.run, "alert", START + timedelta(minutes=40), "the log has not grown for 600 s")
    purge = {"test": "test_asr_ci", "repeat": 4, "reason": "20 of 24 samples", "who": "li"}
    events.append(case.run, "purged", START + timedelta(minutes=50), "purged", **purge)
    write_report(case.run, case.repo, case.audit, case.applied, case.now, OPTIMISATIONS)
    return Report(case.run.report_html, len(VALUES), repeats)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(tmp_path_factory.mktemp("five"), 5)


@pytest.fixture(scope="session")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write(tmp_path_factory.mktemp("fifteen"), 15)


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    with browser() as found:
        yield found
