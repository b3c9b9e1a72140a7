"""Write report.md, report.json and report.html of a run, and keep them true after an apply (rules RPT-04, APL-18)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tune_mcp.apply.plan import ApplyPlan
from tune_mcp.config.model import Optimisation
from tune_mcp.contract.apply import Applied
from tune_mcp.files import parse_json, read_plain, read_text, write_atomic, write_json
from tune_mcp.observe.audit import Audit
from tune_mcp.report import earlier, html, markdown, previous
from tune_mcp.report.collect import collect
from tune_mcp.report.facts import ReportFacts
from tune_mcp.report.noise import SameCode
from tune_mcp.report.optimisations import look
from tune_mcp.report.suite import CiGate
from tune_mcp.run_dir import RunDir
from tune_mcp.session.plan import Plan


def write_report(
    run: RunDir,
    repo_root: Path,
    plan: Plan,
    audited: Audit,
    applied: ApplyPlan,
    now: datetime,
    optimisations: Mapping[str, Optimisation] | None = None,
    ci: CiGate | None = None,
    same_code: SameCode | None = None,
) -> ReportFacts:
    """Write the three files, each whole; returns what they say. The caller has checked both gates.

    ``optimisations`` are what the model's config names now: they add remarks and change no number. ``ci`` is how CI
    judges, by the same config; ``same_code`` says of another commit whether it measures the same as the plan's.
    A report of the same artifacts that already records applied changes keeps them, and its tables (RPT-04).
    """
    if not audited.ready:
        raise ValueError(f"{plan.run_id} has not passed both gates; no report is written")
    before = earlier.read(repo_root, plan.model, plan.run_id)
    facts = collect(run, repo_root, plan, audited, applied, now, before, ci, same_code)
    named = optimisations or {}
    since = previous.find(repo_root, facts, named, before)
    facts = facts.model_copy(update={"previous": since, "optimisations": look(run, audited, named)})
    last = read_report(run)
    if last and last.artifacts_digest == facts.artifacts_digest:
        # What stood in the files before is what a reviewer must see; the files themselves hold the new values now.
        kept = {"stages": last.stages, "suite": last.suite} if last.applied else {}
        facts = facts.model_copy(update={"applied": last.applied, **kept})
    _write(run, facts)
    return facts


def record_applied(run: RunDir, rows: Sequence[Applied], facts: ReportFacts) -> ReportFacts:
    """Put the applied changes into all three files of the report ``facts``; none removes them."""
    facts = facts.model_copy(update={"applied": tuple(rows)})
    _write(run, facts)
    return facts


def read_report(run: RunDir) -> ReportFacts | None:
    """The facts of the report on disk; None when there is none that this version can read."""
    try:
        return ReportFacts.model_validate(parse_json(read_plain(run.report_json)))
    except (OSError, ValueError, ValidationError):
        return None


def read_whole(run: RunDir) -> ReportFacts | None:
    """The facts of the report when all three files are there, else None (POL-09)."""
    return read_report(run) if run.report_md.is_file() and run.report_html.is_file() else None


def by_hand(run: RunDir, facts: ReportFacts) -> bool:
    """Whether report.md or report.html is not what ``facts`` render to: such a text is no report (RPT-04)."""
    try:
        present = read_text(run.report_md), read_text(run.report_html)
    except (OSError, ValueError):
        return True
    return present != (markdown.render(facts), html.render(facts))


def _write(run: RunDir, facts: ReportFacts) -> None:
    # report.json last: it carries the digest that vouches for the other two.
    write_atomic(run.report_md, markdown.render(facts).encode())
    write_atomic(run.report_html, html.render(facts).encode())
    write_json(run.report_json, facts.model_dump(mode="json"))
