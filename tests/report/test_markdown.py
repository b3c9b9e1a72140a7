from __future__ import annotations

import re

import pytest
from speech_run import applied

from tune_mcp.report import html
from tune_mcp.report.markdown import render

ROWS = (
    applied("tts_speed", "_TTS_P95[8]['throughput_qps']", 10.0, 10.21, "min"),
    applied("tts_wer", "TTS_WER_MAX_CORPUS", 0, 0.0120, "max"),
)


@pytest.mark.rule("RPT-01", "RPT-09")
def test_the_full_commit_stands_at_the_top_in_its_exact_form(case) -> None:
    lines = case.markdown().splitlines()
    assert lines[0] == "# Calibration report — speech-v1"
    assert re.fullmatch(r"\*\*Calibration commit:\*\* `[0-9a-f]{40}`", lines[2])
    assert case.plan.calibration_git_sha in lines[2]


@pytest.mark.rule("RPT-06")
def test_provenance_is_the_last_heading_and_the_only_one(case) -> None:
    headings = re.findall(r"^## .*$", case.markdown(), re.MULTILINE)
    assert headings.count("## Provenance") == 1
    assert headings[-1] == "## Provenance"


@pytest.mark.rule("RPT-04", "RPT-09")
def test_every_repeat_of_every_metric_and_its_worst_row_is_there(case) -> None:
    text = case.markdown()
    for stage in case.plan.table().values():
        section = text.split(f"## Stage `{stage.key}`")[1].split("\n## ")[0]
        assert len(re.findall(r"^\| \d ✓ ", section, re.MULTILINE)) == 5
        for metric in stage.metrics.values():
            assert metric.display.label in section
        if stage.metrics:
            assert "| **worst of 5** |" in section
            assert all(f"| {key} |" in section for key in stage.metrics)


@pytest.mark.rule("RPT-08")
def test_display_rounding_never_reaches_the_proposed_value(workshop, values) -> None:
    values[("asr_accuracy", "accuracy")] = (0.123456,) * 5
    text = workshop.make(values=values).markdown()
    section = text.split("## Stage `asr_accuracy`")[1].split("\n## ")[0]
    assert "| 1 ✓ | 12.35 |" in section
    assert "| 0.123456 | 0.123456 |" in section, "in full, as it would be written"
    assert "| 0.625 | ≈0.12346 | ≈0.12346 |" in text.split("## Strict audit")[0]


@pytest.mark.rule("RPT-07", "PRF-05")
def test_accuracy_wer_and_speed_are_concluded_apart(case) -> None:
    conclusions = case.markdown().split("## Conclusions")[1].split("###")[0]
    found = re.findall(r"^- \*\*(\w+)\*\* — ", conclusions, re.MULTILINE)
    assert found == ["WER", "Similarity", "UTMOS", "Accuracy", "Speed"]


def test_what_loosens_stands_first_and_the_largest_change_on_top(case) -> None:
    text = case.markdown()
    assert text.index("### ⚠ Loosens CI (4)") < text.index("### Tightens, stays, or is unknown (5)")
    changes = [float(one) for one in re.findall(r"\*\*loosens \(\+([\d.]+)%\)\*\* \| [^|]*\|$", text, re.MULTILINE)][:4]
    assert changes == sorted(changes, reverse=True)


def test_the_worst_of_n_is_never_called_a_percentile(case) -> None:
    text = case.markdown()
    assert "with a probability of 22.6 %, so it is not a P95" in text
    assert "14 repeats would cover it with 50 %, 59 with 95 %" in text


@pytest.mark.rule("APL-18", "APL-20", "APL-21")
def test_applied_changes_stand_right_before_provenance(case) -> None:
    text = render(case.report().model_copy(update={"applied": ROWS}))
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    assert headings[-2:] == ["## Applied changes", "## Provenance"]
    block = text.split("## Applied changes\n\n")[1].split("\n\n## Provenance")[0]
    assert block.splitlines() == [
        "| Stage | Metric | Old | New | Direction |",
        "|---|---|---|---|---|",
        "| tts_speed | _TTS_P95[8]['throughput_qps'] | 10 | 10.21 | tightens (+2.1%) |",
        "| tts_wer | TTS_WER_MAX_CORPUS | 0 | 0.012 | loosens (n/a) |",
    ]


@pytest.mark.rule("APL-18", "APL-19", "APL-22")
def test_a_second_apply_replaces_the_section_and_an_undo_removes_it(case) -> None:
    case.report()
    text = case.run.report_md.read_text()
    assert "## Applied changes" not in text
    for rows in (ROWS, ROWS[:1], ROWS[:1]):
        case.record_applied(*rows)
        found = case.run.report_md.read_text()
        assert (found.count("## Applied changes"), found.count("TTS_WER_MAX_CORPUS | 0 |")) == (1, len(rows) - 1)
    case.record_applied()
    assert case.run.report_md.read_text() == text


def test_text_from_outside_cannot_break_a_table_or_become_a_tag(workshop) -> None:
    case = workshop.make(titles={"tts_wer": "a | b\n## Provenance\n<script>alert(1)</script>"})
    text = case.markdown()
    assert "<script>" not in text
    assert len(re.findall(r"^## Provenance$", text, re.MULTILINE)) == 1


def test_every_table_row_has_as_many_cells_as_its_head(case) -> None:
    width = 0
    for line in case.markdown().splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            width = width or cells
            assert cells == width, line
        else:
            width = 0


def test_a_dirty_tree_is_said_at_the_top_and_in_provenance(workshop) -> None:
    case = workshop.make(dirty=True)
    case.run.workspace_diff.write_text("diff")
    text = case.markdown()
    assert "> **Dirty tree:**" in text.split("## Conclusions")[0]
    assert "kept in workspace.diff" in text.split("## Provenance")[1]
    assert "notes.txt" in text


def test_a_file_changed_since_the_plan_is_named(case) -> None:
    path = case.repo / "tests/test_asr_ci.py"
    path.write_text(path.read_text() + "\n# touched\n")
    assert "> **Changed since the run was planned:** tests/test_asr_ci.py." in case.markdown()


def test_repeats_of_two_environments_are_said_at_the_top(case) -> None:
    two = {"environments": 2, "environment_note": "2 different environments among the repeats"}
    facts = case.report().model_copy(update=two)
    top = render(facts).split("## Conclusions")[0]
    assert "> **Environment:** 2 different environments among the repeats: their values are not comparable." in top
    assert "> **Environment:**" not in case.markdown()


def test_processes_that_the_tests_end_are_said_as_the_model_words_them(case) -> None:
    assert "Processes that the tests end" not in case.markdown()
    facts = case.report().model_copy(update={"tests_end_processes": "clean.sh kills every my-server"})

    assert "- Processes that the tests end: clean.sh kills every my-server" in render(facts)
    assert "clean.sh kills every my-server" in html.render(facts)
