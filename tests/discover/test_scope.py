"""How many samples a stage must have, and which constants tell what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.metrics import load_metric_rules
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.scope import MeasuredScope, ScopeReader

RULES = load_metric_rules()


def scope(
    root: Path, code: str, group: str = "wer", variant: str | None = None, configured: tuple[int | str, ...] = ()
) -> MeasuredScope:
    (root / "tests").mkdir(exist_ok=True)
    (root / "tests/test_x_ci.py").write_text(code)
    files = PythonFiles(root)
    module = files.constants("tests/test_x_ci.py")
    assert module is not None
    return ScopeReader(module, files, RULES, ("nonstream", "stream")).scope(group, variant, configured)


@pytest.mark.rule("SMP-02", "SMP-03", "SMP-08")
@pytest.mark.parametrize("number", [7, 1088])
def test_the_sample_constant_gives_the_count_and_the_context(tmp_path: Path, number: int) -> None:
    code = f"CONCURRENCY = 16\nMAX_TOKENS = 256\nSEEDTTS_ASR_CORRECTNESS_SAMPLES = {number}\n"
    found = scope(tmp_path, code)
    assert found == MeasuredScope(number, ("SEEDTTS_ASR_CORRECTNESS_SAMPLES", "MAX_TOKENS", "CONCURRENCY"))


@pytest.mark.rule("SMP-02")
def test_concurrency_and_token_limits_are_no_sample_counts(tmp_path: Path) -> None:
    found = scope(tmp_path, "CONCURRENCY = 16\nMAX_NEW_TOKENS = 32\n")
    assert found == MeasuredScope(None, ("MAX_NEW_TOKENS", "CONCURRENCY"))


@pytest.mark.rule("SMP-02")
@pytest.mark.parametrize("name", ["CONCURRENCY", "MAX_NEW_TOKENS"])
@pytest.mark.parametrize("before", [(), ("NO_SAMPLES",)])
def test_not_even_config_can_make_a_sample_count_of_them(tmp_path: Path, name: str, before: tuple[str, ...]) -> None:
    code = "CONCURRENCY = 16\nMAX_NEW_TOKENS = 32\nNO_SAMPLES = None\n"
    found = scope(tmp_path, code, configured=(*before, name))
    assert found.expected_samples is None
    assert f"expected_samples names {name}, which says something about" in found.problems[0]


@pytest.mark.rule("SMP-02")
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("run(max_samples=50)", 50),
        ("run(max_samples=50); check(num_samples=50)", 50),
        ("run(max_samples=None)", None),
        ("run(max_samples=CONCURRENCY)", None),
        ("run(max_tokens=50, concurrency=8, batch=4)", None),
        ("run(max_samples=0)", None),
        ("run(max_samples=True)", None),
        ("run(max_samples=5 * 10)", None),
        ("run(max_samples=50); run(max_samples=60)", None),
    ],
)
def test_a_call_s_sample_keyword_counts_where_no_constant_says_it(
    tmp_path: Path, call: str, expected: int | None
) -> None:
    found = scope(tmp_path, f"CONCURRENCY = 16\ndef test_x():\n    {call}\n")
    assert found.expected_samples == expected
    assert bool(found.problems) == ("60" in call)
    assert scope(tmp_path, f"MAX_SAMPLES = 7\ndef test_x():\n    {call}\n").expected_samples == 7


@pytest.mark.rule("SMP-02")
def test_several_candidates_are_a_question_and_never_a_guess(tmp_path: Path) -> None:
    code = "DEV_SAMPLES = 10\nTEST_SAMPLES = 20\n"
    found = scope(tmp_path, code)
    assert found.expected_samples is None
    assert "expected_samples" in found.problems[0]
    assert scope(tmp_path, code, configured=("TEST_SAMPLES",)) == MeasuredScope(20, ("TEST_SAMPLES",))


TTS = "FULLSET_SAMPLES = 1088\nSTREAMING_MAX_SAMPLES: int | None = {streaming}\nTTS_SIMILARITY_MAX_SAMPLES = 12\n"


@pytest.mark.rule("SMP-04", "SMP-05")
@pytest.mark.parametrize(
    ("streaming", "group", "variant", "expected"),
    [
        ("None", "wer", "nonstream", 1088), ("None", "wer", "stream", 1088), ("40", "wer", "stream", 40),
        ("40", "speed", "nonstream", 1088), ("None", "similarity", "nonstream", 12), ("40", "utmos", "nonstream", 1088),
    ],
)  # fmt: skip
def test_a_constant_that_names_the_group_or_variant_is_meant_for_it_alone(
    tmp_path: Path, streaming: str, group: str, variant: str, expected: int
) -> None:
    found = scope(tmp_path, TTS.format(streaming=streaming), group, variant)
    assert found.expected_samples == expected
    assert len(found.context_vars) == 1


@pytest.mark.rule("SMP-04")
@pytest.mark.parametrize(("streaming", "expected"), [("None", 1088), ("40", 40)])
def test_a_configured_constant_that_is_none_hands_on_to_the_next(tmp_path: Path, streaming: str, expected: int) -> None:
    configured = ("STREAMING_MAX_SAMPLES", "FULLSET_SAMPLES")
    assert scope(tmp_path, TTS.format(streaming=streaming), configured=configured).expected_samples == expected


@pytest.mark.parametrize("name", ["MISSING_SAMPLES", "TEXT_SAMPLES", "HALF_SAMPLES", "DERIVED_SAMPLES"])
def test_a_configured_name_that_is_no_whole_number_is_told(tmp_path: Path, name: str) -> None:
    code = "TEXT_SAMPLES = 'x'\nHALF_SAMPLES = 0.5\nDERIVED_SAMPLES = 2 * 3\nOTHER_SAMPLES = 3\n"
    found = scope(tmp_path, code, configured=(name, "OTHER_SAMPLES"))
    assert found.expected_samples is None
    assert name in found.problems[0]


@pytest.mark.rule("SMP-02", "TTS-04")
def test_a_constant_is_followed_through_aliases_and_imports(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/utils.py").write_text("from .deep import WER_CONCURRENCY\n")
    (tmp_path / "tests/deep.py").write_text("WER_CONCURRENCY = 32\nTOTAL = 9\n")
    code = "from tests.utils import WER_CONCURRENCY\nfrom tests.deep import TOTAL\n"
    found = scope(tmp_path, code + "ASR_CONCURRENCY = WER_CONCURRENCY\nMAX_SAMPLES = TOTAL\n")
    assert found == MeasuredScope(9, ("MAX_SAMPLES", "ASR_CONCURRENCY"))


def test_imports_that_go_round_or_out_of_the_repository_end_in_silence(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/a.py").write_text("from tests.b import N\n")
    (tmp_path / "tests/b.py").write_text("from tests.a import N\n")
    found = scope(tmp_path, "from tests.a import N\nfrom ....x import M\nMAX_SAMPLES = N\nMAX_TOKENS = M\n")
    assert found == MeasuredScope(None, ())


def test_configured_constants_that_are_all_none_leave_the_count_unknown_and_say_so(tmp_path: Path) -> None:
    found = scope(tmp_path, "MAX_SAMPLES = None\n", configured=("MAX_SAMPLES",))
    assert found.expected_samples is None
    assert "MAX_SAMPLES is None" in found.problems[0]
