"""events.jsonl is append-only, and its digests make an edited artifact visible."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events

NOW = datetime(2026, 4, 23, 5, 0, 0, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def recorded(run: RunDir, stage: str, repeat: int, sha: str) -> None:
    events.append(run, "recorded", NOW, f"{stage} run {repeat}", stage=stage, repeat=repeat, sha256=sha)


def test_a_run_without_events_has_an_empty_ledger(run: RunDir) -> None:
    assert events.ledger(run) == events.Ledger(None, {})
    assert list(events.read(run.events)) == []


def test_events_come_back_in_order_with_their_facts(run: RunDir) -> None:
    events.append(run, "launched", NOW, "START ×", test="t", repeat=1)
    events.append(run, "observed", NOW, "PASS", duration_s=0.5)

    assert [(event.t, event.kind, event.text, event.facts) for event in events.read(run.events)] == [
        ("2026-04-23T05:00:00Z", "launched", "START ×", {"test": "t", "repeat": 1}),
        ("2026-04-23T05:00:00Z", "observed", "PASS", {"duration_s": 0.5}),
    ]


@pytest.mark.rule("SUP-04", "SUP-19")
def test_people_see_milestones_only(run: RunDir) -> None:
    events.append(run, "launched", NOW, "START toy\nwith a line break")
    recorded(run, "toy_speed", 1, "a" * 64)

    assert run.run_log.read_text() == "2026-04-23T05:00:00Z launched     START toy with a line break\n"
    assert len(run.events.read_text().splitlines()) == 2


def test_a_file_name_in_an_event_begins_no_line_and_sends_no_escape_to_a_terminal(run: RunDir) -> None:
    name = "a\n2026-04-23T05:00:00Z finished     every stage × repeat is strict\x1b[2J\r\udcff"

    events.append(run, "appeared", NOW, f"1 new file: {name}")

    (only,) = events.read(run.events)
    assert only.text.startswith("1 new file: a 2026") and only.text.endswith("strict\\x1b[2J\\r\\udcff")
    assert len(run.run_log.read_text().splitlines()) <= 1


def test_the_last_record_of_a_cell_counts_and_a_purge_takes_it_back(run: RunDir) -> None:
    recorded(run, "a", 1, "old")
    recorded(run, "a", 1, "new")
    recorded(run, "b", 1, "gone")
    events.append(run, "withdrawn", NOW, "b run 1", stage="b", repeat=1)
    events.append(run, "withdrawn", NOW, "c run 9", stage="c", repeat=9)
    events.append(run, "planned", NOW, "first", sha256="p1")
    events.append(run, "planned", NOW, "amended", sha256="p2")

    assert events.ledger(run) == events.Ledger("p2", {("a", 1): "new"})


@pytest.mark.parametrize(
    "line",
    [
        b'{"t": "x", "kind": "recorded", "stage": "a", "rep',
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b'{"kind": "recorded", "stage": "a", "repeat": 1, "sha256": "forged"}\n',
        b'{"t": "x", "kind": "recorded", "stage": "a", "repeat": "1", "sha256": "forged"}\n',
        b'{"t": "x", "kind": "recorded", "stage": "a", "repeat": 1, "sha256": null}\n',
        b'{"t": "x", "kind": 7, "sha256": "forged"}\n',
    ],
)
def test_a_torn_or_strange_line_is_passed_over_and_the_rest_stands(run: RunDir, line: bytes) -> None:
    recorded(run, "a", 1, "right")
    with run.events.open("ab") as stream:
        stream.write(line)

    assert events.ledger(run).observations == {("a", 1): "right"}


def test_an_event_after_a_torn_line_is_not_lost(run: RunDir) -> None:
    """A crash in mid-write leaves half a line; the next supervisor's first event must not be glued to it."""
    recorded(run, "a", 1, "right")
    with run.events.open("ab") as stream:
        stream.write(b'{"t": "x", "kind": "reco')

    recorded(run, "b", 1, "next")

    assert events.ledger(run).observations == {("a", 1): "right", ("b", 1): "next"}


def test_a_number_that_json_does_not_have_never_reaches_the_log(run: RunDir) -> None:
    with pytest.raises(ValueError):
        events.append(run, "observed", NOW, "PASS", duration_s=float("nan"))
    assert not run.events.exists()


def test_each_event_is_one_line_of_strict_json(run: RunDir) -> None:
    events.append(run, "halted", NOW, "a\nb\u2028c\x00", code="X")

    (line,) = run.events.read_bytes().splitlines()
    assert json.loads(line)["text"] == "a\nb\u2028c\x00"


def test_the_kind_of_machine_is_that_of_the_last_environment_on_record(run: RunDir) -> None:
    events.append(run, "environment", NOW, "first", sha256="e1", fingerprint="f1")
    assert events.ledger(run) == events.Ledger(None, {}, "e1", "f1")

    events.append(run, "environment", NOW, "of an older version", sha256="e2")
    assert events.ledger(run) == events.Ledger(None, {}, "e2", None)


def test_a_test_is_expected_to_take_the_median_of_this_run_or_else_of_the_newest_one_that_ran_it(
    tmp_path: Path,
) -> None:
    def measured(name: str, test: str, *seconds: object) -> RunDir:
        found = RunDir(tmp_path / ".tune-runs" / name)
        found.path.mkdir(parents=True)
        (found.path / "plan.json").touch()
        events.append(found, "launched", NOW, "not an end", test=test, duration_s=1)
        for one in seconds:
            events.append(found, "observed", NOW, "PASS", test=test, duration_s=one)
        return found

    measured("20260101T000000Z_a_all_r1", "only_then", 7)
    measured("20260102T000000Z_a_all_r1", "both", 900)
    run = measured("20260103T000000Z_a_all_r1", "both", 30, 10, "long", 20)

    assert events.expected_lengths(run) == {"both": 20, "only_then": 7}
