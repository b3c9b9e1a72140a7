from __future__ import annotations

from datetime import timedelta

import pytest

from tune_mcp.session import events


@pytest.mark.rule("GAP-10")
def test_a_purged_repeat_is_named_with_its_stages_repeat_reason_and_author(case, remeasure, start) -> None:
    remeasure(case, "test_asr_ci", 3, "23/24 samples", "session")
    text = case.markdown()
    section = text.split("## Superseded repeats and incidents")[1].split("\n## ")[0]
    assert "`test_asr_ci` repeat 3 (asr_accuracy, asr_speed): 23/24 samples — by session" in section
    assert "1 repeat was taken out and measured anew" in section
    assert case.report().superseded[0].t == "2026-04-23T05:31:00Z"


@pytest.mark.rule("GAP-10")
def test_an_attempt_that_was_tried_again_is_listed_once_for_its_test(workshop, launch, start) -> None:
    again = (launch(1, "retried", "server exited"), launch(2, "kept", started=start + timedelta(minutes=9)))
    facts = workshop.make(history={("test_tts_ci", 2): again}).report()
    assert [(one.where, one.repeat, one.reason) for one in facts.superseded] == [
        ("test_tts_ci", 2, "attempt 1 retried: server exited")
    ]
    assert len(facts.attempts) == 11
    assert sum(one.superseded for one in facts.attempts) == 1


def test_incidents_are_shown_in_order_and_everyday_events_are_not(case, start) -> None:
    events.append(case.run, "halted", start, "NEEDS_CONFIG: no path")
    events.append(case.run, "resumed", start, "by session")
    assert [one.kind for one in case.report().incidents] == ["halted", "resumed"]


def test_a_withdrawal_without_a_purge_is_not_lost(case, start, workshop, values) -> None:
    events.append(case.run, "withdrawn", start, "tts_wer run 1", stage="tts_wer", repeat=1)
    workshop.observe(case.run, case.plan, "tts_wer", 1, {"corpus_wer": values[("tts_wer", "corpus_wer")][0]})
    assert [(one.where, one.reason) for one in case.report().superseded] == [("tts_wer", "withdrawn")]
