"""What the loaded module says before and after an edit, held against what the plan says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune_mcp.apply import proof
from tune_mcp.errors import Refusal

FILE = "tests/test_a.py"
RUN: Any = proof.ProofRun(Path("python"), Path("/"), {}, 0.0)


def row(key: str = "a", current: float | None = 0.5, blank: object = None) -> Any:
    place = f"{key.upper()}_MIN"
    return SimpleNamespace(file=FILE, place=place, place_known=True, key=("s", key), blank=blank, current_raw=current)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """What the module answers each time that it is asked; every question takes the first."""
    given: list[list[dict[str, Any]]] = []

    def run(_run: object, _file: str, sources: tuple[bytes, ...], _places: object) -> Any:
        found = given.pop(0)
        assert len(found) == len(sources)
        return tuple(proof._Answer.model_validate(one) for one in found)

    monkeypatch.setattr(proof, "_run", run)
    return given


def proved(rows: list[Any], values: dict[tuple[str, str], float]) -> str:
    return proof.prove(RUN, FILE, b"old", b"new", rows, values)


WRITTEN = {("s", "a"): 0.75}


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    ("given", "values", "was", "now", "why"),
    [
        (row(), WRITTEN, 0.5, 0.75, ""),
        (row(), {}, 0.5, 0.5, ""),
        (row(), WRITTEN, 0.5, 0.25, "A_MIN would have 0.25 instead of 0.75"),
        (row(), {}, 0.5, 0.25, "A_MIN would become, although it is not written, 0.25 instead of 0.5"),
        (row(), WRITTEN, 0.25, 0.75, "A_MIN is written as 0.5, but the loaded module has 0.25"),
        (row(), {}, 0.25, 0.25, ""),
        (row(), WRITTEN, 0.5, None, "A_MIN is no number there once the module is loaded"),
        (row(), WRITTEN, None, 0.75, "A_MIN is no number there once the module is loaded"),
        (row(), {}, None, None, ""),
        (row(current=None, blank=1), WRITTEN, None, 0.75, ""),
        (row(current=None, blank=1), WRITTEN, None, 0.25, "A_MIN would have 0.25 instead of 0.75"),
        (row(current=None, blank=1), WRITTEN, None, None, "A_MIN is no number there once the module is loaded"),
        (row(current=None, blank=1), WRITTEN, 0.5, 0.75, "A_MIN has no value in the file, but the loaded module has"),
        (row(current=None, blank=1), {}, 0.5, 0.5, ""),
    ],
)  # fmt: skip
def test_the_module_must_have_the_planned_value_where_it_is_written_and_its_own_elsewhere(
    answers: list[list[dict[str, Any]]], given: Any, values: dict[tuple[str, str], float], was: Any, now: Any, why: str
) -> None:
    answers.append([{"values": [was]}, {"values": [now]}])

    if not why:
        assert proved([given], values) == ""
        return
    with pytest.raises(Refusal) as caught:
        proved([given], values)
    assert why in caught.value.message


def test_all_that_is_wrong_is_said_at_once(answers: list[list[dict[str, Any]]]) -> None:
    answers.append([{"values": [0.5, 0.5]}, {"values": [0.25, 0.25]}])

    with pytest.raises(Refusal) as caught:
        proved([row(), row("b")], WRITTEN)

    assert "A_MIN would have 0.25" in caught.value.message and "B_MIN would become" in caught.value.message


def test_a_module_that_loads_once_in_a_process_is_asked_again_in_another(answers: list[list[dict[str, Any]]]) -> None:
    answers += [[{"values": [0.5]}, {"error": "already registered"}], [{"values": [0.75]}]]

    assert proved([row()], WRITTEN) == ""
    assert answers == []


@pytest.mark.parametrize(
    "found",
    [
        [[{"error": "no module"}, {"values": [0.75]}]],
        [[{"error": "no module"}, {"error": "no module"}]],
        [[{"values": [0.5]}, {"error": "no module"}], [{"error": "no module"}]],
    ],
)
def test_a_module_that_does_not_load_says_why(answers: list[list[dict[str, Any]]], found: list[Any]) -> None:
    answers += found

    assert proved([row()], WRITTEN) == "no module"
    assert answers == []


def test_without_time_nothing_is_started_and_the_reason_is_told(tmp_path: Path) -> None:
    assert proved([row()], WRITTEN) == "no time was left of 30 s for all files"
