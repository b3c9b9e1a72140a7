"""config.yaml of a model: every documented key, and what must never pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.model import ModelConfig
from tune_mcp.config.yaml_source import read_yaml
from tune_mcp.errors import Refusal

FULL = """\
name: demo-v1
description: "Every key"
hf_model_id: "org/main"
hf_model_ids_by_test:
  test_asr_ci.py:
    - "org/asr"
hf_datasets:
  - "org/data"
omni_ci_home: "/ci/home"
default_venv_python:
  - "/opt/venv/bin/python"
  - ".venv/bin/python"
auto_env:
  HF_HUB_DISABLE_XET: "1"
extra_env:
  test_tts_ci.py:
    ALLOC: "expandable:True"
gpus_per_test:
  test_tts_ci.py: 2
pytest_extra_args:
  test_tts_ci.py:
    - "--concurrency"
    - "16"
test_globs:
  - "tests/test_*_ci.py"
stage_base_strip_prefix: "test_"
stage_base_strip_suffix: "_ci"
stage_base_docs_override: "tts_docs"
metric_sources:
  test_tts_ci.py:
    threshold_file: "tests/tts_config.py"
    calibration_presets:
      one:
        extra_env:
          MODEL: "one"
        gpus: 1
        constant_filter: "^ONE_"
        hf_model_ids:
          - "org/one"
    variants:
      stream:
        constant_filter: ".*_STREAM_"
        json_file: "stream0/speed.json"
        sample_counts:
          total: "summary.total"
          ok: "summary.ok"
        sample_counts_by_group:
          wer:
            total: "stream0/wer.json::summary.total"
            ok: "stream0/wer.json::summary.ok"
        paths:
          rtf_mean: "summary.rtf"
        ignored_constants:
          - ONE_OLD_MIN
    expected_samples:
      similarity: SIM_SAMPLES
      default: [STREAM_SAMPLES, 7]
timeout_s:
  test_tts_ci.py: 1800
cache_wipes:
  - .cache/other
optimisations:
  cuda_graph:
    files: ["kernels/**/graph*.py"]
    evidence: "cuda graph: True"
    tests: [test_tts_ci.py]
"""


def load(tmp_path: Path, text: str) -> ModelConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    source = read_yaml(path)
    model = source.check(ModelConfig, source.data)
    if model is None:
        raise source.refusal()
    return model


def refused(tmp_path: Path, text: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        load(tmp_path, text)
    return caught.value


SMALL = "name: m\ntest_globs: [tests/test_a_ci.py]\nmetric_sources: {}\n"


@pytest.mark.rule("MOD-02", "DSC-09", "DSC-10", "DSC-13")
def test_every_key_of_the_contract_is_read(tmp_path: Path) -> None:
    model = load(tmp_path, FULL)
    source = model.metric_sources["test_tts_ci.py"]
    assert model.venv_pythons(Path("/repo")) == (Path("/opt/venv/bin/python"), Path("/repo/.venv/bin/python"))
    assert source.threshold_file == "tests/tts_config.py"
    assert source.variants["stream"].sample_counts_by_group["wer"].ok == "stream0/wer.json::summary.ok"
    assert source.expected("similarity") == ("SIM_SAMPLES",)
    assert source.expected("wer") == ("STREAM_SAMPLES", 7)
    assert model.timeout_s == {"test_tts_ci.py": 1800}
    graph = model.optimisations["cuda_graph"]
    assert (graph.files, graph.evidence) == (("kernels/**/graph*.py",), "cuda graph: True")
    assert graph.tests == ("test_tts_ci.py",)


@pytest.mark.rule("MOD-08")
def test_each_test_and_preset_needs_its_own_checkpoints_only(tmp_path: Path) -> None:
    model = load(tmp_path, FULL)
    assert model.model_ids("test_asr_ci.py") == ("org/asr",)
    assert model.model_ids("test_tts_ci.py") == ("org/main",)
    assert model.model_ids("test_tts_ci.py", "one") == ("org/one",)


def test_a_key_left_blank_means_its_default(tmp_path: Path) -> None:
    model = load(tmp_path, SMALL + "hf_datasets:\nextra_env:\ngpus_per_test:\nhf_model_id:\n")
    assert (model.hf_datasets, model.extra_env, model.hf_model_id) == ((), {}, None)


@pytest.mark.rule("PRF-02")
@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("{}", "optimisations.graph"),
        ("{tests: [test_a_ci.py]}", "optimisations.graph"),
        ("{evidence: 'graph: ('}", "optimisations.graph.evidence"),
        ("{files: [/etc/**]}", "optimisations.graph.files.0"),
        ("{files: [../other/**]}", "optimisations.graph.files.0"),
        ("{evidence: x, tests: [tests/test_a_ci.py]}", "optimisations.graph.tests.0"),
        ("{evidence: x, pattern: y}", "optimisations.graph.pattern"),
    ],
)
def test_an_optimisation_that_cannot_be_looked_for_is_refused(tmp_path: Path, block: str, key: str) -> None:
    found = refused(tmp_path, f"{SMALL}optimisations: {{graph: {block}}}\n")
    assert (str(found.code), found.details["key"]) == ("INVALID_CONFIG", key)


@pytest.mark.rule("XPY-01")
@pytest.mark.parametrize(
    "argument",
    [
        "-x", "-sx", "-vsx", "-xv", "--exitfirst", "--maxfail=1", "--maxfail", "--lf", "--last-failed", "--ff", "--sw",
        "--stepwise", "-k", "-kfast", "-k=fast", "-m", "-mslow", "-vm", "--deselect=a", "--co", "--collect-only",
        "--basetemp=/x", "--basetemp", "-n", "-n4", "-nauto", "--reruns=2", "--reruns", "-oaddopts=-x", "addopts=-x",
    ],
)  # fmt: skip
def test_an_argument_that_stops_early_or_leaves_tests_out_is_refused(tmp_path: Path, argument: str) -> None:
    found = refused(tmp_path, SMALL + f"pytest_extra_args:\n  test_a_ci.py: ['{argument}']\n")
    assert found.rules == ("XPY-01",)
    assert found.details["key"] == "pytest_extra_args.test_a_ci.py.0"


@pytest.mark.parametrize(
    "argument", ["-v", "-s", "-rf", "-pxdist", "--concurrency", "16", "--model-name=x", "-W", "-1"]
)
def test_an_argument_of_the_project_passes(tmp_path: Path, argument: str) -> None:
    model = load(tmp_path, SMALL + f"pytest_extra_args:\n  test_a_ci.py: ['{argument}']\n")
    assert model.pytest_extra_args == {"test_a_ci.py": (argument,)}


@pytest.mark.rule("XPY-01")
@pytest.mark.parametrize("block", ["auto_env: {PYTEST_ADDOPTS: -x}", "extra_env: {test_a_ci.py: {PYTEST_ADDOPTS: -x}}"])
def test_pytest_options_cannot_come_in_through_the_environment(tmp_path: Path, block: str) -> None:
    assert refused(tmp_path, SMALL + block + "\n").rules == ("XPY-01",)


@pytest.mark.rule("DSC-08", "DSC-17")
@pytest.mark.parametrize(
    "path", ["/etc/x.json::a", "../x.json::a.b", "a/../../x.json::a", "a..b", "x.json::", "", "x\\..\\y.json::a"]
)
def test_a_result_path_outside_basetemp_is_refused(tmp_path: Path, path: str) -> None:
    text = f"name: m\ntest_globs: [t.py]\nmetric_sources:\n  test_a_ci.py:\n    paths:\n      accuracy: '{path}'\n"
    found = refused(tmp_path, text)
    assert found.rules == ("DSC-08",)
    assert (found.details["line"], found.details["key"]) == (6, "metric_sources.test_a_ci.py.paths.accuracy")


@pytest.mark.rule("MOD-02")
@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("hf_datasets: {org: data}", "hf_datasets"),
        ("auto_env: {A: 1}", "auto_env.A"),
        ("gpus_per_test: {test_a_ci.py: true}", "gpus_per_test.test_a_ci.py"),
        ("gpus_per_test: {tests/test_a_ci.py: 1}", "gpus_per_test.tests/test_a_ci.py"),
        ("timeout_s: {test_a_ci.py: 0}", "timeout_s.test_a_ci.py"),
        ("cache_wipes: [../x]", "cache_wipes.0"),
        ("hf_modelid: x", "hf_modelid"),
    ],
)
def test_a_wrong_type_or_key_is_refused_by_its_name(tmp_path: Path, block: str, key: str) -> None:
    assert refused(tmp_path, SMALL + block + "\n").details["key"] == key


@pytest.mark.rule("MOD-02")
@pytest.mark.parametrize("missing", ["test_globs"])
def test_what_a_model_cannot_do_without_is_asked_for(tmp_path: Path, missing: str) -> None:
    text = "".join(line + "\n" for line in SMALL.splitlines() if not line.startswith(missing))
    assert refused(tmp_path, text).details["key"] == missing


@pytest.mark.parametrize("value", ["0", "-3", "[]x", "{wer: a-b}", "true", "1.5"])
def test_a_sample_count_is_a_number_above_zero_or_a_constant(tmp_path: Path, value: str) -> None:
    text = f"name: m\ntest_globs: [t.py]\nmetric_sources:\n  test_a_ci.py:\n    expected_samples: {value}\n"
    with pytest.raises(Refusal):
        load(tmp_path, text)


OLDER = """
name: m
hf_model_id: org/a
default_venv_python: /venv/bin/python
hf_datasets: [org/d]
hf_model_ids_by_test: {test_a_ci.py: org/b, test_b_ci.py: null}
auto_env: {HF_HUB_DISABLE_XET: "1", EMPTY: null}
extra_env: {test_a_ci.py: null}
gpus_per_test: null
pytest_extra_args: {test_a_ci.py: null}
test_globs: [tests/test_a_ci.py]
"""


def test_a_config_of_the_older_script_loads_unchanged(tmp_path: Path) -> None:
    model = load(tmp_path, OLDER)

    assert model.default_venv_python == ("/venv/bin/python",)
    assert (model.hf_datasets, model.model_ids("test_a_ci.py"), model.model_ids("test_b_ci.py")) == (
        ("org/d",),
        ("org/b",),
        ("org/a",),
    )
    assert (model.metric_sources, model.extra_env, model.auto_env, model.gpus_per_test) == (
        {},
        {},
        {"HF_HUB_DISABLE_XET": "1"},
        {},
    )


@pytest.mark.parametrize("empty", ["metric_sources:\n", "metric_sources: null\n", "metric_sources: {test_a_ci.py: }\n"])
def test_a_section_that_is_left_blank_says_nothing(tmp_path: Path, empty: str) -> None:
    assert load(tmp_path, "name: m\ntest_globs: [tests/test_a_ci.py]\n" + empty).metric_sources == {}


@pytest.mark.rule("DSC-11")
@pytest.mark.parametrize(
    ("pattern", "symbol", "claimed"),
    [
        ("STREAM_", "_STREAM_P95", True),
        ("STREAM_", "NON_STREAM_P95", False),
        (".*_STREAM_", "NON_STREAM_P95", True),
        ("NON|STREAM", "STREAM_P95", True),
    ],
)
def test_a_filter_fits_from_the_start_of_the_bare_name_as_the_older_script_took_it(
    tmp_path: Path, pattern: str, symbol: str, claimed: bool
) -> None:
    block = f"    variants: {{one: {{constant_filter: '{pattern}'}}}}\n"
    text = f"name: m\ntest_globs: [t.py]\nmetric_sources:\n  test_a_ci.py:\n{block}"
    source = load(tmp_path, text).metric_sources["test_a_ci.py"]
    assert source.variants["one"].claims(symbol) is claimed


def test_keys_for_what_precheck_looks_at_are_typed(tmp_path: Path) -> None:
    text = SMALL + (
        "required_files:\n- {path: $HOME/x.jit, min_bytes: 10, tests: [test_a_ci.py], fetch: 'get {python}'}\n"
        "hf_files: {org/t: [tokenizer.json]}\nconsole_scripts: [sgl-omni]\n"
        "dependency_extras: [test]\noptional_dependencies: [gradio]\n"
    )
    model = load(tmp_path, text)
    assert (model.required_files[0].path, model.required_files[0].min_bytes) == ("$HOME/x.jit", 10)
    assert (model.hf_files, model.console_scripts) == ({"org/t": ("tokenizer.json",)}, ("sgl-omni",))
    assert refused(tmp_path, SMALL + "required_files:\n- {path: x.jit}\n").details["key"] == "required_files.0.path"
    assert refused(tmp_path, SMALL + "console_scripts: [a/b]\n").details["key"] == "console_scripts.0"


def test_one_string_stands_for_a_list_of_one(tmp_path: Path) -> None:
    text = (
        "name: m\ntest_globs: tests/test_a_ci.py\nhf_datasets: org/data\ncache_wipes: flashinfer\n"
        "hf_datasets_by_test: {test_a_ci.py: org/other}\npytest_extra_args: {test_a_ci.py: --level '16 a'}\n"
        "metric_sources: {test_a_ci.py: {ignored_constants: A_MIN, variants: {v: {context_vars: N_SAMPLES}}}}\n"
    )
    found = load(tmp_path, text)
    source = found.metric_sources["test_a_ci.py"]
    assert (found.test_globs, found.hf_datasets, found.cache_wipes) == (
        ("tests/test_a_ci.py",),
        ("org/data",),
        ("flashinfer",),
    )
    assert found.datasets("test_a_ci.py") == ("org/other",)
    assert found.pytest_extra_args["test_a_ci.py"] == ("--level", "16 a")
    assert (source.ignored_constants, source.variants["v"].context_vars) == (("A_MIN",), ("N_SAMPLES",))
