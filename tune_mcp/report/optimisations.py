"""Which configured optimisations this run's logs show; what no log shows is named, never taken for granted (PRF-03).

The logs are those of the repeats that count. A pattern is a remark for people: it decides nothing and gates nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tune_mcp.config.model import Optimisation
from tune_mcp.files import inside, open_plain
from tune_mcp.observe.audit import Audit
from tune_mcp.report.facts import OptimisationFacts, SeenFacts
from tune_mcp.run_dir import RunDir

LOG_BYTES = 16 * 1024 * 1024
"""How far a log is read: seventy large ones still fit into one reply's time."""


def search_logs(
    run: RunDir, audited: Audit, optimisations: Mapping[str, Optimisation]
) -> tuple[OptimisationFacts, ...]:
    """Search the pytest log of every strict repeat for each optimisation's evidence."""
    logs = _logs(run, audited)
    patterns = {
        name: re.compile(one.evidence, re.MULTILINE) for name, one in optimisations.items() if one.evidence is not None
    }
    hits: dict[str, dict[str, dict[int, str]]] = {name: {} for name in optimisations}
    unread: dict[str, set[int]] = {}
    for test, repeats in logs.items():
        wanted = {name: pattern for name, pattern in patterns.items() if _concerns(optimisations[name], audited, test)}
        for repeat, log in repeats.items() if wanted else ():
            text, whole = _text(run, log)
            if not whole:
                unread.setdefault(test, set()).add(repeat)
            for name, pattern in wanted.items():
                found = pattern.search(text)
                if found:
                    line = text.count("\n", 0, found.start()) + 1
                    hits[name].setdefault(test, {})[repeat] = f"{log}:{line}"
    return tuple(
        OptimisationFacts(
            name=name,
            files=one.files,
            evidence=one.evidence,
            tests=tuple(
                _seen(test, hits[name].get(test, {}), unread.get(test, set()))
                for test in logs
                if _concerns(one, audited, test)
            ),
        )
        for name, one in optimisations.items()
    )


def _seen(test: str, hits: Mapping[int, str], unread: set[int]) -> SeenFacts:
    return SeenFacts(
        test=test,
        repeats=tuple(sorted(hits)),
        place=hits[min(hits)] if hits else "",
        unread=tuple(sorted(unread - set(hits))),
    )


def _concerns(one: Optimisation, audited: Audit, test: str) -> bool:
    files = {stage.stage.test.rpartition("/")[2] for stage in audited.stages if stage.stage.test_key == test}
    return not one.tests or bool(files & set(one.tests))


def _logs(run: RunDir, audited: Audit) -> dict[str, dict[int, str]]:
    """Test key -> repeat -> its pytest log, below the run directory; empty where none is on record."""
    found: dict[str, dict[int, str]] = {}
    for part, own in audited.parts(run):
        place = f"{part.path.relative_to(run.path)}/" if part != run else ""
        for stage in own.stages:
            for repeat, cell in enumerate(stage.cells, 1):
                log = cell.stored.content.pytest_log if cell.stored else None
                found.setdefault(stage.stage.test_key, {}).setdefault(repeat, f"{place}{log}" if log else "")
    return found


def _text(run: RunDir, log: str) -> tuple[str, bool]:
    """The log up to the limit, and whether that is all of it."""
    try:
        with open_plain(inside(run.path, log)) as stream:
            data = stream.read(LOG_BYTES + 1)
    except (OSError, ValueError):
        return "", False
    return data[:LOG_BYTES].decode(errors="replace"), len(data) <= LOG_BYTES
