"""An optimisation counts as used when a log of this run shows it, and never because config names it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tune_mcp.config.model import Optimisation
from tune_mcp.report import optimisations, since
from tune_mcp.report.facts import OptimisationFacts, ReportFacts, SeenFacts
from tune_mcp.report.write import write_report

GRAPH = Optimisation(evidence=r"^\S+ cuda graph: True$", tests=("test_tts_ci.py",))
SHOWN = "INFO starting\nINFO cuda graph: True\nINFO done\n"


def logs(case, test: str, texts: Mapping[int, str]) -> None:
    for repeat, text in texts.items():
        log = case.run.log(test, repeat)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)


def look(case, **named: Optimisation) -> dict[str, OptimisationFacts]:
    return {one.name: one for one in optimisations.search_logs(case.run, case.audit, named)}


def report(case, **named: Optimisation) -> ReportFacts:
    return write_report(case.run, case.repo, case.audit, case.applied, case.now, named)


@pytest.mark.rule("PRF-03")
def test_the_line_in_the_log_is_the_evidence_and_is_named(case) -> None:
    logs(case, "test_tts_ci", dict.fromkeys(range(1, 6), SHOWN))

    (seen,) = look(case, graph=GRAPH)["graph"].tests

    assert seen == SeenFacts(test="test_tts_ci", repeats=(1, 2, 3, 4, 5), place="_pytest/test_tts_ci/run1.log:2")


@pytest.mark.rule("PRF-03", "PRF-02")
def test_configured_but_in_no_log_is_said_loudly_and_next_to_what_loosens(case) -> None:
    logs(case, "test_tts_ci", dict.fromkeys(range(1, 6), "INFO cuda graph: False\n"))
    facts = report(case, graph=GRAPH)
    text, html = case.run.report_md.read_text(), case.run.report_html.read_text()

    assert facts.unproven(next(stage for stage in facts.stages if stage.key == "tts_speed")) == ["graph"]
    assert "Configured, but in no log: graph (test_tts_ci)." in text.split("### ")[0]
    assert "| graph | `^\\S+ cuda graph: True$` | `test_tts_ci` | never | — |" in text
    loosening = next(line for line in text.splitlines() if "_TTS_P95[8][" in line and "**loosens" in line)
    assert "graph never shows in a log of this test: look into that first" in loosening
    assert "✗</span> never" in html


def test_repeats_without_the_line_are_named(case) -> None:
    logs(case, "test_tts_ci", {1: "", 2: SHOWN, 3: SHOWN, 4: "", 5: SHOWN})

    (seen,) = look(case, graph=GRAPH)["graph"].tests

    assert (seen.repeats, seen.place) == ((2, 3, 5), "_pytest/test_tts_ci/run2.log:2")
    assert since.seen_text(seen, 5) == "3 of 5 repeats, not in 1, 4"


def test_a_log_that_is_gone_or_too_long_is_not_taken_for_one_without_the_line(case, monkeypatch) -> None:
    monkeypatch.setattr(optimisations, "LOG_BYTES", 100)
    logs(case, "test_tts_ci", {1: SHOWN, 2: "x" * 200 + "\n" + SHOWN, 3: SHOWN, 4: "é" * 60})

    (seen,) = look(case, graph=GRAPH)["graph"].tests

    assert (seen.repeats, seen.unread) == ((1, 3), (2, 4, 5))
    assert "repeat 2, 4, 5: log gone or too long" in since.seen_text(seen, 5)


@pytest.mark.rule("PRF-03")
def test_a_run_without_any_log_proves_nothing_and_says_so(case) -> None:
    facts = report(case, everywhere=Optimisation(evidence="x"))

    assert [(seen.test, seen.repeats) for seen in facts.optimisations[0].tests] == [
        ("test_tts_ci", ()),
        ("test_asr_ci", ()),
    ]
    text = case.run.report_md.read_text()
    assert "Configured, but in no log: everywhere (test_tts_ci, test_asr_ci)." in text


def test_without_named_tests_every_test_is_looked_at_and_others_are_not(case) -> None:
    found = look(case, everywhere=Optimisation(evidence="x"), graph=GRAPH)

    assert [seen.test for seen in found["everywhere"].tests] == ["test_tts_ci", "test_asr_ci"]
    assert [seen.test for seen in found["graph"].tests] == ["test_tts_ci"]


@pytest.mark.rule("PRF-03")
def test_without_evidence_in_config_it_stays_unproven(case) -> None:
    facts = report(case, kernels=Optimisation(files=("kernels/**",)))

    assert "none in config: it cannot be proven from a log" in case.run.report_md.read_text()
    assert not any(facts.unproven(stage) for stage in facts.stages)


def test_a_log_outside_the_run_is_not_read(case, tmp_path) -> None:
    (tmp_path / "secret.log").write_text(SHOWN)
    logs(case, "test_tts_ci", {1: "x"})
    log = case.run.log("test_tts_ci", 1)
    log.unlink()
    log.symlink_to(tmp_path / "secret.log")

    (seen,) = look(case, graph=GRAPH)["graph"].tests

    assert (seen.repeats, seen.unread) == ((), (1, 2, 3, 4, 5))
