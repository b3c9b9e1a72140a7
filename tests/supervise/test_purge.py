"""A purge moves a repeat whole and says who, when and why; nothing is ever deleted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise.purge import purge

NOW = datetime(2026, 4, 23, 5, 0, 0, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two repeats of one test with two stages, ten and one, so that names cannot be mixed up."""
    made = RunDir(tmp_path)
    for repeat in (1, 10):
        for stage in ("toy_accuracy", "toy_speed"):
            path = made.observation(stage, repeat)
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{stage} {repeat}")
            events.append(made, "recorded", NOW, "", stage=stage, repeat=repeat, sha256="0")
        for attempt in (1, 2):
            made.attempt("toy", repeat, attempt).mkdir(parents=True)
        made.log("toy", repeat).write_text(f"log {repeat}")
        made.guard_record("toy", repeat).write_text("{}")
        made.basetemp("toy", repeat).mkdir()
    return made


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.rule("GAP-05", "GAP-11", "STR-22")
def test_one_repeat_leaves_whole_and_the_others_stay(run: RunDir) -> None:
    everything = sorted(content(run.path).values())

    folder = purge(run, "toy", ["toy_accuracy", "toy_speed"], 1, who="me", reason="cold", now=NOW)

    assert folder == run.purged / "20260423T050000Z_toy_run1"
    assert {path.name for path in folder.iterdir()} == {
        "purge.json", "toy_accuracy.json", "toy_speed.json", "run1.log", "guard_run1.jsonl", "basetemp_run1",
        "run1_a1", "run1_a2",
    }  # fmt: skip
    assert run.observation("toy_speed", 10).exists() and run.log("toy", 10).exists()
    assert run.attempt("toy", 10, 2).is_dir()
    left = sorted(
        text for name, text in content(run.path).items() if not name.endswith(("purge.json", "events.jsonl", "run.log"))
    )
    assert left == [text for text in everything if not text.startswith('{"')], "moved, never deleted"
    assert events.ledger(run).observations == {("toy_accuracy", 10): "0", ("toy_speed", 10): "0"}
    why = json.loads((folder / "purge.json").read_text())
    assert why == {
        "schema_version": 1, "test": "toy", "repeat": 1, "who": "me", "when": "2026-04-23T05:00:00Z", "reason": "cold"
    }  # fmt: skip


def test_two_purges_of_one_second_get_two_folders(run: RunDir) -> None:
    first = purge(run, "toy", ["toy_speed"], 1, who="me", reason="a", now=NOW)
    second = purge(run, "toy", ["toy_speed"], 1, who="me", reason="b", now=NOW)

    assert first != second and (first / "toy_speed.json").exists() and not (second / "toy_speed.json").exists()


def test_a_repeat_that_left_nothing_can_be_purged(tmp_path: Path) -> None:
    folder = purge(RunDir(tmp_path), "toy", ["toy_speed"], 1, who="me", reason="x", now=NOW)
    assert [path.name for path in folder.iterdir()] == ["purge.json"]
