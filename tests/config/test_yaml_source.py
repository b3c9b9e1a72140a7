"""The YAML reader: plain data with line numbers, and every mistake of a file at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.model import ModelConfig
from tune_mcp.config.yaml_source import read_yaml
from tune_mcp.errors import Code, Refusal


def refusal(tmp_path: Path, text: str | bytes, *, as_model: bool = False) -> Refusal:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Refusal) as caught:
        source = read_yaml(path)
        if as_model and source.check(ModelConfig, source.data) is None:
            raise source.refusal()
    assert caught.value.code is Code.INVALID_CONFIG
    assert caught.value.message.startswith(f"{path}:{caught.value.details['line']}: ")
    assert caught.value.details["file"] == str(path)
    return caught.value


@pytest.mark.rule("MOD-02")
def test_a_doubled_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    found = refusal(tmp_path, "a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert (found.details["line"], found.details["key"]) == (4, "a.b")
    assert "first on line 2" in found.message


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: [1\n", 2, "not YAML"),
        ("- a\n", 1, "must be a mapping"),
        ("1: a\n", 1, "key 1 is not a string"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", 2, "the key << is not a string"),
        ("a: 1\nb: 2026-01-01 00:00:00\nc: !!binary aGk=\n", 3, "is not supported"),
        ("a: 1\nb: 010\n", 2, "quotes"),
        ("a: 1:30\n", 1, "quotes"),
        ("a: 1_000\n", 1, "quotes"),
        ("a: .nan\n", 1, "quotes"),
        ("a: &x [*x]\n", 1, "too large or too deep"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
    ],
)
def test_what_yaml_would_turn_into_something_else_is_refused(
    tmp_path: Path, text: str | bytes, line: int, part: str
) -> None:
    found = refusal(tmp_path, text)
    assert part in found.message
    assert found.details["line"] == line


def test_scalars_keep_their_kind_and_a_time_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 2026-06-25T18:10:05Z\nb: '7'\nc: -3\nd: 1.5e-3\ne: false\nf:\ng: [x, 2]\n")
    source = read_yaml(path)
    assert source.data == {
        "a": "2026-06-25T18:10:05Z", "b": "7", "c": -3, "d": 0.0015, "e": False, "f": None, "g": ("x", 2),
    }  # fmt: skip
    assert source.line(("g", 1)) == 7
    assert source.line(("g", 5, "nothing")) == 7


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path).data == {}


def test_doubling_aliases_end_before_memory_does(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    assert "too large" in refusal(tmp_path, "\n".join(lines)).message


@pytest.mark.rule("MOD-02", "XPY-01", "DSC-08")
def test_all_mistakes_of_a_file_are_told_with_line_and_key(tmp_path: Path) -> None:
    text = """\
name: m
hf_model: x
test_globs: [tests/test_a_ci.py]
gpus_per_test: {test_a_ci.py: "2"}
pytest_extra_args:
  test_a_ci.py: [-sx]
metric_sources:
  test_a_ci.py:
    json_file: /abs.json
    pths: {}
    variants:
      v: {constant_filter: "("}
default_venv_python: 3
"""
    found = refusal(tmp_path, text, as_model=True)
    problems = found.details["problems"]
    assert isinstance(problems, list) and len(problems) > 6
    shown = [f"line {one['line']}: {one['key']}: {one['what']}" for one in problems[1:] if isinstance(one, dict)]
    assert [one in found.message for one in shown] == [True] * 5 + [False] * (len(shown) - 5)
    assert f"and {len(shown) - 5} more" in found.message
    told = {
        str(problem["key"]): (problem["line"], str(problem["what"]))
        for problem in problems
        if isinstance(problem, dict)
    }
    assert {key: line for key, (line, _) in told.items()} == {
        "hf_model": 2,
        "gpus_per_test.test_a_ci.py": 4,
        "pytest_extra_args.test_a_ci.py.0": 6,
        "metric_sources.test_a_ci.py.json_file": 9,
        "metric_sources.test_a_ci.py.pths": 10,
        "metric_sources.test_a_ci.py.variants.v.constant_filter": 12,
        "default_venv_python": 13,
    }
    assert "did you mean hf_model_id" in told["hf_model"][1]
    assert "did you mean paths" in told["metric_sources.test_a_ci.py.pths"][1]
    assert "not a regular expression" in told["metric_sources.test_a_ci.py.variants.v.constant_filter"][1]
    assert "list" in told["default_venv_python"][1]
    assert "hf_model: unknown key" in found.message
    assert found.rules == ("MOD-02", "XPY-01", "DSC-08")


def test_a_missing_key_is_told_at_the_line_of_its_block(tmp_path: Path) -> None:
    found = refusal(tmp_path, "name: m\nmetric_sources: {}\n", as_model=True)
    assert (found.details["key"], found.details["line"]) == ("test_globs", 1)
    assert "is missing" in found.message
