"""Every reply stays readable at the size of the largest model: seventy stages, fifteen repeats."""

from __future__ import annotations

from copy import copy
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from tune_mcp.contract.reply import TEXT_LIMIT, bounded
from tune_mcp.errors import Refusal
from tune_mcp.files import parse_json
from tune_mcp.session import events
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest

FILES, REPEATS = 18, 15
STAGES = 4 * FILES


def name(number: int) -> str:
    return f"test_omni_videomme_talker_async_{number:02d}_ci.py"


EXTRA = {"wer_corpus": 0.0125, "similarity": 0.75}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Four stages in each of 18 test files; of what every repeat measures, two of four thresholds loosen."""
    source = (
        toy.toy_source()
        .replace('{"throughput_qps": 1.0, "latency_mean_s": 9.0}', '{"throughput_qps": 99.0}')
        .replace('    assert results["speed"]["latency_mean_s"] <= _TOY_P95[CONCURRENCY]["latency_mean_s"]\n', "")
        .replace("_TOY_P95 =", "TOY_WER_MAX_CORPUS = 0.5\nTOY_SIMILARITY_MIN = 0.9\n_TOY_P95 =")
        + "    assert results['summary']['wer_corpus'] <= TOY_WER_MAX_CORPUS\n"
        + "    assert results['summary']['similarity'] >= TOY_SIMILARITY_MIN\n"
    )
    sources = toy.CONFIG["metric_sources"]["test_toy_ci.py"]
    paths = {**sources["paths"], "corpus_wer": "summary.wer_corpus", "similarity_mean": "summary.similarity"}
    config: dict[str, Any] = {
        **toy.CONFIG,
        "test_globs": ["tests/test_omni_*_ci.py"],
        "gpus_per_test": {name(n): 0 for n in range(FILES)},
        "metric_sources": {name(n): {**sources, "paths": paths} for n in range(FILES)},
    }
    files = {f"tests/{name(n)}": source.replace("TOY", f"OMNI_{n:02d}") for n in range(FILES)}
    return toy.make_toy(tmp_path / "repo", config=config, files=files)


def test_every_reply_about_a_large_run_is_short_and_ends_with_the_next_step(project: Project) -> None:
    parsed = cache(parse_json)
    # each repeat reads the whole ledger again
    with mock.patch.object(events, "parse_json", lambda line: copy(parsed(line))):
        run_id = toy.finished_run(project, REPEATS, lambda job: toy.measured(job, summary=EXTRA)).run_id
    audited = strict_audit(project, run_id)
    assert audited.strict_ready == f"{STAGES}/{STAGES}" and audited.ready
    assert all(stage.cells == "✓" * REPEATS for stage in audited.stages)
    assert len(audited.text().splitlines()) == 2 + STAGES + 2, "the audit is whole and still short"
    shown = report(project, run_id)
    plan = apply_plan(project, run_id)
    with pytest.raises(Refusal) as caught:
        apply(project, run_id, plan.plan_id, "smart")
    missing = caught.value.details["missing"]
    assert isinstance(missing, list) and len(missing) == 2 * FILES, "speed, and a quality metric of each file"
    assert len(caught.value.text()) <= TEXT_LIMIT
    replies = [
        catalog(project),
        catalog(project, "toy"),
        discover(project, "toy", write=False),
        precheck(project, "toy"),
        list_runs(project),
        status(project, run_id),
        tail_pytest(project, run_id, lines=500),
        audited,
        shown,
        plan,
        apply(project, run_id, plan.plan_id, "report"),
        stop_run(project, run_id, "over"),
    ]
    for reply in replies:
        text = reply.text()
        assert len(text) <= TEXT_LIMIT, type(reply)
        assert text.endswith(f"Next: {reply.next}") or reply is audited, type(reply)
    assert len(plan.rows) == STAGES
    assert f"{STAGES} metrics in {STAGES} stages: 36 would loosen, 36 tighten" in shown.text()
    assert all("loosens (-89.6%)" in line for line in shown.loosening[:FILES]), "the largest change first"
    assert "LOOSENS … and 16 more, by less" in shown.text()


def test_the_start_of_a_large_run_shows_plan_line_and_commands(project: Project) -> None:
    with toy.supervised_here(lambda job: None):
        reply = start_run(project, "toy", repeats=1)
    assert len(reply.text()) <= TEXT_LIMIT
    for part in (reply.plan_line, reply.watch_command, reply.tail_command):
        assert part in reply.text()
    now = status(project, reply.run_id)
    assert len(now.text()) <= TEXT_LIMIT and now.missing_total == STAGES
    assert len(now.missing) <= 50


@given(st.lists(st.text(max_size=3000), max_size=40), st.text(max_size=200))
def test_a_text_is_never_longer_than_the_limit_and_keeps_its_tail(lines: list[str], tail: str) -> None:
    text = bounded("\n".join(lines), tail)
    assert len(text) <= TEXT_LIMIT
    assert text.endswith(tail)


def test_a_text_that_is_too_long_loses_its_middle_and_says_how_much() -> None:
    body = "\n".join(f"line {number:04d}" for number in range(2000))
    text = bounded(body, "\nNext: go on")

    assert text.startswith("line 0000\nline 0001\n")
    assert text.endswith("line 1999\nNext: go on")
    shown = sum(row.startswith("line") for row in text.splitlines())
    assert f"[… {2000 - shown} lines left out …]" in text


def test_one_endless_line_is_cut_instead_of_vanishing() -> None:
    text = bounded("first\n" + "x" * 20_000 + "\nlast", "\nNext: go on")

    assert text.startswith("first\n")
    assert "\nlast\nNext: go on" in text
    assert len(text) <= TEXT_LIMIT
    assert bounded("x" * 20_000).startswith("x" * 3000)
