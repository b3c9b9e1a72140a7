"""A metric belongs to a constant only when the measured test reads it; every name that matches is a claimant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.discover.conftest import Project

CONFIG = """\
metric_sources:
  test_a_ci.py:
    {threshold}
    json_file: a0/results.json
    sample_counts: {{total: summary.total, ok: summary.ok}}
    paths: {{rtf_mean: speed.rtf_mean, accuracy: summary.accuracy}}
  test_b_ci.py:
    {threshold}
    json_file: b0/results.json
    sample_counts: {{total: summary.total, ok: summary.ok}}
"""
IN_ONE_FILE = CONFIG.format(threshold="threshold_file: tests/limits.py")
IN_EACH = CONFIG.format(threshold="expected_samples: 4")
READS_A = "from tests.limits import *\ndef test_a(m):\n    assert m['rtf'] <= A_RTF_MEAN_MAX\n"
READS_B = "from tests.limits import B_RTF_MEAN_MAX as LIMIT\ndef test_b(m):\n    assert m['rtf'] <= LIMIT\n"


def sources(found, stage: str) -> list[str]:
    return [metric.source for metric in found.stages[stage].metrics.values()] if stage in found.stages else []


@pytest.mark.rule("DSC-10")
def test_a_derived_constant_leaves_its_metric_to_no_other_tests_constant(project: Project) -> None:
    limits = "A_RTF_MEAN_MAX = round(0.04 * 1.1, 4)\nB_RTF_MEAN_MAX = 0.09\n"
    project.write("tests/limits.py", limits)
    project.write("tests/test_a_ci.py", READS_A)
    project.write("tests/test_b_ci.py", READS_B)
    found = project.discover(IN_ONE_FILE)
    assert sources(found, "a_speed") == []
    assert sources(found, "b_speed") == ["B_RTF_MEAN_MAX"]
    assert found.needs_config == ["b_speed/rtf_mean: B_RTF_MEAN_MAX"]
    assert any("A_RTF_MEAN_MAX is not calibrated: it is derived by an expression" in line for line in found.problems)


@pytest.mark.rule("DSC-10")
def test_a_constant_of_the_test_file_that_only_another_file_reads_is_not_wired_to_its_result(project: Project) -> None:
    project.write("tests/test_a_ci.py", "B_RTF_MEAN_MAX = 0.09\nLIMIT = 0.04\ndef test_a(m):\n    assert m <= LIMIT\n")
    code = "from tests.test_a_ci import B_RTF_MEAN_MAX\ndef test_b(m):\n    assert m <= B_RTF_MEAN_MAX\n"
    project.write("tests/test_b_ci.py", code)
    found = project.discover(IN_EACH)
    assert sources(found, "a_speed") == sources(found, "b_speed") == []
    assert any("B_RTF_MEAN_MAX is not calibrated: no test of test_a_ci.py reads it" in one for one in found.problems)


@pytest.mark.rule("DSC-10")
@pytest.mark.parametrize(
    ("definition", "reads"),
    [
        ("A_RTF_MEAN_MAX = round(0.04 * 1.1, 4)\n", "A_RTF_MEAN_MAX"),
        ("BASE = 0.04\nA_RTF_MEAN_MAX = BASE + 0.01\n", "A_RTF_MEAN_MAX"),
        ("import json\nA_RTF_MEAN_MAX = json.loads('0.04')\n", "A_RTF_MEAN_MAX"),
        ("A_RTF_MEAN_MAX = 0.04\n", "A_RTF_MEAN_MAX"),
        ("if True:\n    A_RTF_MEAN_MAX = 0.04\n", "A_RTF_MEAN_MAX"),
        ("from tests.other import A_RTF_MEAN_MAX\n", "A_RTF_MEAN_MAX"),
        ("A_RTF_MEAN_MAX = 0.04\nLIMIT = A_RTF_MEAN_MAX * 1.1\n", "LIMIT"),
    ],
)
def test_two_claimants_that_the_test_reads_are_a_collision_writable_or_not(
    project: Project, definition: str, reads: str
) -> None:
    project.write("tests/other.py", "A_RTF_MEAN_MAX = 0.04\n")
    body = f"def test_a(m):\n    assert m['x'] <= {reads}\n    assert m['y'] <= B_RTF_MEAN_MAX\n"
    project.write("tests/test_a_ci.py", definition + "B_RTF_MEAN_MAX = 0.09\n" + body)
    found = project.discover(IN_EACH)
    (line,) = found.collisions
    assert "A_RTF_MEAN_MAX" in line and "B_RTF_MEAN_MAX" in line
    assert found.stages["a_speed"].metrics["rtf_mean"].status == "NEEDS_CONFIG"
    ignoring = IN_EACH.replace("    paths", "    ignored_constants: [A_RTF_MEAN_MAX]\n    paths")
    decided = project.discover(ignoring)
    assert decided.collisions == []
    assert sources(decided, "a_speed") == ["B_RTF_MEAN_MAX"]
    assert decided.stages["a_speed"].metrics["rtf_mean"].status == "OK"


@pytest.mark.rule("DSC-10")
@pytest.mark.parametrize(
    "body",
    [
        "LIMIT_RTF_MEAN_MAX = round(B_RTF_MEAN_MAX * 1.1, 4)\ndef test_a(m):\n    assert m <= LIMIT_RTF_MEAN_MAX\n",
        "def limit():\n    return B_RTF_MEAN_MAX * 2\ndef test_a(m):\n    assert m <= limit()\n",
        "class TestA:\n    def limit(self):\n        return B_RTF_MEAN_MAX\n    def test_a(self, m):\n"
        "        assert m <= self.limit()\n",
        "import pytest\n@pytest.fixture\ndef limit():\n    return B_RTF_MEAN_MAX\ndef test_a(limit, m):\n"
        "    assert m <= limit\n",
        "ALL = {}\nALL['rtf'] = B_RTF_MEAN_MAX\ndef test_a(m):\n    assert m <= ALL['rtf']\n",
        "import sys\ndef test_a(m):\n    assert m <= getattr(sys.modules[__name__], f'{m}_RTF_MEAN_MAX')\n",
        "import sys\ndef test_a(m):\n    assert m <= getattr(sys.modules[__name__], 'B_RTF_MEAN_MAX')\n",
    ],
)
def test_a_constant_that_is_read_by_a_detour_or_perhaps_is_kept(project: Project, body: str) -> None:
    project.write("tests/test_a_ci.py", "B_RTF_MEAN_MAX = 0.09\n" + body)
    found = project.discover(IN_EACH.partition("  test_b_ci.py")[0])
    assert sources(found, "a_speed") == ["B_RTF_MEAN_MAX"]
    assert found.collisions == []


STAR = """\
from {module} import *
def test_a(m):
    assert m['rtf'] <= B_RTF_MEAN_MAX
    assert m['q'] >= A_P95[4]['throughput_qps']
"""
LIMITS = "B_RTF_MEAN_MAX = 0.09\nC_RTF_MEAN_MAX = 0.1\nA_P95 = {4: {'throughput_qps': 2}}\n"


@pytest.mark.rule("DSC-13")
@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("tests.limits", "bound by the star import of tests/limits.py"),
        ("limits", "bound by the star import of tests/limits.py"),
        (".limits", "bound by the star import of tests/limits.py"),
        ("tests.all_limits", "bound by the star import of tests/all_limits.py"),
        ("elsewhere.limits", "perhaps bound by the star import of elsewhere.limits, which is not in this repository"),
    ],
)
def test_a_threshold_that_a_star_import_brings_is_listed_with_its_file(
    project: Project, module: str, where: str
) -> None:
    project.write("tests/limits.py", LIMITS)
    project.write("tests/all_limits.py", "from tests.limits import *\n")
    project.write("tests/test_a_ci.py", STAR.format(module=module))
    found = project.discover(IN_EACH.partition("  test_b_ci.py")[0])
    listed = [line for line in found.problems if where in line]
    assert [line.split(" is not calibrated")[0] for line in sorted(listed)] == [
        "tests/test_a_ci.py: A_P95",
        "tests/test_a_ci.py: B_RTF_MEAN_MAX",
    ]
    assert not any("C_RTF_MEAN_MAX" in line for line in found.problems)


@pytest.mark.rule("DSC-14", "SMP-09")
def test_an_asserted_number_that_no_metric_claims_is_listed_unless_config_ignores_it_or_it_is_the_scope(
    project: Project,
) -> None:
    project.write(
        "tests/test_a_ci.py",
        'ODD = {8: {"strange": 3.0, "weird": 2.0}, 16: {"strange": 4.0, "weird": 2.5}}\n'
        "MAX_SAMPLES = 50\nRTF_MEAN_MAX = 0.5\nPLAIN = 7.0\n"
        "def test_a(got, load):\n"
        '    assert got["s"] <= ODD[8]["strange"]\n    assert got["w"] <= ODD[8]["weird"]\n'
        '    assert got["n"] >= MAX_SAMPLES\n    assert got["r"] <= RTF_MEAN_MAX\n    assert got["p"] <= PLAIN\n',
    )

    found = project.discover(
        "metric_sources: {test_a_ci.py: {ignored_constants: [\"ODD['weird']\"], json_file: r.json}}"
    )

    assert [one.source for _, one in found.unclaimed] == ["ODD[8]['strange']", "PLAIN"]
