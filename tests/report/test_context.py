from __future__ import annotations

import pytest

from tune_mcp.files import write_json
from tune_mcp.report.context import ContextReader, hardware


def line(case, key: str) -> str:
    reader = ContextReader(case.repo, hardware(case.run).phrase, case.plan.repeats)
    return reader.line(case.plan.catalogue[key])


@pytest.mark.rule("CTX-01", "CTX-02", "CTX-04")
def test_the_line_has_gpus_samples_tokens_concurrency_and_runs_in_this_order(case) -> None:
    expected = "— 2× NVIDIA H20, 200 samples, max_tokens=2048, concurrency=8, 5 runs"
    assert line(case, "tts_speed") == expected
    assert case.report().stages[3].context == expected


@pytest.mark.rule("CTX-05")
def test_a_docs_stage_says_docs_smoke(case) -> None:
    assert line(case, "docs_tts") == "— 2× NVIDIA H20, docs smoke, 5 runs"


@pytest.mark.rule("CTX-03")
@pytest.mark.parametrize(
    ("precheck", "phrase"),
    [
        ({"gpus": [{"name": "NVIDIA H20"}] * 4, "gpu_summary": "4× NVIDIA H20"}, "4× NVIDIA H20"),
        ({"gpus": [], "gpu_summary": "no GPU (CPU only)"}, "CPU"),
        ({"gpus": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}, "2× A + 1× B"),
        ({"gpus": [], "gpu_summary": "unknown: nvidia-smi hangs"}, "?× ?"),
        ({"gpus": [{}]}, "1× ?"),
        ({"gpus": ["NVIDIA H20", "NVIDIA H20"]}, "2× NVIDIA H20"),
        ({}, "?× ?"),
    ],
)
def test_gpus_come_from_precheck_alone(case, precheck: dict[str, object], phrase: str) -> None:
    write_json(case.run.precheck, precheck)
    assert line(case, "docs_tts") == f"— {phrase}, docs smoke, 5 runs"


def test_a_precheck_that_cannot_be_read_is_a_question_mark(case) -> None:
    case.run.precheck.write_text("{")
    assert hardware(case.run).phrase == "?× ?"


@pytest.mark.rule("CTX-02", "CTX-06")
@pytest.mark.parametrize(
    "replacement", ["", "MAX_SAMPLES = 2 * 1000", "from kit import MAX_SAMPLES", "MAX_SAMPLES = '200'"]
)
def test_a_constant_that_is_no_plain_number_is_a_question_mark_in_that_line_only(workshop, replacement: str) -> None:
    source = workshop.sources["tests/test_tts_ci.py"]
    workshop.sources["tests/test_tts_ci.py"] = source.replace("MAX_SAMPLES = 200", replacement)
    case = workshop.make()
    assert line(case, "tts_speed") == "— 2× NVIDIA H20, ? samples, max_tokens=2048, concurrency=8, 5 runs"
    assert line(case, "asr_speed") == "— 2× NVIDIA H20, 24 samples, concurrency=?, 5 runs"


@pytest.mark.rule("CTX-07")
def test_no_placeholder_is_left_in_any_rendering(workshop) -> None:
    case = workshop.make(titles={"tts_speed": "{{CONTEXT:tts_speed}}"})
    case.report()
    assert "{{CONTEXT:" not in case.run.report_md.read_text()


def test_one_run_is_not_written_as_runs(workshop) -> None:
    assert line(workshop.make(repeats=1), "docs_tts").endswith("docs smoke, 1 run")
