"""Run directories: named by the clock, never reused, never reached by a path."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import toy

from tune_mcp import run_dir
from tune_mcp.errors import Refusal

NOON = datetime(2026, 4, 23, 12, 0, 0, tzinfo=UTC)


def planned(repo: Path, label: str = "toy", now: datetime = NOON) -> run_dir.RunDir:
    run = run_dir.create(repo, label, now)
    run.plan.write_text("{}")
    return run


def code(error: pytest.ExceptionInfo[Refusal]) -> str:
    return str(error.value.code)


@pytest.mark.rule("SES-02", "SES-14", "SES-15", "VCS-02")
def test_a_run_directory_is_named_by_utc_and_label_and_ignored_by_git(tmp_path: Path) -> None:
    local = NOON.astimezone(timezone(timedelta(hours=8)))

    run = run_dir.create(tmp_path, "tts_all_r5", local)

    assert run.path == tmp_path / ".tune-runs" / "20260423T120000Z_tts_all_r5"
    assert re.fullmatch(r"\.tune-runs/\d{8}T\d{6}Z_.+", str(run.path.relative_to(tmp_path)))
    assert (tmp_path / ".tune-runs" / ".gitignore").read_text() == "*\n"
    assert run.repo_root == tmp_path


@pytest.mark.rule("SES-02")
@pytest.mark.parametrize("label", ["", "../x", "a/b", "/a", ".hidden", "-r", "a b", "ä", "x" * 61, "a\n", "a\0"])
def test_a_label_that_is_no_folder_name_is_refused_before_anything_is_made(tmp_path: Path, label: str) -> None:
    with pytest.raises(Refusal) as error:
        run_dir.create(tmp_path, label, NOON)

    assert code(error) == "INVALID_ARGUMENT"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rule("SES-01", "SES-14")
def test_two_runs_of_one_second_get_two_directories(tmp_path: Path) -> None:
    first, second = planned(tmp_path), planned(tmp_path)

    assert (first.run_id, second.run_id) == ("20260423T120000Z_toy", "20260423T120000Z_toy-2")
    assert run_dir.find(tmp_path, second.run_id).path == second.path


@pytest.mark.rule("SES-04")
def test_an_existing_directory_is_never_taken_even_when_a_hundred_are_there(tmp_path: Path) -> None:
    for _ in range(99):
        planned(tmp_path)

    with pytest.raises(Refusal) as error:
        run_dir.create(tmp_path, "toy", NOON)
    assert code(error) == "PLAN_EXISTS"


@pytest.mark.rule("SES-06", "SES-07")
@pytest.mark.parametrize(
    "run_id",
    [
        "../20260423T120000Z_toy",
        "20260423T120000Z_toy/../20260423T120000Z_toy",
        "/etc",
        "",
        ".",
        "..",
        "20260423T120000Z_",
        "20260423T120000Z_toy\n",
        "20260423T120000Z_other",
    ],
)
def test_a_run_id_that_is_a_path_or_unknown_is_refused_and_the_runs_are_named(tmp_path: Path, run_id: str) -> None:
    planned(tmp_path)
    (tmp_path / "20260423T120000Z_toy").mkdir()
    (tmp_path / "20260423T120000Z_toy" / "plan.json").write_text("{}")

    with pytest.raises(Refusal) as error:
        run_dir.find(tmp_path, run_id)

    assert code(error) == "UNKNOWN_RUN"
    assert "20260423T120000Z_toy" in error.value.next


def test_runs_are_listed_newest_first_and_other_folders_are_not_runs(tmp_path: Path) -> None:
    assert run_dir.list_runs(tmp_path) == []
    old, new = planned(tmp_path), planned(tmp_path, now=NOON + timedelta(days=1))
    run_dir.create(tmp_path, "no-plan", NOON)
    (tmp_path / ".tune-runs" / "notes").mkdir()

    (new.path.parent / "a copy").mkdir()
    (new.path.parent / "a copy" / "plan.json").write_text("{}")
    assert [run.run_id for run in run_dir.list_runs(tmp_path)] == [new.run_id, old.run_id]


def test_a_refusal_without_any_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="start_run"):
        run_dir.find(tmp_path, "20260423T120000Z_toy")


@pytest.mark.rule("SES-15", "VCS-02")
@pytest.mark.parametrize("others", ["# mine\n*\n", "", "!*\n", "*\n!*/\n!**/report.md\n"])
def test_git_never_adds_a_run_whatever_the_gitignore_of_the_shared_folder_says(tmp_path: Path, others: str) -> None:
    toy.git(tmp_path, "init", "-q")
    (tmp_path / ".tune-runs").mkdir()
    (tmp_path / ".tune-runs" / ".gitignore").write_text(others)

    run = planned(tmp_path)
    run.report_md.write_text("# large")
    toy.git(tmp_path, "add", "--all")

    assert "_toy" not in toy.git(tmp_path, "ls-files")
    assert (tmp_path / ".tune-runs" / ".gitignore").read_text() == others, "it is left alone"
