"""Where a threshold stands, at which load its table is read, and what forbids that anything is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.apply.locating import Concurrency, Files, Place, Trouble, locate
from tune_mcp.config.stages import Stage
from tune_mcp.discover.blanks import Blank
from tune_mcp.discover.constants import NumberLiteral
from tune_mcp.errors import Code, Refusal
from tune_mcp.session.plan import Plan

TEST = "tests/test_a.py"
LIMITS = "tests/limits.py"
TABLE = '_P95 = {8: {"qps": 5.0}, 16: {"qps": 9.0}}\n'


def place_of(
    root: Path,
    source: str,
    limits: str,
    test: str = "",
    *,
    protected: tuple[str, ...] = (),
    filters: dict[str, str] | None = None,
    report_only: tuple[str, ...] = (),
) -> tuple[Place | None, Trouble | None]:
    for name, text in ((TEST, test), (LIMITS, limits)):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    stage = Stage.model_construct(key="s", test=TEST, threshold_file=LIMITS, calibration_preset="higgs", metrics={})
    plan = Plan.model_construct(protected=protected, preset_filters=filters or {}, report_only=report_only)
    files = Files(root)
    concurrency = Concurrency(files.module(TEST), files.module(LIMITS))
    found = locate(source, stage, files.module(LIMITS), concurrency, plan)
    return found.place, found.trouble


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("test", "value"),
    [
        ("CONCURRENCY = 16\nprint(_P95[CONCURRENCY])\n", 9.0),
        ("CONCURRENCY = 8\nprint(_P95[8])\n", 5.0),
        ("CONCURRENCY = 8\n", 5.0),
        ("CONCURRENCY = 8\nprint(_P95[8], _P95[16])\n", 5.0),
    ],
)
def test_a_table_is_read_at_the_load_that_the_code_reads_it_at(tmp_path: Path, test: str, value: float) -> None:
    place, trouble = place_of(tmp_path, "_P95['qps']", TABLE, test)

    assert isinstance(place, NumberLiteral) and place.value == value
    assert trouble is None


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("limits", "test"),
    [
        (TABLE, "CONCURRENCY = 8\nprint(_P95[16])\n"),
        (f"{TABLE}CONCURRENCY = 16\n", "print(_P95[8])\n"),
        (f"{TABLE}CONCURRENCY = 16\n", "CONCURRENCY = 8\nLOAD = 16\nprint(_P95[LOAD])\n"),
    ],
)
def test_a_load_that_the_code_does_not_read_is_never_written(tmp_path: Path, limits: str, test: str) -> None:
    place, trouble = place_of(tmp_path, "_P95['qps']", limits, test)

    assert place is None and trouble is not None
    assert trouble[0] is Code.THRESHOLD_UNKNOWN and trouble[1].startswith("the code reads _P95[")


@pytest.mark.rule("APL-16")
def test_without_any_load_a_table_of_two_has_no_place(tmp_path: Path) -> None:
    place, trouble = place_of(tmp_path, "_P95['qps']", TABLE)

    assert place is None and trouble is not None and "no concurrency is known" in trouble[1]


@pytest.mark.rule("APL-17")
def test_a_first_value_of_an_empty_table_comes_at_the_one_load_that_the_code_reads(tmp_path: Path) -> None:
    place, trouble = place_of(tmp_path, "_P95['qps']", "_P95 = {}\n", "print(_P95[4])\n")
    assert isinstance(place, Blank) and (place.concurrency, trouble) == (4, None)

    place, trouble = place_of(tmp_path, "_P95['qps']", "_P95 = {}\n", "print(_P95[4], _P95[8])\n")
    assert place is None and trouble is not None


@pytest.mark.rule("SMP-09")
@pytest.mark.parametrize(
    ("source", "limits", "name"),
    [
        ("MAX_SAMPLES", "MAX_SAMPLES = 5\n", "MAX_SAMPLES"),
        ("_MAX_SAMPLES", "_MAX_SAMPLES = 5\n", "_MAX_SAMPLES"),
        ("Limits.MAX_SAMPLES", "class Limits:\n    MAX_SAMPLES = 5\n", "Limits.MAX_SAMPLES"),
    ],
)
def test_the_scope_of_the_test_is_never_written_wherever_it_stands(
    tmp_path: Path, source: str, limits: str, name: str
) -> None:
    place, trouble = place_of(tmp_path, source, limits, protected=("MAX_SAMPLES",))

    assert place is None and trouble is not None
    assert trouble[0] is Code.PROTECTED_CONSTANT and f"{name} fixes" in trouble[1]


@pytest.mark.rule("APL-17")
def test_a_preset_s_own_symbols_alone_are_written_and_none_of_one_that_only_reports(tmp_path: Path) -> None:
    limits = "_HIGGS_WER_MAX = 0.5\nMOSS_WER_MAX = 0.5\n"
    key = Stage.model_construct(key="s", test=TEST, calibration_preset="higgs", metrics={}).test_key

    place, trouble = place_of(tmp_path, "_HIGGS_WER_MAX", limits, filters={key: "^HIGGS_"})
    assert isinstance(place, NumberLiteral) and trouble is None
    place, trouble = place_of(tmp_path, "MOSS_WER_MAX", limits, filters={key: "^HIGGS_"})
    assert place is None and trouble is not None and trouble[0] is Code.PRESET_MISMATCH
    place, trouble = place_of(tmp_path, "_HIGGS_WER_MAX", limits, report_only=(key,))
    assert place is None and trouble is not None and "report only" in trouble[1]


def test_a_file_outside_the_repository_or_gone_is_refused(tmp_path: Path) -> None:
    for name in ("../limits.py", "tests/gone.py"):
        with pytest.raises(Refusal, match=r"^OUTSIDE_REPO"):
            Files(tmp_path).module(name)
