from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.stages import Display, Stage, StageMetric
from tune_mcp.files import write_json
from tune_mcp.report.context import ContextReader, hardware
from tune_mcp.session.plan import LaunchSettings


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


@pytest.mark.rule("CTX-04")
def test_a_test_that_counts_no_samples_has_none_in_the_line(case) -> None:
    stage = case.plan.catalogue["tts_speed"].model_copy(
        update={"sample_counts": "one", "expected_samples": None, "context_vars": ()}
    )
    reader = ContextReader(case.repo, "CPU", 3)
    assert reader.line(stage) == "— CPU, concurrency=8, 3 runs"
    assert reader.line(stage.model_copy(update={"sample_counts": None})) == "— CPU, ? samples, concurrency=8, 3 runs"


ENV_DEFAULT = "from kit.load import ASR_CONCURRENCY\nMY_CONCURRENCY = ASR_CONCURRENCY\nMAX_SAMPLES = 24\n"


def launched(root: Path, files: dict[str, str], *arguments: str, env: dict[str, str] | None = None) -> str:
    """The context line of one stage under the settings of a launch."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    stage = Stage(
        key="s",
        test="tests/test_s_ci.py",
        group="speed",
        test_file_sha256="0" * 64,
        expected_samples=24,
        metrics={"x": StageMetric(source="X", worst="min", display=Display(label="x"))},
    )
    settings = LaunchSettings(env=env or {}, pytest_extra_args={"test_s_ci.py": arguments} if arguments else {})
    return ContextReader(root, "1× X", 5, settings).line(stage)


@pytest.mark.rule("CTX-02", "CTX-04", "CTX-06")
@pytest.mark.parametrize(
    ("load", "env", "said"),
    [
        ('import os\nASR_CONCURRENCY = int(os.environ.get("ASR_C", "32"))\n', {}, "concurrency=32"),
        ('import os\nASR_CONCURRENCY = int(os.environ.get("ASR_C", "32"))\n', {"ASR_C": "8"}, "concurrency=8"),
        ('import os\nASR_CONCURRENCY = int(os.getenv("A", os.getenv("B", "32")))\n', {}, "concurrency=32"),
        ('import os\nASR_CONCURRENCY = int(os.getenv("A", os.getenv("B", "32")))\n', {"B": "4"}, "concurrency=4"),
        ('from os import getenv\nASR_CONCURRENCY: int = int(getenv("A") or 6)\n', {}, "concurrency=6"),
        ('import os\nASR_CONCURRENCY = int(os.environ.get("A", default=7))\n', {}, "concurrency=7"),
        ('import os\nASR_CONCURRENCY = int(os.environ["A"])\n', {"A": "9"}, "concurrency=9"),
        ('import os\nASR_CONCURRENCY = int(os.environ["A"])\n', {}, "concurrency=?"),
        ('import os\nASR_CONCURRENCY = int(os.environ.get("A", "32"))\n', {"A": "all"}, "concurrency=?"),
        ("ASR_CONCURRENCY = pick()\n", {}, "concurrency=?"),
        ("from kit.deeper import C as ASR_CONCURRENCY\n", {}, "concurrency=?"),
        ("ASR_CONCURRENCY = 5\n", {}, "concurrency=5"),
    ],
)
def test_a_concurrency_that_the_environment_decides_is_that_of_the_launch(
    tmp_path: Path, load: str, env: dict[str, str], said: str
) -> None:
    files = {"tests/test_s_ci.py": ENV_DEFAULT, "kit/load.py": load}
    assert launched(tmp_path, files, env=env) == f"— 1× X, 24 samples, {said}, 5 runs"


@pytest.mark.rule("CTX-02", "CTX-06")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--concurrency", "16"), "concurrency=16, "),
        (("--concurrency=16",), "concurrency=16, "),
        (("-v", "--max-concurrency", "4"), "concurrency=4, "),
        (("--concurrency", "2", "--concurrency", "16"), "concurrency=16, "),
        (("--concurrency", "all"), "concurrency=?, "),
        (("--concurrency",), "concurrency=?, "),
        (("-v",), "concurrency=3, "),
    ],
)
def test_what_pytest_is_told_beats_what_the_test_file_says(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    files = {"tests/test_s_ci.py": "CONCURRENCY = 3\n"}
    assert launched(tmp_path, files, *arguments) == f"— 1× X, 24 samples, {said}5 runs"


@pytest.mark.rule("CTX-06")
def test_two_concurrencies_of_one_file_are_a_question_mark_and_none_is_not_told(tmp_path: Path) -> None:
    two = {"tests/test_s_ci.py": "A_CONCURRENCY = 3\nB_CONCURRENCY = 4\n"}
    assert "concurrency=?" in launched(tmp_path / "two", two)
    assert launched(tmp_path / "none", {"tests/test_s_ci.py": "X = 3\n"}) == "— 1× X, 24 samples, 5 runs"


@pytest.mark.rule("CTX-07")
def test_no_placeholder_is_left_in_any_rendering(workshop) -> None:
    case = workshop.make(titles={"tts_speed": "{{CONTEXT:tts_speed}}"})
    case.report()
    assert "{{CONTEXT:" not in case.run.report_md.read_text()


def test_one_run_is_not_written_as_runs(workshop) -> None:
    assert line(workshop.make(repeats=1), "docs_tts").endswith("docs smoke, 1 run")
