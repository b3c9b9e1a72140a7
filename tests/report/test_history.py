from __future__ import annotations

from datetime import timedelta

import pytest

from tune_mcp.report.facts import Uncounted
from tune_mcp.session import events


@pytest.mark.rule("GAP-10")
def test_a_purged_repeat_is_named_with_its_stages_repeat_reason_and_author(case, remeasure, start) -> None:
    remeasure(case, "test_asr_ci", 3, "23/24 samples", "session")
    text = case.markdown()
    section = text.split("## Superseded repeats and incidents")[1].split("\n## ")[0]
    row = "| 2026-04-23T05:31:00Z | `test_asr_ci` | 3 | — | purged | nothing can be read | session | 23/24 samples | "
    assert f"{row}nothing is left |" in section
    assert "1 repeat was set aside and measured again" in section


@pytest.mark.rule("GAP-10")
def test_an_attempt_that_was_tried_again_is_listed_once_for_its_test(workshop, launch, start) -> None:
    again = (launch(1, "retried", "server exited"), launch(2, "kept", started=start + timedelta(minutes=9)))
    facts = workshop.make(history={("test_tts_ci", 2): again}).report()
    assert [(one.how, one.test, one.repeat, one.attempt, one.reason) for one in facts.uncounted] == [
        (Uncounted.RETRIED, "test_tts_ci", 2, 1, "retried: server exited")
    ]
    assert len(facts.launches) == 11
    assert sum(one.superseded for one in facts.launches) == 1


@pytest.mark.rule("GAP-10")
def test_what_others_disturbed_is_listed_as_that_and_said_of_the_launches(workshop, launch, start) -> None:
    again = (launch(1, "disturbed", "1.10 cores of others"), launch(2, "kept", started=start + timedelta(minutes=9)))
    made = workshop.make(history={("test_tts_ci", 2): again})

    assert [(one.how, one.attempt, one.reason) for one in made.report().uncounted] == [
        (Uncounted.DISTURBED, 1, "1.10 cores of others")
    ]
    assert "1 tried again, 1 of them because others used its CPUs." in made.markdown()


def test_incidents_are_shown_in_order_and_everyday_events_are_not(case, start) -> None:
    events.append(case.run, "halted", start, "NEEDS_CONFIG: no path")
    events.append(case.run, "resumed", start, "by session")
    assert [one.kind for one in case.report().incidents] == ["halted", "resumed"]


def test_a_withdrawal_without_a_purge_is_not_lost(case, start, workshop, values) -> None:
    events.append(case.run, "withdrawn", start, "tts_wer run 1", stage="tts_wer", repeat=1)
    workshop.observe(case.run, case.plan, "tts_wer", 1, {"corpus_wer": values[("tts_wer", "corpus_wer")][0]})
    (one,) = case.report().uncounted
    assert (one.how, one.test, one.repeat, one.reason) == (
        Uncounted.WITHDRAWN,
        "test_tts_ci",
        1,
        "withdrawn: tts_wer",
    )


def test_a_purge_of_one_test_does_not_hide_what_was_withdrawn_of_another(
    case, remeasure, start, workshop, values
) -> None:
    events.append(case.run, "withdrawn", start, "tts_wer run 1", stage="tts_wer", repeat=1)
    workshop.observe(case.run, case.plan, "tts_wer", 1, {"corpus_wer": values[("tts_wer", "corpus_wer")][0]})
    remeasure(case, "test_asr_ci", 1, "noisy", "session")
    assert [(one.how, one.test) for one in case.report().uncounted] == [
        (Uncounted.WITHDRAWN, "test_tts_ci"),
        (Uncounted.PURGED, "test_asr_ci"),
    ]
