"""Only a finite number from the attempt's own result files is a measurement; everything else has a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_mcp.config.stages import ONE, Display, Location, SampleCounts, Stage, StageMetric
from tune_mcp.observe import extract as extraction
from tune_mcp.observe.extract import ResultFiles, extract

FILE = "toy0/result.json"


def metric(path: str | None = "speed.qps", file: str | None = FILE) -> StageMetric:
    return StageMetric(
        source="_TOY_P95['qps']", json_file=file, json_path=path, worst="min", display=Display(label="x")
    )


def stage(counts: SampleCounts | Literal["one"] | None = None, **metrics: StageMetric) -> Stage:
    return Stage(
        key="toy_speed",
        test="tests/test_toy_ci.py",
        group="speed",
        test_file_sha256="0" * 64,
        sample_counts=counts,
        metrics=metrics,
    )


def counts(total: str = "summary.total", ok: str = "summary.ok") -> SampleCounts:
    return SampleCounts(total=Location(json_file=FILE, json_path=total), ok=Location(json_file=FILE, json_path=ok))


def written(folder: Path, text: str | bytes, name: str = FILE) -> ResultFiles:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ResultFiles(folder)


def reason(found: ResultFiles, one: StageMetric | None = None) -> str:
    """The problem of the one metric of a stage, a sentence; what its sample counts lack comes later."""
    result = extract(stage(qps=one or metric()), found)
    assert result.metrics == {"qps": None}
    return result.problems[0]


def test_a_number_is_taken_as_it_stands(tmp_path: Path) -> None:
    files = written(
        tmp_path, '{"speed": {"qps": 12.5, "n": 3, "deep": [{"x": 0}, {"x": 7}]}, "summary": {"total": 4, "ok": 4.0}}'
    )

    found = extract(stage(counts(), qps=metric(), n=metric("speed.n"), x=metric("speed.deep.1.x")), files)

    assert found.metrics == {"qps": 12.5, "n": 3, "x": 7}
    assert isinstance(found.metrics["n"], int)
    assert (found.total, found.ok, found.problems) == (4, 4, ())


@pytest.mark.rule("MET-02", "STR-06", "HLT-06")
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("NaN", "not finite"),
        ("Infinity", "not finite"),
        ("-Infinity", "not finite"),
        ("1e999", "not finite"),
        ('"\\ud800"', "not a number but str"),
        ("1" + "0" * 400, "not finite"),
        ("1" + "0" * 5000, "not JSON that can be read"),
        ("true", "not a number but bool"),
        ("false", "not a number but bool"),
        ('"0.5"', "not a number but str"),
        ('"nan"', "not a number but str"),
        ("null", "not a number but null"),
        ("[]", "not a number but list"),
        ("{}", "not a number but dict"),
    ],
)
def test_what_is_no_finite_number_is_no_measurement(tmp_path: Path, value: str, why: str) -> None:
    assert why in reason(written(tmp_path, f'{{"speed": {{"qps": {value}}}}}'))


@pytest.mark.rule("MET-02")
def test_a_name_that_is_recorded_more_than_once_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tune_record.json").write_text('{"acc": [0.5, 0.625]}')

    value, why, _ = ResultFiles(tmp_path).look_up(Location(json_file="tune_record.json", json_path="acc"))

    assert value is None and why.startswith("recorded 2 times in one launch")
    assert 'tune_record(f"acc_{case}", value)' in why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("not json", "Expecting value"),
        ('{"speed": {"qps": 1}} {}', "Extra data"),
        (b"\xff\xfe{}", "Expecting value"),
        (b'{"speed": {"qps": 1}, "a": "\xff"}', "can't decode"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_result_file_that_no_parser_reads_yields_nothing(tmp_path: Path, text: str | bytes, why: str) -> None:
    told = reason(written(tmp_path, text))
    assert "not JSON that can be read" in told and why in told


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"speed": 1, "speed": {"qps": 1}}', "speed"),
        ('{"speed": {"qps": 1}, "speed": 1}', "speed"),
        ('{"speed": {"qps": 1, "qps": 2}}', "qps"),
        ('{"speed": {"qps": 1, "qps": 2, "qps": 1}}', "qps"),
    ],
)
def test_a_value_under_a_duplicate_key_is_no_measurement(tmp_path: Path, text: str, key: str) -> None:
    assert f"{FILE}::speed.qps: duplicate key {key!r}" in reason(written(tmp_path, text))


@pytest.mark.parametrize(
    "other", ['"o": [{"deep": {"a": 1, "b": 2, "a": 3}}]', '"o": {"\\ud800": 1, "\\ud800": 2}', '"o": 1, "o": NaN']
)
def test_a_duplicate_key_spoils_nothing_but_its_own_value(tmp_path: Path, other: str) -> None:
    found = extract(stage(ONE, qps=metric()), written(tmp_path, f'{{{other}, "speed": {{"qps": 12.5, "qps": 12.5}}}}'))

    assert (found.metrics, found.problems) == ({"qps": 12.5}, ())


@pytest.mark.rule("MET-07")
@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400", '"\\ud800"', "true", "[[]]"])
@pytest.mark.parametrize("field", ['"config": {"request_rate": @}', '"requests": [1, {"rtf": @}]', '"\\udfff": @'])
def test_what_stands_in_a_field_that_nobody_tracks_spoils_nothing(tmp_path: Path, token: str, field: str) -> None:
    text = f'{{{field.replace("@", token)}, "speed": {{"qps": 12.5}}, "summary": {{"total": 4, "ok": 4}}}}'

    found = extract(stage(counts(), qps=metric()), written(tmp_path, text))

    assert (found.metrics, found.total, found.ok, found.problems) == ({"qps": 12.5}, 4, 4, ())


@pytest.mark.rule("STR-06", "HLT-06")
@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_tracked_value_that_is_not_finite_spoils_itself_alone(tmp_path: Path, token: str) -> None:
    text = f'{{"a": {token}, "b": 2.5, "summary": {{"total": 4, "ok": 4}}}}'

    found = extract(stage(counts(), a=metric("a"), b=metric("b")), written(tmp_path, text))

    assert (found.metrics, found.total) == ({"a": None, "b": 2.5}, 4)
    assert found.problems == (f"a: {FILE}::a: not finite",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read_as_json_loads_reads_it(tmp_path: Path, encoding: str) -> None:
    found = extract(stage(qps=metric()), written(tmp_path, '{"speed": {"qps": 1}}'.encode(encoding)))
    assert found.metrics == {"qps": 1}


def test_a_name_that_is_no_text_is_told_as_its_escape(tmp_path: Path) -> None:
    told = reason(written(tmp_path, '{"speed": {"\\ud800qps": 1}}'))

    assert told.endswith("no 'qps' in speed (near: \\ud800qps)")
    told.encode()


@pytest.mark.rule("HLT-06")
def test_a_file_over_the_size_limit_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "LARGEST_FILE", 10)
    assert reason(written(tmp_path, '{"speed": {"qps": 1}}')) == f"{FILE}: file larger than 256 MiB"


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}\n', "a,b\n1,2\n", b"PK\x03\x04"])
def test_a_file_that_cannot_be_read_at_all_is_one_and_the_same_sentence_for_all_that_stands_in_it(
    tmp_path: Path, text: str | bytes
) -> None:
    found = extract(stage(counts(), a=metric("a"), b=metric("b")), written(tmp_path, text))

    assert len(found.problems) == 4
    assert len({*found.problems}) == 1
    assert found.problems[0].startswith(f"{FILE}: not JSON that can be read: ")
    assert found.absent == ()


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "true"])
def test_a_document_that_is_no_object_yields_nothing(tmp_path: Path, text: str) -> None:
    assert "no 'speed' in the top level" in reason(written(tmp_path, text))


@pytest.mark.rule("POL-06", "HLT-06", "XPY-04")
def test_a_missing_key_is_told_with_the_names_that_look_alike(tmp_path: Path) -> None:
    files = written(tmp_path, '{"speed": {"throughput_qps": 1, "other": 2}}')

    told = reason(files, metric("speed.throughput_qsp"))

    assert told == f"qps: {FILE}::speed.throughput_qsp: no 'throughput_qsp' in speed (near: throughput_qps)"


def test_a_missing_file_is_told_with_the_files_that_look_alike(tmp_path: Path) -> None:
    files = written(tmp_path, "{}", "toy0/results.json")

    assert reason(files) == f"qps: {FILE}::speed.qps: file missing (near: toy0/results.json)"


def test_a_basetemp_that_was_never_made_is_a_missing_file(tmp_path: Path) -> None:
    assert "file missing" in reason(ResultFiles(tmp_path / "nothing"))


@pytest.mark.rule("MET-01")
@pytest.mark.parametrize("name", ["../old/result.json", "a/../../old/result.json", "{old}/result.json", ""])
def test_a_path_out_of_the_basetemp_is_never_followed(tmp_path: Path, name: str) -> None:
    old = tmp_path / "old"
    written(old, '{"speed": {"qps": 1}}', "result.json")
    (tmp_path / "base").mkdir()

    told = reason(ResultFiles(tmp_path / "base"), metric(file=name.format(old=old)))

    assert "is not a path inside" in told


@pytest.mark.rule("MET-01")
@pytest.mark.parametrize("link_to", ["folder", "file"])
def test_a_link_out_of_the_basetemp_is_never_followed(tmp_path: Path, link_to: str) -> None:
    old, base = tmp_path / "old", tmp_path / "base"
    written(old, '{"speed": {"qps": 1}}', "result.json")
    (base / "toy0").mkdir(parents=True)
    if link_to == "file":
        (base / FILE).symlink_to(old / "result.json")
    else:
        (base / "toy0").rmdir()
        (base / "toy0").symlink_to(old)

    assert "leaves" in reason(ResultFiles(base))


def test_a_folder_in_the_place_of_the_file_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir(parents=True)
    assert "file missing" in reason(ResultFiles(tmp_path))


def test_a_list_index_out_of_range_or_negative_is_a_missing_key(tmp_path: Path) -> None:
    files = written(tmp_path, '{"speed": [{"qps": 1}]}')
    for path in ("speed.1.qps", "speed.-1.qps", "speed.x.qps", "speed.²"):
        assert "no '" in reason(files, metric(path))


@pytest.mark.rule("HLT-07")
def test_a_metric_without_a_place_says_that_config_is_needed(tmp_path: Path) -> None:
    for one in (metric(path=None), metric(file=None)):
        assert reason(ResultFiles(tmp_path), one) == "qps: NEEDS_CONFIG: no JSON path is known"


@pytest.mark.rule("SMP-01", "STR-04")
@pytest.mark.parametrize("value", ["-1", "0.5", "null", "true", '"4"', "[4]", "1e999", "{}"])
def test_a_sample_count_is_a_whole_number(tmp_path: Path, value: str) -> None:
    files = written(tmp_path, f'{{"speed": {{"qps": 1}}, "summary": {{"total": 4, "ok": {value}}}}}')

    found = extract(stage(counts(), qps=metric()), files)

    assert found.ok is None
    assert any("sample_counts.ok" in problem for problem in found.problems)


def test_no_good_sample_and_a_single_one_are_counts(tmp_path: Path) -> None:
    found = extract(stage(counts()), written(tmp_path, '{"summary": {"total": 1, "ok": 0}}'))

    assert (found.total, found.ok) == (1, 0)
    assert not [problem for problem in found.problems if "sample_counts" in problem]


def test_a_stage_without_configured_counts_says_so_and_a_docs_stage_needs_none(tmp_path: Path) -> None:
    files = written(tmp_path, '{"speed": {"qps": 1}}')

    assert [one.partition(":")[0] for one in extract(stage(qps=metric()), files).problems] == ["sample_counts"]
    assert extract(stage(), files).problems == ()


def test_a_file_is_read_once_however_many_metrics_look_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, '{"a": 1, "b": 2, "c": 3}')
    reads: list[Path] = []
    read = extraction.read_plain
    monkeypatch.setattr(extraction, "read_plain", lambda path: (reads.append(path), read(path))[1])

    found = extract(stage(a=metric("a"), b=metric("b"), c=metric("c")), files)

    assert (found.metrics, len(reads)) == ({"a": 1, "b": 2, "c": 3}, 1)


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=5)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(document=ANY, path=st.lists(KEYS, min_size=1, max_size=3).map(".".join))
def test_whatever_a_test_wrote_extraction_answers_with_a_number_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, document: object, path: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    files = written(folder, json.dumps(document))

    found = extract(stage(counts(path, path), x=metric(path)), files)

    value = found.metrics["x"]
    assert (value is None) == any(problem.startswith("x: ") for problem in found.problems)
    assert value is None or (type(value) in (int, float) and math.isfinite(value))


def test_a_list_may_be_counted_by_its_length(tmp_path: Path) -> None:
    files = written(tmp_path, '{"rows": [1, 2, 3], "speed": {"qps": 2.0}, "named": {"__len__": 9}, "map": {"a": 1}}')

    found = extract(stage(counts("rows.__len__", "named.__len__"), qps=metric()), files)

    assert (found.total, found.ok, found.problems) == (3, 9, ())
    assert "no '__len__' in map" in reason(files, metric("map.__len__"))


@pytest.mark.rule("MET-02")
@pytest.mark.parametrize(
    ("text", "invalid", "problem"),
    [
        ('{"valid": true}', "", ""),
        ('{"valid": false}', "v.json::valid is false", ""),
        ('{"valid": 1}', "", "observation_validity: v.json::valid: not true or false"),
        ("{}", "", "observation_validity: v.json::valid: not true or false"),
        ("", "", "observation_validity: v.json::valid: not true or false"),
    ],
)
def test_a_test_may_say_itself_that_a_repeat_is_no_observation(
    tmp_path: Path, text: str, invalid: str, problem: str
) -> None:
    files = written(tmp_path, '{"speed": {"qps": 2.0}, "summary": {"total": 4, "ok": 4}}')
    if text:
        written(tmp_path, text, "v.json")
    asked = stage(counts(), qps=metric()).model_copy(
        update={"observation_validity": Location(json_file="v.json", json_path="valid")}
    )

    found = extract(asked, files)

    assert found.invalid == invalid
    assert found.problems == ((problem,) if problem else ())
    assert found.metrics == {"qps": 2.0}
