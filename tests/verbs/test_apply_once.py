"""One apply looks at its run once: one audit, one proposal, and each file of the run is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tune_mcp import files
from tune_mcp.cli.apply import apply_at_terminal
from tune_mcp.contract.apply import ApplyReply
from tune_mcp.run_dir import RunDir
from tune_mcp.verbs import gates
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.project import Project

Mixed = tuple[Project, RunDir, str]
Apply = Callable[[Mixed], ApplyReply]


def through_a_client(mixed: Mixed) -> ApplyReply:
    project, run, plan_id = mixed
    return apply(project, run.run_id, plan_id, "full", otherwise="apply")


def at_a_terminal(mixed: Mixed) -> ApplyReply:
    project, run, _ = mixed
    return apply_at_terminal(project, run.run_id, "full", None, [], "apply")


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    real = gates.audit

    def counting(*words: object) -> object:
        made.append(words)
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(gates, "audit", counting)
    return made


@pytest.mark.parametrize("act", [through_a_client, at_a_terminal])
@pytest.mark.parametrize("person", [True, False])
def test_an_apply_without_a_question_audits_its_run_once(
    mixed: Mixed, act: Apply, person: bool, audits: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_mcp.cli.apply.at_terminal", lambda: person)

    assert len(act(mixed).applied) == 3
    assert len(audits) == 1


def test_what_a_person_answered_is_held_against_a_second_look(
    mixed: Mixed, audits: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run, _ = mixed
    monkeypatch.setattr("tune_mcp.cli.apply.at_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "apply")

    assert len(apply_at_terminal(project, run.run_id, "smart", None, []).applied) == 3
    assert len(audits) == 2


def test_an_apply_reads_the_report_and_every_recorded_repeat_once(
    mixed: Mixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    real = files.plain_handle
    run = mixed[1]

    def counting(path: Path, *words: int) -> int:
        read[str(path)] += 1
        return real(path, *words)

    monkeypatch.setattr(files, "plain_handle", counting)
    through_a_client(mixed)

    once = [run.report_json, run.report_html, *run.path.glob("toy_*/run*.json")]
    assert len(once) > 4
    assert {path.name: read[str(path)] for path in once} == {path.name: 1 for path in once}
