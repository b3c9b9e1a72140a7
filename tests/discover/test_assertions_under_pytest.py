"""What the reader says of ordinary assertions is what pytest reports of them, for some 300 shapes of a test.

A shape that is read must be read right for every value, also at the limit; the others stay unread.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tune_mcp.discover.assertions import AssertionReader, Gate, Unread, UnreadKind

REFERENCE = 2.0
FACTORS = (0.3, 0.79, 0.95, 1.0, 1.05, 1.26, 3.0)
HEAD = (
    "import math, os, sys, json, unittest, time, statistics, contextlib\nimport pytest\n"
    f"REF = {REFERENCE}\nSLACK = 1.1\n"
)
FIXTURES = f"""
import pytest
from types import SimpleNamespace

@pytest.fixture(params={[REFERENCE * one for one in FACTORS]}, ids=lambda one: f"m={{one}}")
def m(request):
    return request.param

@pytest.fixture
def r(m):
    return {{"x": m, "y": 3.0, "n": 50, "all": [m, m, m], "ok": True}}

@pytest.fixture
def o(m):
    return SimpleNamespace(x=m, y=3.0, summary={{"x": m}}, xs=[m] * 3)

"""
RECORDER = """
import json, os
reported = {}
def pytest_runtest_logreport(report):
    callspec = [part for part in report.nodeid.partition("[")[2].rstrip("]").split("-")]
    case = reported.setdefault(report.nodeid.partition("/")[0], {}).setdefault(json.dumps(callspec), [])
    case.append(report.outcome)
def pytest_sessionfinish():
    with open(os.environ["REPORTED"], "w") as out:
        json.dump(reported, out)
"""


@dataclass
class Shape:
    """A test file, what is to be said of it, and further files beside it."""

    name: str
    expected: str
    files: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def test_file(self) -> str:
        return f"test_{self.name}.py"


def shapes() -> list[Shape]:
    found: list[Shape] = []
    name = ""
    for line in Path(__file__).with_name("assertion_shapes.txt").read_text().splitlines(keepends=True):
        if head := re.fullmatch(r"### (\w+): (\w+)\n", line):
            found.append(Shape(head[1], head[2]))
            name = found[-1].test_file
        elif other := re.fullmatch(r"#> ([\w.]+)\n", line):
            name = other[1]
        elif found:
            found[-1].files[name] = found[-1].files.get(name, "") + line
    return found


SHAPES = shapes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for shape in SHAPES:
        files = {"conftest.py": "", **shape.files}
        files["conftest.py"] = FIXTURES + files["conftest.py"]
        files[shape.test_file] = HEAD + files[shape.test_file]
        (root / shape.name).mkdir()
        for name, text in files.items():
            (root / shape.name / name).write_text(text)
    return root


@pytest.fixture(scope="module")
def reported(folder: Path) -> dict[str, dict[float, bool]]:
    """Shape -> measured value -> whether all its tests passed; what skips says nothing."""
    (folder / "recorder.py").write_text(RECORDER)
    path = folder / "reported.json"
    env = {name: os.environ[name] for name in {"PATH", "HOME", "LANG"} & os.environ.keys()}
    env |= {"PYTHONPATH": str(folder), "REPORTED": str(path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-q", "--tb=no", "-p", "recorder", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", "."]
    subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *options, "."],
        cwd=folder,
        env=env,
        capture_output=True,
        check=False,
        timeout=300,
    )
    found: dict[str, dict[float, bool]] = {}
    for name, cases in json.loads(path.read_text()).items():
        for key, outcomes in cases.items():
            values = [float(part.removeprefix("m=")) for part in json.loads(key) if part.startswith("m=")]
            if "skipped" not in outcomes and values:
                passed = found.setdefault(name, {})
                passed[values[-1]] = passed.get(values[-1], True) and set(outcomes) == {"passed"}
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_reading_says_what_pytest_reports(shape: Shape, folder: Path, reported: dict[str, dict[float, bool]]) -> None:
    found = AssertionReader(folder / shape.name).gate(shape.test_file, shape.test_file, "REF", None)
    outcomes = reported[shape.name]
    assert len(outcomes) >= 3

    if shape.expected == "read":
        assert isinstance(found, Gate), found
        assert {value: found.passes(value, REFERENCE) for value in outcomes} == outcomes
    else:
        assert isinstance(found, Unread), found
        assert found.reason
        assert (found.kind is UnreadKind.NOT_ASSERTED) is (shape.expected == "nothing")
