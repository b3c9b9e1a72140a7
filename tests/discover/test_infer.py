"""Where a test leaves its results, read from its code: the certain cases, and silence in all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tune_mcp.config.metrics import load_metric_rules
from tune_mcp.discover.constants import parse_module
from tune_mcp.discover.sources import Inferred, infer, tmp_path_folder

RULES = load_metric_rules()


def read(code: str) -> Inferred:
    data = code.encode()
    return infer(data, "tests/test_x_ci.py", RULES, parse_module(data, "tests/test_x_ci.py").imports)


def located(found: Inferred, metric: str) -> str | None:
    place = found.metric(metric)
    return place and f"{place.json_file}::{place.json_path}"


TMP_PATH = """\
from benchmarks.eval.benchmark_omni_{name} import run

def test_{name}_accuracy_and_speed(server, tmp_path):
    run(output_dir=str(tmp_path / "{name}"))
"""

FIXTURE = """\
import pytest
from benchmarks.eval.benchmark_omni_mmmu import run

@pytest.fixture(scope="module")
def artifacts(server, tmp_path_factory):
    output_dir = str(tmp_path_factory.mktemp("mmmu_audio"))
    run(output_dir)
    return Path(output_dir) / "audio"

def test_wer(artifacts):
    persist(artifacts, "mmmu_results.json")
"""


@pytest.mark.rule("DSC-03")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mmmu", "test_mmmu_accuracy_and_speed0/mmmu/mmmu_results.json"),
        ("videomme", "test_videomme_accuracy_and_spe0/videomme/videomme_results.json"),
        ("videoamme", "test_videoamme_accuracy_and_sp0/videoamme/videoamme_results.json"),
    ],
)
def test_a_tmp_path_test_leaves_its_file_in_the_folder_of_its_name(name: str, file: str) -> None:
    found = read(TMP_PATH.format(name=name))
    assert located(found, "accuracy") == f"{file}::summary.accuracy"
    assert located(found, "throughput_qps") == f"{file}::speed.throughput_qps"
    counts = found.counts()
    assert counts is not None
    assert (counts.total.json_path, counts.ok.json_path) == ("summary.total_samples", "speed.completed_requests")


@pytest.mark.rule("DSC-04")
def test_the_mmsu_benchmark_is_known_by_its_import() -> None:
    found = read(TMP_PATH.format(name="mmsu"))
    assert (located(found, "rtf_mean") or "").endswith("::speed_metrics.rtf_mean")
    assert (located(found, "accuracy") or "").endswith("::summary.overall_accuracy")
    counts = found.counts()
    assert counts is not None
    assert counts.ok.json_path == "summary.successful_samples"


@pytest.mark.rule("DSC-03")
def test_a_shared_fixture_and_one_file_name_are_enough() -> None:
    assert located(read(FIXTURE), "n_above_50") == "mmmu_audio0/mmmu_results.json::wer.summary.n_above_50_pct_wer"


def test_a_file_that_the_test_writes_itself_is_known_but_not_what_is_in_it() -> None:
    code = 'def test_a(tmp_path_factory):\n    (tmp_path_factory.getbasetemp() / "asr_results.json").write_text("{}")\n'
    found = read(code)
    assert (found.json_file, found.metric("corpus_wer"), found.counts()) == ("asr_results.json", None, None)


@pytest.mark.rule("MOD-05", "DSC-07")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('"mmmu_results.json"', '"mmmu_results.json", "speed_results.json"'), "several result files"),
        (('"mmmu_results.json"', '"mmmu.json"'), "does not name its result file"),
        (('scope="module"', 'scope="function"'), "more than once"),
        (('scope="module"', 'scope="module", params=[1, 2]'), "more than once"),
        (('    output_dir = str(tmp_path_factory.mktemp("mmmu_audio"))\n    run(output_dir)',
          '    for n in range(2):\n        output_dir = str(tmp_path_factory.mktemp("mmmu_audio"))'), "more than once"),
        (("    run(output_dir)", '    run(tmp_path_factory.mktemp("other"))'), "several output places"),
        (('mktemp("mmmu_audio")', "mktemp(NAME)"), "no output folder"),
    ],
)  # fmt: skip
def test_a_fixture_that_leaves_room_for_doubt_gives_nothing(change: tuple[str, str], reason: str) -> None:
    assert change[0] in FIXTURE
    found = read(FIXTURE.replace(*change))
    assert (found.json_file, found.metric("accuracy")) == (None, None)
    assert reason in found.reason


@pytest.mark.parametrize(
    "code",
    [
        'import pytest\n@pytest.mark.parametrize("a", [1])\ndef test_a(a, tmp_path):\n    run(tmp_path / "o")\n',
        'pytestmark = pytest.mark.parametrize("a", [1])\ndef test_a(a, tmp_path):\n    run(tmp_path / "o")\n',
        '@mark.parametrize("a", [1])\nclass TestA:\n    def test_a(self, a, tmp_path):\n        run(tmp_path / "o")\n',
        'def test_a(tmp_path):\n    run(tmp_path)\n',
        'def test_a(tmp_path):\n    run(tmp_path / "a")\n    run(tmp_path / "b")\n',
        'def test_a(tmp_path):\n    run(tmp_path / NAME)\n',
        'def test_a(tmp_path):\n    run(tmp_path / ".." / "o")\n',
        'import pytest\n@pytest.fixture\ndef out(tmp_path):\n    return tmp_path / "o"\n',
        "def test_a():\n    run()\n",
        'def test_with_a_name_longer_than_thirty_one(tmp_path):\n    run(tmp_path / "o")\n'
        'def test_with_a_name_longer_than_thirty_two(tmp_path):\n    pass\n',
    ],
)  # fmt: skip
def test_a_tmp_path_test_that_leaves_room_for_doubt_gives_nothing(code: str) -> None:
    found = read(code)
    assert (found.json_file, found.layout) == (None, None)
    assert found.reason


@pytest.mark.parametrize(
    "body",
    [
        'run(tmp_path / "a/b")',
        'run(str(tmp_path / "a" / "b"))',
        'run(tmp_path.joinpath("a", "b"))',
        'out = tmp_path / "a"\n    run(out / "b")',
        'out = os.fspath(tmp_path / "a" / "b")\n    run(out)\n    look(Path(out) / "audio")',
    ],
)
def test_a_folder_may_be_written_in_several_ways(body: str) -> None:
    found = read(f"from bench import benchmark_a, benchmark_b\nasync def test_a(tmp_path):\n    {body}\n")
    expected = "test_a0/a/a_results.json" if body.startswith('out = tmp_path / "a"\n') else "test_a0/a/b/b_results.json"
    assert found.json_file == expected


@pytest.mark.parametrize("case", ["a", "é ü", "with/slash"])
def test_a_folder_is_named_as_pytest_names_it(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert case in request.node.name or "\\" in request.node.name
    assert re.sub(r"\d+$", "", tmp_path.name) == tmp_path_folder(request.node.name).removesuffix("0")
    assert len(tmp_path_folder("test_" + "long" * 10)) == 31
