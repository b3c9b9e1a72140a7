"""Nothing that a test asserts against passes in silence, whatever its form, and config can name all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tune_mcp.discover.assertions import AssertionReader, Gate
from tune_mcp.discover.constants import parse_module
from tune_mcp.errors import Code, Refusal

if TYPE_CHECKING:
    from conftest import Project

NEW = """
import unittest
from dataclasses import dataclass

LATENCY_CAP = 9.0
LIMITS = {"acc": 0.5, "wait": 2.0}
BY_MODEL = {"org/a": {"acc": 0.5}}
BY_LOAD = {("a", 8): 1.5}


@dataclass
class Limits:
    bleu: float
    gap: float


FIELDS = Limits(0.25, gap=0.125)


class TestServing(unittest.TestCase):
    ttft = 1.25

    def test_ttft(self):
        self.assertLess(measure("ttft"), self.ttft)


def test_all():
    found = measure("all")
    assert found["latency"] < LATENCY_CAP
    assert found["acc"] >= LIMITS["acc"]
    assert found["wait"] <= LIMITS["wait"]
    assert found["m"] > BY_MODEL["org/a"]["acc"]
    assert found["q"] >= BY_LOAD[("a", 8)]
    assert found["bleu"] >= FIELDS.bleu
    assert found["gap"] <= FIELDS.gap
"""
PLACES = {
    "LATENCY_CAP": "max",
    "LIMITS['acc']": "min",
    "LIMITS['wait']": "max",
    "BY_MODEL['org/a']['acc']": "min",
    "BY_LOAD['a', 8]": "min",
    "FIELDS.bleu": "min",
    "FIELDS.gap": "max",
    "TestServing.ttft": "max",
}


@pytest.mark.rule("DSC-14")
def test_every_number_that_a_test_asserts_against_is_listed_with_its_line_and_its_side(project: Project) -> None:
    project.write("tests/test_new_ci.py", NEW)

    found = project.discover()

    lines = NEW.splitlines()
    told = {line.split(": ", 1)[1].split(" is asserted")[0]: line for line in found.unrecognised}
    assert set(told) == set(PLACES)
    for source, line in told.items():
        assert ("lower" if PLACES[source] == "min" else "upper") in line
        number = int(line.split(":")[1])
        assert any(char.isdigit() for char in lines[number - 1])
    assert found.stages == {}
    assert found.without == ["tests/test_new_ci.py"]


@pytest.mark.rule("DSC-14", "MOD-06", "MET-04")
def test_the_block_that_is_shown_makes_each_of_them_a_threshold_with_its_side(project: Project) -> None:
    project.write("tests/test_new_ci.py", NEW)
    block = project.discover().suggestions["test_new_ci.py"]

    pasted = project.discover(block)

    assert not [line for line in pasted.problems if "does not exist" in line]
    assert {
        metric.source: metric.worst for stage in pasted.stages.values() for metric in stage.metrics.values()
    } == PLACES
    assert pasted.unrecognised == []
    assert yaml.safe_load(block)["thresholds"]["test_new_ci.py"]["BY_MODEL['org/a']['acc']"] == "by_model_org_a_acc"


@pytest.mark.rule("DSC-14", "MOD-06")
def test_each_load_of_a_table_is_a_threshold_of_its_own_that_the_block_names(project: Project) -> None:
    code = (
        "import pytest\nBY_LOAD = {8: {'rps': 10.0}, 16: {'rps': 20.0}}\n@pytest.mark.parametrize('c', [8, 16])\n"
        "def test_a(c):\n    assert measure(c) >= BY_LOAD[c]['rps']\n"
    )
    project.write("tests/test_new_ci.py", code)
    block = project.discover().suggestions["test_new_ci.py"]

    pasted = project.discover(block)

    found = {metric.source: key for stage in pasted.stages.values() for key, metric in stage.metrics.items()}
    assert found == {"BY_LOAD[8]['rps']": "rps_8", "BY_LOAD[16]['rps']": "rps_16"}
    assert pasted.unrecognised == []

    one = "".join(line for line in block.splitlines(keepends=True) if "16" not in line)
    left = project.discover(one).unrecognised
    assert len(left) == 1 and "BY_LOAD[16]['rps'] is asserted as a lower bound" in left[0]


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize(
    ("code", "symbol"),
    [
        (
            "class TestA:\n    ACC_MIN = 0.5\n    def test_a(self):\n        assert m() >= self.ACC_MIN\n",
            "TestA.ACC_MIN",
        ),
        ("_A_P95 = {'rtf_mean': 1.5}\ndef test_a():\n    assert m() <= _A_P95['rtf_mean']\n", "_A_P95['rtf_mean']"),
        ("L = {'m': {'rtf_mean': 1.5}}\ndef test_a():\n    assert m() <= L['m']['rtf_mean']\n", "L['m']['rtf_mean']"),
    ],
)
def test_a_name_that_fits_a_metric_is_a_threshold_in_a_class_or_a_dict_too(
    project: Project, code: str, symbol: str
) -> None:
    project.write("tests/test_a_ci.py", code)
    found = project.discover()
    assert [metric.source for stage in found.stages.values() for metric in stage.metrics.values()] == [symbol]
    assert found.without == []


@pytest.mark.rule("DSC-14", "MET-04")
def test_a_leaf_that_is_asserted_on_the_other_side_is_not_taken_for_the_metric_of_its_name(project: Project) -> None:
    code = "class TestA:\n    ACC_MIN = 0.5\n    def test_a(self):\n        assert m() <= self.ACC_MIN\n"
    project.write("tests/test_a_ci.py", code)
    found = project.discover()
    assert found.stages == {}
    assert "TestA.ACC_MIN is asserted as an upper bound" in found.unrecognised[0]


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize(
    "code",
    [
        "def test_a():\n    assert measure() >= 0.8\n",
        "def test_a():\n    limit = 0.8\n    assert measure() >= limit\n",
        "import pytest\n@pytest.mark.parametrize('limit', [0.8])\ndef test_a(limit):\n    assert measure() >= limit\n",
    ],
)
def test_a_number_without_a_name_is_told_by_its_line(project: Project, code: str) -> None:
    project.write("tests/test_a_ci.py", code)
    (line,) = project.discover().unrecognised
    number = next(number for number, text in enumerate(code.splitlines(), 1) if "0.8" in text)
    assert line.startswith(f"tests/test_a_ci.py:{number}: a number is asserted as a lower bound")


@pytest.mark.rule("DSC-13")
def test_thresholds_in_a_data_file_are_said_not_to_be_calibrated(project: Project) -> None:
    project.write("tests/limits.yaml", "acc: 0.5\n")
    load = "import yaml\nLIMITS = yaml.safe_load(open('tests/limits.yaml'))\n"
    code = load + "def test_a():\n    assert m() >= LIMITS['acc']\n"
    project.write("tests/test_a_ci.py", code)
    found = project.discover()
    assert any("tests/limits.yaml" in line and "only Python files are edited" in line for line in found.problems)
    with pytest.raises(Refusal, match=r"limits\.yaml") as caught:
        project.discover("metric_sources: {test_a_ci.py: {threshold_file: tests/limits.yaml}}")
    assert caught.value.code is Code.INVALID_CONFIG
    assert "only Python files are edited" in caught.value.message


@pytest.mark.rule("DSC-16")
def test_a_path_that_no_constant_claims_is_told(project: Project) -> None:
    project.write("tests/test_a_ci.py", "A_ACC_MIN = 0.5\ndef test_a():\n    assert m() >= A_ACC_MIN\n")
    found = project.discover("metric_sources: {test_a_ci.py: {json_file: a.json, paths: {accuracy: a, rtf_mean: b}}}")
    assert any("paths names rtf_mean, and no constant" in line for line in found.problems)


@pytest.mark.rule("DSC-12")
def test_a_constant_that_another_test_calibrates_is_no_note(project: Project) -> None:
    project.write("tests/limits.py", "A_ACC_MIN = 0.5\nB_ACC_MIN = 0.5\nC_ACC_MIN = 0.5\n")
    for letter in "ab":
        read = f"from tests.limits import {letter.upper()}_ACC_MIN, C_ACC_MIN\n"
        test = f"def test_{letter}():\n    assert m() >= {letter.upper()}_ACC_MIN\n"
        project.write(f"tests/test_{letter}_ci.py", read + test)
    preset = "{{threshold_file: tests/limits.py, calibration_presets: {{p: {{constant_filter: ^{}_}}}}}}"
    sources = ", ".join(f"test_{letter}_ci.py: {preset.format(letter.upper())}" for letter in "ab")
    found = project.discover(f"metric_sources: {{{sources}}}")
    assert [line for line in found.problems if "fits no preset" in line] == [
        "tests/limits.py: C_ACC_MIN fits no preset of test_b_ci.py and is not calibrated"
    ]


@pytest.mark.rule("DSC-03", "DSC-07")
def test_a_file_that_a_benchmark_does_not_name_after_its_folder_is_not_inferred(project: Project) -> None:
    code = (
        "from benchmarks.eval.benchmark_x import run\nA_ACC_MIN = 0.5\n"
        "def test_a(tmp_path):\n    assert run(output_dir=str(tmp_path / 'x_audio')) >= A_ACC_MIN\n"
    )
    project.write("tests/test_a_ci.py", code)
    found = project.discover("metric_sources: {test_a_ci.py: {json_file: a.json, paths: {accuracy: a}}}")
    assert found.conflicts == []


@pytest.mark.rule("MET-04", "DSC-14")
@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("thresholds: {test_a_ci.py: {NOWHERE: acc}}", "has no NOWHERE"),
        ("thresholds: {test_a_ci.py: {'A +': acc}}", "no Python expression"),
        ("thresholds: {test_a_ci.py: {MAX_NEW_TOKENS: acc}}", "never calibrated"),
        ("thresholds: {test_a_ci.py: {LOW: acc, HIGH: acc}}", "a lower bound in test_a_ci.py: LOW and an upper bound"),
    ],
)
def test_a_name_that_cannot_be_a_threshold_is_refused_with_its_key(project: Project, named: str, why: str) -> None:
    code = "LOW = 0.5\nHIGH = 0.9\nMAX_NEW_TOKENS = 8\ndef test_a():\n    assert m() >= LOW\n    assert n() <= HIGH\n"
    project.write("tests/test_a_ci.py", code)
    with pytest.raises(Refusal, match=why) as caught:
        project.discover(more=named)
    assert caught.value.code is Code.INVALID_CONFIG
    assert str(caught.value.details["key"]).startswith("thresholds.test_a_ci.py.")


@pytest.mark.rule("DSC-14", "MOD-06")
def test_the_advice_for_a_missing_name_is_never_the_limit_of_another_metric(project: Project) -> None:
    code = "LIM = {'wer': 0.5, 'f1_macro': 0.5}\ndef test_a():\n    assert m() >= LIM['f1_macro']\n"
    project.write("tests/test_a_ci.py", code)

    for named, advice in (("acc", "give it any first value"), ("f1_makro", "name LIM['f1_macro']")):
        with pytest.raises(Refusal) as caught:
            project.discover(more=f"thresholds: {{test_a_ci.py: {{\"LIM['{named}']\": acc}}}}")
        assert advice in caught.value.next and "wer" not in caught.value.next


@pytest.mark.rule("DSC-16", "MET-04")
def test_what_config_says_of_a_metric_beats_what_its_name_and_the_tests_suggest(project: Project) -> None:
    project.write("tests/test_a_ci.py", "CAP = 0.5\ndef test_a():\n    assert m() <= CAP\n")
    plain = project.discover(more="thresholds: {test_a_ci.py: {CAP: drift}}")
    assert [(stage.group, stage.metrics["drift"].worst) for stage in plain.stages.values()] == [("other", "max")]
    said = project.discover(more="thresholds: {test_a_ci.py: {CAP: drift}}", metrics="metrics: {drift: {group: speed}}")
    assert [stage.group for stage in said.stages.values()] == ["speed"]
    against = project.discover(
        more="thresholds: {test_a_ci.py: {CAP: drift}}", metrics="metrics: {drift: {group: speed, worst: min}}"
    )
    assert any("asserted as an upper bound" in line and "is min" in line for line in against.problems)


@pytest.mark.rule("APL-17")
def test_a_first_value_may_be_named_too(project: Project) -> None:
    project.write("tests/test_a_ci.py", "CAP = None\ndef test_a():\n    assert CAP is None or m() <= CAP\n")
    more = "thresholds: {test_a_ci.py: {CAP: drift}}\nmetrics: {drift: {worst: max}}"
    found = project.discover("metric_sources: {test_a_ci.py: {json_file: a.json, paths: {drift: a}}}", more)
    assert [metric.source for stage in found.stages.values() for metric in stage.metrics.values()] == ["CAP"]


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize(
    ("limits", "asserted", "name"),
    [
        ("from types import SimpleNamespace\nLIMITS = SimpleNamespace(acc=0.5)", "m() >= LIMITS.acc", "LIMITS.acc"),
        ("from enum import Enum\nclass Floor(Enum):\n    ACC = 0.5", "m() >= Floor.ACC.value", "Floor.ACC"),
        ("BOUNDS = (0.5, 9.0)", "BOUNDS[0] <= m() <= BOUNDS[1]", "BOUNDS"),
        ("FLOORS = [('acc', 0.5)]", "all(m(name) >= floor for name, floor in FLOORS)", "FLOORS"),
        ("import numpy as np\nLOWEST = 0.5", "np.all(np.array(m()) >= LOWEST)", "LOWEST"),
    ],
)
def test_a_number_in_a_form_that_is_not_read_is_listed_with_its_line_and_a_way_on(
    project: Project, limits: str, asserted: str, name: str
) -> None:
    """Beside a threshold that is read, it would be the limit that nobody calibrates under a READY."""
    read = (
        "SEED = 3\nA_ACC_MIN = 0.5\ndef test_read():\n    assert m('acc') >= A_ACC_MIN\n    assert count(SEED) == 3\n"
    )
    project.write("tests/test_a_ci.py", f"{limits}\n{read}\ndef test_a():\n    assert {asserted}\n")

    (line,) = project.discover().unrecognised

    assert f": {name} is asserted, but is no bound that can be calibrated" in line
    assert line.endswith(f"put {name} into ignored_constants")


@pytest.mark.rule("DSC-14", "MOD-06")
def test_a_described_test_without_a_threshold_has_its_block_too(project: Project) -> None:
    project.write("tests/test_a_ci.py", "BOUNDS = (0.5, 9.0)\ndef test_a():\n    assert m() >= BOUNDS[0]\n")
    config = "metric_sources: {test_a_ci.py: {json_file: a.json, paths: {accuracy: a}}}\n"

    found = project.discover(config)

    assert found.without == ["tests/test_a_ci.py"]
    pasted = project.discover(config + found.suggestions["test_a_ci.py"])
    assert pasted.without == [] and [stage.metrics for stage in pasted.stages.values()] == [{}]


@pytest.mark.rule("DSC-14", "MOD-06")
def test_the_block_for_a_described_test_holds_only_what_config_lacks(project: Project) -> None:
    code = "A_ACC_MIN = 0.5\nCAP = 9.0\ndef test_a():\n    assert m('acc') >= A_ACC_MIN\n    assert m('drift') <= CAP\n"
    project.write("tests/test_a_ci.py", code)

    block = project.discover("metric_sources: {test_a_ci.py: {paths: {accuracy: 'a.json::a'}}}\n").suggestions

    said = yaml.safe_load(block["test_a_ci.py"])
    assert said["thresholds"] == {"test_a_ci.py": {"CAP": "cap"}}
    assert said["metric_sources"] == {"test_a_ci.py": {"paths": {"cap": None}}}


@pytest.mark.rule("DSC-14", "APL-15")
@pytest.mark.parametrize(
    ("classes", "call", "source"),
    [
        ("class Base:\n    acc: float\nclass Limits(Base):\n    gap: float = 1.0", "Limits(0.5, 2.5)", "LIMITS.gap"),
        ("class Limits:\n    acc: ClassVar[float] = 1.0\n    gap: float = 1.0", "Limits(2.5)", "LIMITS.gap"),
        ("class Limits:\n    acc: float = field(init=False)\n    gap: float = 1.0", "Limits(2.5)", "LIMITS.gap"),
        ("class Limits:\n    acc: InitVar[float]\n    gap: float = 1.0", "Limits(0.5, 2.5)", "LIMITS.gap"),
        ("class Limits:\n    acc: float\n    _: KW_ONLY\n    gap: float = 1.0", "Limits(0.5, gap=2.5)", "LIMITS.gap"),
        ("class Limits(NamedTuple):\n    acc: float\n    gap: float", "Limits(*[0.5], 2.5)", None),
        ("class Limits(Other):\n    gap: float = 1.0", "Limits(0.5, 2.5)", None),
        ("class Limits:\n    gap: float\n    def __init__(self, acc, gap): ...", "Limits(0.5, gap=2.5)", None),
    ],
)  # fmt: skip
def test_a_positional_argument_is_the_field_that_the_class_makes_of_it(
    classes: str, call: str, source: str | None
) -> None:
    """A number under a wrong field's name would be rewritten in the place of another threshold."""
    found = parse_module(f"@record\n{classes}\nLIMITS = {call}\n".encode(), "tests/test_a_ci.py")
    values = {leaf.literals[0].value: name for name, leaf in found.leaves.items() if name.startswith("LIMITS.")}
    assert values.get(2.5) == source
    assert values.get(0.5) in (None, "LIMITS.acc")


@pytest.mark.rule("MET-04")
@pytest.mark.parametrize("record", ["tune_record", "record_property"])
def test_a_value_that_a_test_records_is_a_result_whatever_it_was_computed_from(project: Project, record: str) -> None:
    code = f"A_ACC_MIN = 0.5\ndef test_a({record}):\n    acc = float(run() / count())\n"
    code += f"    {record}('acc', acc)\n    assert acc >= A_ACC_MIN\n"
    project.write("tests/test_a_ci.py", code)
    gate = AssertionReader(project.root).gate("tests/test_a_ci.py", "tests/test_a_ci.py", "A_ACC_MIN", None)
    assert isinstance(gate, Gate) and gate.worst == "min"


@pytest.mark.rule("DSC-14")
@pytest.mark.parametrize("fixture", ["tune_record", "record_property"])
def test_a_value_that_a_test_records_is_what_is_measured_however_it_was_computed(
    project: Project, fixture: str
) -> None:
    code = (
        "import random\nCAP = 0.5\ndef measure():\n    return {'x': 0.25 + random.random() / 10}\n"
        f"def test_a({fixture}):\n    found = measure()\n    {fixture}('drift', found['x'])\n"
        "    assert found['x'] <= CAP\n"
    )
    project.write("tests/test_a_ci.py", code)
    found = project.discover()
    assert "CAP is asserted as an upper bound" in found.unrecognised[0]
    pasted = project.discover(found.suggestions["test_a_ci.py"])
    (stage,) = pasted.stages.values()
    assert (stage.metrics["drift"].json_file, stage.metrics["drift"].json_path) == ("tune_record.json", "drift")
    assert stage.sample_counts == "one"


@pytest.mark.rule("MOD-06")
@pytest.mark.parametrize(
    ("asserting", "recorded"),
    [
        ("tune_record('drift', v)", True),
        ("tune_record('drift', bench())", False),
        ("record_property('other', v)", False),
        ("tune_record('drift', v)\n    v = bench()", False),
    ],
)
@pytest.mark.parametrize("another", [True, False], ids=["another_test_records_it", "alone"])
def test_a_named_metric_takes_no_value_that_another_test_or_another_line_records(
    project: Project, asserting: str, recorded: bool, another: bool
) -> None:
    code = "import random\nCAP = 0.5\ndef bench():\n    return random.random()\n"
    code += f"def test_a(tune_record, record_property):\n    v = bench()\n    {asserting}\n    assert v <= CAP\n"
    code += "def test_warm_up(tune_record):\n    tune_record('drift', bench())\n" if another and not recorded else ""
    project.write("tests/test_a_ci.py", code)

    found = project.discover("thresholds: {test_a_ci.py: {CAP: drift}}\n")

    ((key, stage),) = found.stages.items()
    assert (stage.metrics["drift"].status == "OK") is recorded
    assert found.needs_config == ([] if recorded else [f"{key}/drift: CAP"])
    told = any("recorded as drift" in line and "paths.drift" in line for line in found.problems)
    assert told is (not recorded and (another or "'drift'" in asserting))


@pytest.mark.rule("MOD-06")
def test_a_named_metric_whose_assertion_is_not_read_takes_what_its_own_test_records(project: Project) -> None:
    code = "import random\nCAP = 0.5\ndef test_a(tune_record, judge):\n    v = random.random()\n"
    code += "    BODY\n    judge(v, CAP)\n"
    rules = "metrics: {drift: {group: speed, worst: max}}"
    for body, status in (("tune_record('drift', v)", "OK"), ("pass", "NEEDS_CONFIG")):
        warm = "" if status == "OK" else "def test_warm_up(tune_record):\n    tune_record('drift', random.random())\n"
        project.write("tests/test_a_ci.py", code.replace("BODY", body) + warm)

        found = project.discover(more="thresholds: {test_a_ci.py: {CAP: drift}}", metrics=rules)

        (stage,) = found.stages.values()
        assert stage.metrics["drift"].status == status
