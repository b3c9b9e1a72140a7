"""What the tests assert of a constant is read to the last bit, or said to be unread with the reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tune_mcp.discover.assertions import AssertionReader, Gate, Unread, UnreadKind

KIT = '''
from dataclasses import dataclass, field

FACTOR = 1.25

def scaled(reference, factor=FACTOR):
    """Documented."""
    return round(reference * factor, 2)

def apply_slack(p95, higher=0.875, lower=1.125):
    found = {}
    for level, values in p95.items():
        limits = {"qps_min": round(values["qps"] * higher, 2)}
        if "latency" in values:
            limits["latency_max"] = round(values["latency"] * lower, 1)
        found[level] = limits
    return found

@dataclass
class Checks:
    label: str = "checks"
    failures: list = field(default_factory=list)

    def check(self, condition, message=""):
        if not condition:
            self.failures.append(message)

    def assert_all(self):
        if not self.failures:
            return
        raise AssertionError(f"{self.label}: {len(self.failures)}")
'''
TABLE = """
def test_a(m):
    failed = []
    for name, (reference, side, unit) in {%s}.items():
        seen = m.get(name)
        if not isinstance(seen, (int, float)):
            failed.append(name)
            continue
        if reference is None:
            failed.append(f"{name} has no reference")
            continue
        limit = reference * 0.75 if side == "low" else reference * 1.25
        passed = seen >= limit if side == "low" else seen <= limit
        if not passed:
            failed.append(f"{name} {seen:.4f}{unit}")
    assert not failed
"""
HEAD = "import math, os, unittest\nimport pytest\nfrom kit import *\nREF = 2.0\nOTHER = 9.0\nSLACK = 1.1\n"


def read(
    tmp_path: Path, body: str, *, source: str = "REF", level: int | None = None, env: dict[str, str] | None = None
) -> Gate | Unread:
    (tmp_path / "kit.py").write_text(KIT)
    (tmp_path / "test_x.py").write_text(HEAD + body)
    return AssertionReader(tmp_path).gate("test_x.py", "test_x.py", source, level, env or {})


LIMITS = [
    ("def test_a(m):\n    assert m <= REF", "max", False, 2.0),
    ("def test_a(m):\n    assert REF >= m, 'too slow'", "max", False, 2.0),
    ("def test_a(m):\n    assert m > REF", "min", True, 2.0),
    ("def test_a(m):\n    assert not m < REF", "min", False, 2.0),
    ("def test_a(m):\n    assert not m >= REF", "max", True, 2.0),
    ("def test_a(m):\n    assert (m >= REF) is True", "min", False, 2.0),
    ("def test_a(m):\n    assert bool(m['x'] >= REF) == True", "min", False, 2.0),
    ("def test_a(m):\n    assert m <= REF * SLACK", "max", False, 2.0 * 1.1),
    ("def test_a(m):\n    assert m <= scaled(REF)", "max", False, 2.5),
    ("def test_a(m):\n    assert m <= scaled(REF, factor=SLACK)", "max", False, 2.2),
    ("LIMIT = round(REF / 0.7, 3)\ndef test_a(m):\n    assert m <= LIMIT", "max", False, 2.857),
    ("def test_a(m):\n    assert m >= REF - 0.02", "min", False, 2.0 - 0.02),
    ("def test_a(m):\n    assert m <= min(REF * SLACK, 2.1)", "max", False, 2.1),
    ("def test_a(m):\n    assert m <= max(REF * SLACK, OTHER)", "max", False, 9.0),
    ("def test_a(m):\n    assert 0 <= m <= REF", "max", False, 2.0),
    ("def test_a(m):\n    assert m['n'] == 4 and m['x'] >= REF", "min", False, 2.0),
    ("def test_a(m):\n    assert isinstance(m['x'], int | float) and m['x'] <= REF", "max", False, 2.0),
    ("def test_a(m):\n    assert isinstance(m, (int, float)) and m <= REF", "max", False, 2.0),
    ("def test_a(m):\n    assert all(one <= REF for one in m['all'])", "max", False, 2.0),
    ("def test_a(m):\n    assert not [one for one in m if one > REF]", "max", False, 2.0),
    ("def test_a(m):\n    assert len([one for one in m if one > REF]) == 0", "max", False, 2.0),
    ("def test_a(m):\n    for one in m:\n        assert one['wer'] < REF", "max", True, 2.0),
    ("def test_a(m):\n    if m.acc < REF:\n        pytest.fail('low')", "min", False, 2.0),
    ("def test_a(m):\n    if m.acc <= REF:\n        raise AssertionError('low')", "min", True, 2.0),
    ("def test_a(m):\n    bad = []\n    if m > REF:\n        bad.append(1)\n    assert not bad", "max", False, 2.0),
    ("def test_a(m):\n    ok = True\n    if m > REF:\n        ok = False\n    assert ok", "max", False, 2.0),
    (
        "def test_a(m):\n    c = Checks()\n    c.check(m is not None and m >= REF)\n    c.assert_all()",
        "min",
        False,
        2.0,
    ),
    (
        "def test_a(m):\n    x = m.get('x')\n    if x is None:\n        pytest.fail('no')\n    assert x >= REF",
        "min",
        False,
        2.0,
    ),
    ("def helper(v, limit):\n    assert v >= limit\ndef test_a(m):\n    helper(m['x'], REF)", "min", False, 2.0),
    ("class TestA:\n    def test_a(self, m):\n        assert m >= REF", "min", False, 2.0),
    ("class A(unittest.TestCase):\n    def test_a(self):\n        self.assertGreater(run(), REF)", "min", True, 2.0),
    ("class A(unittest.TestCase):\n    def test_a(self):\n        self.assertLessEqual(run(), REF)", "max", False, 2.0),
    ("class A(unittest.TestCase):\n    def test_a(self):\n        self.assertTrue(run() >= REF)", "min", False, 2.0),
    ("@pytest.mark.parametrize('limit', [REF])\ndef test_a(m, limit):\n    assert m <= limit", "max", False, 2.0),
    (
        "@pytest.fixture\ndef limit():\n    return REF * SLACK\ndef test_a(m, limit):\n    assert m <= limit",
        "max",
        False,
        2.0 * 1.1,
    ),
    (TABLE % "'a': (OTHER, 'high', 's'), 'b': (REF, 'low', '')", "min", False, 1.5),
    (TABLE % "'a': (OTHER, 'low', 's'), 'b': (SLACK, 'high', ''), 'c': (REF, 'high', '')", "max", False, 2.5),
    ("def test_a(m):\n    assert m * SLACK >= REF", "min", False, 1.8181818181818181),
    ("def test_a(m):\n    assert m / REF >= 0.5", "min", False, 1.0),
    ("def test_a(m):\n    assert REF - m <= 0.5", "min", False, 1.5),
    ("def test_a(m):\n    assert round(m, 1) >= REF", "min", False, 1.9500000000000002),
    ("def test_a(m):\n    assert int(m) >= REF", "min", False, 2.0),
    ("def test_a(m):\n    assert int(m) < REF", "max", True, 2.0),
    ("def test_a(m):\n    assert m ** 2 >= REF", "min", False, 1.4142135623730951),
    ("def test_a(m):\n    assert m ** 2 >= REF ** 2", "min", False, 2.0),
    ("def test_a(m):\n    assert 1 / m <= REF", "min", False, 0.5),
    ("def test_a(m):\n    print(m) if m <= REF else pytest.fail('no')", "max", False, 2.0),
]


@pytest.mark.parametrize(("body", "worst", "strict", "limit"), LIMITS)
def test_direction_strictness_and_limit_are_read(
    tmp_path: Path, body: str, worst: str, strict: bool, limit: float
) -> None:
    gate = read(tmp_path, body)
    assert isinstance(gate, Gate), gate
    assert (gate.worst, gate.strict, gate.limit(2.0)) == (worst, strict, limit)
    inside, outside = (limit + 0.1, limit - 0.1) if worst == "min" else (limit - 0.1, limit + 0.1)
    assert gate.passes(inside, 2.0) and not gate.passes(outside, 2.0)
    assert gate.passes(limit, 2.0) is not strict
    assert gate.how.startswith("test_x.py:")


UNREAD = [
    ("NOTHING = None\ndef test_a(m):\n    assert m <= REF * NOTHING.factor()", UnreadKind.UNCLEAR),
    (
        "def test_a(m):\n    for _ in range(3):\n        x = run()\n        if x >= REF:\n            break\n"
        "    else:\n        pytest.fail('no')",
        UnreadKind.UNCLEAR,
    ),
    ("def test_a(m):\n    match m:\n        case 1:\n            assert m <= REF", UnreadKind.UNCLEAR),
    (
        "def test_a(m):\n    try:\n        assert m <= REF\n    except AssertionError:\n        pass",
        UnreadKind.UNCLEAR,
    ),
    ("def test_a(m):\n    pass", UnreadKind.NOT_ASSERTED),
    ("def test_a(m):\n    print(REF)", UnreadKind.NOT_ASSERTED),
    ("def test_a(m):\n    if m <= REF:\n        pass", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    assert abs(m - REF) <= 0.1", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert m == pytest.approx(REF, rel=0.1)", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert math.isclose(m, REF)", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert m == REF", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert REF * 0.9 <= m <= REF * 1.1", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert m >= REF - 1\n    assert m <= REF + 1", UnreadKind.TWO_SIDED),
    ("def test_a(m):\n    assert (m - REF) ** 2 < 4", UnreadKind.TWO_SIDED),
    (
        "class A(unittest.TestCase):\n    def test_a(self):\n        self.assertAlmostEqual(run(), REF)",
        UnreadKind.TWO_SIDED,
    ),
    ("def test_a(m):\n    assert m <= REF * SLACK\n    assert m <= REF", UnreadKind.DISAGREE),
    ("def test_a(m):\n    assert m['x'] <= REF\ndef test_b(m):\n    assert m['y'] < REF", UnreadKind.DISAGREE),
    ("def test_a(m):\n    assert m <= REF or retry()", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    assert any(one >= REF for one in m)", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    assert m <= foreign.limit(REF)", UnreadKind.UNCLEAR),
    ("import torch\ndef test_a(m):\n    assert torch.tensor(m['x']).mean().item() <= REF", UnreadKind.UNCLEAR),
    (
        "def test_a(m):\n    d = {one['name']: {**one, 'v': one['v'] / 1000} for one in m['rows']}\n"
        "    assert d['x']['v'] <= REF",
        UnreadKind.UNCLEAR,
    ),
    ("def test_a(m):\n    assert m <= REF * float(os.environ.get('SLACK', '1.1'))", UnreadKind.UNCLEAR),
    ("def test_a(m, quick):\n    if quick:\n        return\n    assert m <= REF", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    if os.environ.get('CI'):\n        assert m <= REF", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    np.testing.assert_array_less(m, REF)", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    with pytest.raises(AssertionError):\n        assert m <= REF", UnreadKind.UNCLEAR),
    ("@pytest.mark.xfail\ndef test_a(m):\n    assert m <= REF", UnreadKind.UNCLEAR),
    ("@retried(3)\ndef test_a(m):\n    assert m <= REF", UnreadKind.UNCLEAR),
    ("def test_a(m, monkeypatch):\n    monkeypatch.setattr('test_x.REF', 3)\n    assert m >= REF", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    global REF\n    REF = 3.0\n    assert m >= REF", UnreadKind.NOT_ASSERTED),
    (
        "def setup_module():\n    global REF\n    REF = 3.0\ndef test_a(m):\n    assert m >= REF",
        UnreadKind.NOT_ASSERTED,
    ),
    (
        "def test_a(m):\n    try:\n        assert m <= REF\n    except Exception:\n"
        "        if os.environ.get('CI'):\n            raise",
        UnreadKind.UNCLEAR,
    ),
    ("def test_a(m):\n    assert sum(one > REF for one in m) <= 3", UnreadKind.UNCLEAR),
    ("def test_a(m):\n    assert m['ok'] / m['all'] * 100 >= REF", UnreadKind.UNCLEAR),
]


@pytest.mark.parametrize(("body", "kind"), UNREAD)
def test_what_is_not_understood_is_unread_with_the_reason(tmp_path: Path, body: str, kind: UnreadKind) -> None:
    found = read(tmp_path, body)
    assert isinstance(found, Unread), found
    assert found.kind is kind
    assert found.reason


NESTED = """
_P95 = {8: {"qps": 5.0, "latency": 0.3}, 4: {"qps": 3.0, "latency": 0.2}}
LIMITS = apply_slack(_P95)
def test_a(m, load):
    limits = LIMITS.get(load)
    if limits is None:
        pytest.fail("no limits")
    checks = Checks()
    checks.check(m["qps"] >= limits["qps_min"])
    checks.check(m["latency"] <= limits["latency_max"])
    checks.assert_all()
"""


def test_a_helpers_default_factors_and_rounding_are_read_for_each_key_of_a_nested_dict(tmp_path: Path) -> None:
    low = read(tmp_path, NESTED, source="_P95['qps']", level=8)
    high = read(tmp_path, NESTED, source="_P95['latency']", level=4)
    assert isinstance(low, Gate) and isinstance(high, Gate)
    assert (low.worst, low.limit(5.0), low.tests) == ("min", 4.38, ("test_a",))
    # Rounding after the factor takes the slack of a small reference away.
    assert (high.worst, high.limit(0.3), high.limit(0.2)) == ("max", 0.3, 0.2)


def test_a_variable_of_the_environment_that_is_given_is_known(tmp_path: Path) -> None:
    body = "def test_a(m):\n    assert m <= REF * float(os.environ.get('SLACK', '1.1'))"
    gate = read(tmp_path, body, env={"SLACK": "1.5"})
    assert isinstance(gate, Gate) and gate.limit(2.0) == 3.0
    subscript = read(tmp_path, body.replace(".get('SLACK', '1.1')", "['SLACK']"), env={"SLACK": "1.5"})
    assert isinstance(subscript, Gate) and subscript.limit(2.0) == 3.0


WRITTEN = """
def measured():
    return 0.75 + int(os.environ["K"]) / 100

@pytest.fixture
def found(tmp_path):
    found = {"summary": {"x": measured()}, "rows": [measured()]}
    (tmp_path / "r.json").write_text(json.dumps(found))
    return found
"""


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ("def test_a(found):\n    assert found['summary']['x'] >= REF / SLACK", 2.0 / 1.1),
        ("def test_a(found):\n    assert found['rows'][0] * SLACK >= REF", 2.0 / 1.1),
        ("def test_a(found):\n    percent = found['summary']['x'] * 100\n    assert percent >= REF", 0.02),
        ("def test_a(tmp_path):\n    x = 3 - measured()\n    save(tmp_path, x)\n    assert x >= REF", 2.0),
    ],
    ids=["slack on the limit", "slack on the measured side", "another unit", "written by a helper"],
)
def test_what_a_test_writes_as_json_is_the_measured_value_however_it_was_computed(
    tmp_path: Path, body: str, limit: float
) -> None:
    helper = "\ndef save(folder, x):\n    with open(folder / 'r.json', 'w') as out:\n        json.dump({'x': x}, out)\n"
    gate = read(tmp_path, f"import json\n{WRITTEN}{helper}{body}")

    assert isinstance(gate, Gate)
    assert gate.limit(2.0) == pytest.approx(limit)
    assert gate.passes(limit * 1.001, 2.0) and not gate.passes(limit * 0.999, 2.0)


OWN = """
class Limits:
    ACC = 2.0
BY_LOAD = {"a": {8: {"acc": 2.0}, 16: {"acc": 9.0}}}
class TestA:
    ACC = 2.0
    def test_own(self, m):
        assert m >= self.ACC
class TestB:
    def test_other(self, m):
        assert m >= Limits.ACC
def test_load(m, load):
    assert m >= BY_LOAD["a"][load]["acc"]
"""


@pytest.mark.parametrize(
    ("source", "level", "tests"),
    [
        ("TestA.ACC", None, ("TestA::test_own",)),
        ("Limits.ACC", None, ("TestB::test_other",)),
        ("BY_LOAD['a'][8]['acc']", None, ("test_load",)),
        ("BY_LOAD['a'][8]['acc']", 8, ("test_load",)),
    ],
)
def test_a_number_inside_something_is_asserted_by_the_tests_that_read_it_from_there(
    tmp_path: Path, source: str, level: int | None, tests: tuple[str, ...]
) -> None:
    gate = read(tmp_path, OWN, source=source, level=level)

    assert isinstance(gate, Gate) and gate.tests == tests and gate.limit(3.0) == 3.0


FILE = (
    "import json\nfrom pathlib import Path\n"
    "def test_a(tmp_path, folder):\n    path = tmp_path / 'run' / 'results.json'\n"
)  # fmt: skip
ASSERT = "data = json.loads(path.read_text())\n        assert data['x'] >= REF"


@pytest.mark.parametrize(
    "body",
    [
        f"    if path.is_file():\n        {ASSERT}",
        f"    if not path.exists():\n        return\n    if True:\n        {ASSERT}",
        f"    if os.path.isfile(path):\n        {ASSERT}",
        f"    if os.path.exists(path):\n        {ASSERT}",
        f"    path = Path(os.environ.get('OUT', 'out')) / 'r.json'\n    if path.is_file():\n        {ASSERT}",
        f"    path = tmp_path.joinpath('r.json')\n    if path.is_file():\n        {ASSERT}",
        "    if path.is_file():\n        with path.open() as stream:\n            assert json.load(stream)['x'] >= REF",
        "    if path.is_file():\n        with open(path) as stream:\n            assert json.load(stream)['x'] >= REF",
        f"    if os.environ.get('ROOT'):\n        top = Path(os.environ['ROOT'])\n    else:\n        top = folder\n"
        f"    path = top / 'r.json'\n    if path.is_file():\n        {ASSERT}",
    ],
)
def test_that_the_file_of_the_measured_value_is_there_is_no_condition(tmp_path: Path, body: str) -> None:
    found = read(tmp_path, FILE + body)

    assert isinstance(found, Gate), found
    assert (found.worst, found.limit(2.0)) == ("min", 2.0)


@pytest.mark.parametrize(
    "body",
    [
        f"    if (tmp_path / 'strict').is_file():\n        {ASSERT}",
        f"    if (tmp_path / 'run').is_dir():\n        {ASSERT}",
        f"    if not path.is_file():\n        {ASSERT}",
        f"    if os.path.exists('strict'):\n        {ASSERT}",
        f"    if Path('strict').exists():\n        {ASSERT}",
        f"    if folder.marker.exists():\n        {ASSERT.replace('path', 'folder.results')}",
        f"    other = tmp_path / 'run' / 'strict'\n    if path.is_file() and other.is_file():\n        {ASSERT}",
        f"    if path.is_file() and folder.strict:\n        {ASSERT}",
        f"    if path.exists(follow_symlinks=False):\n        {ASSERT}",
    ],
)
def test_that_any_other_file_is_there_is_a_condition_nobody_knows(tmp_path: Path, body: str) -> None:
    found = read(tmp_path, FILE + body)

    assert isinstance(found, Unread) and found.kind is UnreadKind.UNCLEAR, found


@pytest.mark.parametrize("mark", ["@pytest.mark.skip", "@pytest.mark.skip('later')", "@unittest.skip('later')"])
def test_a_test_that_is_skipped_asserts_nothing(tmp_path: Path, mark: str) -> None:
    found = read(tmp_path, f"{mark}\ndef test_a(m):\n    assert m >= REF\ndef test_b(m):\n    assert m >= REF * 2\n")

    assert isinstance(found, Gate) and found.tests == ("test_b",)


def test_a_number_without_a_name_is_asked_for_by_its_place(tmp_path: Path) -> None:
    body = "    assert m >= float(os.environ['K']) * 3.5\n    assert m >= 2 * 1.5\n"
    read(tmp_path, f"def test_a(m):\n{body}")
    reader = AssertionReader(tmp_path)
    tree = reader.files.tree("test_x.py")
    assert tree is not None
    nodes = {one.value: one for one in ast.walk(tree) if isinstance(one, ast.Constant)}

    assert isinstance(reader.gate_of("test_x.py", nodes[3.5]), Unread)
    gate = reader.gate_of("test_x.py", nodes[1.5])
    assert isinstance(gate, Gate) and gate.limit(3.5) == 7.0


@pytest.mark.parametrize(
    "body",
    [
        "import limits_a as lim\nL = lim\ndef test_a(m):\n    assert m >= L.LIM",
        "import limits_a\ndef test_a(m):\n    mine = limits_a\n    assert m >= mine.LIM",
        "from limits_a import Base\nclass TestA(Base):\n    pass",
        "pytest_plugins = ['limits_a']\ndef test_a(m, lim):\n    assert m >= lim",
        "from limits_a import *\ndef test_a(m):\n    assert m >= LIM",
    ],
    ids=["an alias of the module", "a local alias", "an inherited test", "a plugin's fixture", "a star"],
)
def test_a_constant_of_another_file_is_read_however_the_test_comes_to_it(tmp_path: Path, body: str) -> None:
    (tmp_path / "limits_a.py").write_text(
        "import pytest\nLIM = 2.0\nOTHER = 3.0\n@pytest.fixture\ndef lim():\n    return LIM\n"
        "class Base:\n    def test_a(self, m):\n        assert m >= LIM\n"
    )
    (tmp_path / "test_x.py").write_text(f"{body}\n")
    reader = AssertionReader(tmp_path)

    assert reader.reading_tests("test_x.py", "limits_a.py", "LIM").tests
    assert not reader.reading_tests("test_x.py", "limits_a.py", "OTHER").tests
    gate = reader.gate("test_x.py", "limits_a.py", "LIM", None)
    assert isinstance(gate, Gate) and gate.limit(2.0) == 2.0
