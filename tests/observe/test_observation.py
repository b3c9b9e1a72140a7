"""What run{k}.json says of the attempts behind it, and of the tests that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tune_mcp.observe.observation import (
    Attempt,
    AttemptVerdict,
    Broken,
    Failure,
    StoredObservation,
    load,
)
from tune_mcp.run_dir import RunDir


@pytest.mark.parametrize(
    ("when", "assertion", "exception", "by_assert"),
    [
        ("call", True, "AssertionError", True),
        ("call", True, "tests.helpers.WrongAnswer", True),
        ("call", True, "_pytest.outcomes.Failed", False),
        ("call", False, "ConnectionResetError", False),
        ("setup", True, "AssertionError", False),
        ("teardown", True, "AssertionError", False),
    ],
)
def test_only_an_assert_of_the_call_phase_can_be_a_threshold(
    when: str, assertion: bool, exception: str, by_assert: bool
) -> None:
    failure = Failure(nodeid="tests/test_x.py::test_a", when=when, exception=exception, assertion=assertion)

    assert failure.by_assert is by_assert


def test_a_failure_of_which_only_the_phase_is_known_is_no_assert() -> None:
    failure = Failure(nodeid="tests/test_x.py::test_a", when="call")

    assert (failure.by_assert, failure.test_line) == (False, 0)
    assert failure.sentence() == "tests/test_x.py::test_a"


@pytest.mark.parametrize(
    ("verdicts", "kept", "last"),
    [
        (["retried", "kept"], 2, 2),
        (["kept", "superseded"], 1, 1),
        (["retried", "halted"], None, 2),
        ([], None, 0),
    ],
)
def test_the_files_are_from_the_attempt_that_was_kept_else_from_the_last(
    verdicts: list[str], kept: int | None, last: int
) -> None:
    history = tuple(
        Attempt(attempt=number, verdict=AttemptVerdict(verdict), started_at="", ended_at="", duration_s=1.0, log="")
        for number, verdict in enumerate(verdicts, 1)
    )
    observation = StoredObservation.model_validate(
        {"status": "PASS", "metrics": {}, "sample_counts": {}, "history": history}
    )

    assert (observation.kept.attempt if observation.kept else None) == kept
    assert observation.last_attempt == last


def test_a_file_that_is_wrong_in_several_places_is_told_by_the_first(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = run.observation("toy_speed", 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"status": 1, "metrics": {}, "sample_counts": {}, "history": 3, "pytest_rc": "none"}))

    found = load(run, "toy_speed", 1)

    assert isinstance(found, Broken)
    assert found.reason.startswith("status: ")
