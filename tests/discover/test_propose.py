"""Which value of one run is the one that a threshold bounds: what is not certain is never taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tune_mcp.config.metrics import load_metric_rules
from tune_mcp.config.model import ModelConfig
from tune_mcp.discover.assertions import AssertionReader
from tune_mcp.discover.propose import config_proposal, filled
from tune_mcp.discover.stages import discover

TEST = "tests/test_q.py"
HEAD = """import json
import random


def bench(value):
    return random.uniform(value, value + 1)


"""


def places(root: Path, code: str, left: Mapping[str, Any]) -> dict[str, str]:
    """Threshold -> the place of its value, as taken from ``left``: file below basetemp -> its document."""
    (root / "repo/tests").mkdir(parents=True)
    (root / "repo" / TEST).write_text(HEAD + code)
    for name, document in left.items():
        (root / "basetemp" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "basetemp" / name).write_text(json.dumps(document))
    rules = load_metric_rules()
    config = ModelConfig(name="m", test_globs=(TEST,))
    found = discover(config, rules.without_names(), root / "repo", None, datetime.now(UTC))
    proposal = config_proposal("m", None, found, rules, AssertionReader(root / "repo"))
    assert proposal.tests, proposal.problems
    (test,) = proposal.tests
    found = filled(test, root / "basetemp", (), {}).limits
    recorded = {name.partition("::")[2] for name in (limit.place for limit in found) if name.startswith("tune_record")}
    # A stage without a place reads what is recorded under its metric's name.
    assert not {limit.metric for limit in found if not limit.place} & (
        left.get("tune_record.json", {}).keys() - recorded
    )
    return {limit.source: limit.place for limit in found}


RECORDED_ELSEWHERE = """
P99_MAX = 20.0
def test_large():
    r = {"lat": bench(7.0)}
    assert r["lat"] <= P99_MAX
def test_warm_up(tune_record):
    r = {"lat": bench(1.0)}
    tune_record("NAME", r["lat"])
"""


@pytest.mark.parametrize("name", ["lat_warm", "p99", "lat"])
def test_what_another_test_records_is_not_the_value_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    code = RECORDED_ELSEWHERE.replace("NAME", name)

    assert places(tmp_path, code, {"tune_record.json": {name: 1.0}}) == {"P99_MAX": ""}


def test_tests_that_record_and_assert_a_variable_of_the_same_name_have_each_their_own(tmp_path: Path) -> None:
    code = "".join(
        f"{name}_MIN = 0.5\ndef test_{name}(tune_record):\n    v = bench(1.0)\n    tune_record('{name}', v)\n"
        f"    assert v >= {name}_MIN\n"
        for name in ("one", "two", "three")
    )

    found = places(tmp_path, code, {"tune_record.json": {"one": 1.0, "two": 1.0, "three": 1.0}})

    assert found == {f"{name}_MIN": f"tune_record.json::{name}" for name in ("one", "two", "three")}


@pytest.mark.parametrize(
    "between",
    [
        "v = bench(2.0)",
        "v, w = bench(2.0), 1",
        "for v in (bench(1.0),): pass",
        "del v; v = bench(3.0)",
    ],
)
def test_a_variable_that_is_bound_anew_before_the_assertion_is_not_what_was_recorded(
    tmp_path: Path, between: str
) -> None:
    code = f"LAT_MAX = 9.0\ndef test_a(tune_record):\n    v = bench(1.0)\n    tune_record('warm', v)\n    {between}\n"

    found = places(tmp_path, f"{code}    assert v <= LAT_MAX\n", {"tune_record.json": {"warm": 1.0}})

    assert found == {"LAT_MAX": ""}


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("r['lat']", True),
        ("r.get('lat')", True),
        ("round(r['lat'], 2)", True),
        ("abs(r['lat'])", True),
        ("bench(1.0)", False),
        ("client.measure()", False),
    ],
)
def test_an_expression_means_the_same_twice_only_where_nothing_is_measured_anew(
    tmp_path: Path, value: str, taken: bool
) -> None:
    code = (
        "LAT_MAX = 9.0\ndef test_a(tune_record, client):\n    r = {'lat': bench(1.0)}\n"
        f"    tune_record('rest', {value})\n    assert {value} <= LAT_MAX\n"
    )

    found = places(tmp_path, code, {"tune_record.json": {"rest": 1.0}})

    assert found == {"LAT_MAX": "tune_record.json::rest" if taken else ""}


TWO_TESTS = """
EN_WER_MAX = 0.2
ZH_WER_MAX = 0.2
def test_en(tmp_path):
    (tmp_path / "en.json").write_text(json.dumps(found := {"wer": bench(0.2)}))
    assert found["wer"] <= EN_WER_MAX
def test_zh(tmp_path):
    found = {"wer": bench(0.1)}
    assert found["wer"] <= ZH_WER_MAX
"""


@pytest.mark.parametrize("folder", ["test_en0", "test_en_a_0"])
def test_a_file_in_the_folder_of_another_test_is_not_where_the_value_is(tmp_path: Path, folder: str) -> None:
    found = places(tmp_path, TWO_TESTS, {f"{folder}/en.json": {"wer": 0.2}})

    assert found == {"EN_WER_MAX": f"{folder}/en.json::wer", "ZH_WER_MAX": ""}


def test_the_folder_of_a_test_is_told_from_that_of_one_with_a_longer_name(tmp_path: Path) -> None:
    code = TWO_TESTS.replace("test_zh", "test_en_hard").replace("found = {", "m = found = {")
    code += "    (tmp_path / name()).write_text(json.dumps(m))\n"

    found = places(tmp_path, code, {"test_en0/en.json": {"wer": 0.2}, "test_en_hard0/b.json": {"wer": 0.1}})

    assert found == {"EN_WER_MAX": "test_en0/en.json::wer", "ZH_WER_MAX": "test_en_hard0/b.json::wer"}


@pytest.mark.parametrize(
    ("written", "asserted", "document", "taken"),
    [
        ('{"acc": acc}', "acc", {"acc": 0.8}, "acc"),
        ('dict(acc=acc)', "acc", {"acc": 0.8}, "acc"),
        ('{"summary": {"acc": acc}}', "acc", {"summary": {"acc": 0.8}}, "summary.acc"),
        ('{"acc": bench(0.95)}', "acc", {"acc": 0.95}, ""),
        ('{"previous_run": {"acc": bench(0.95)}}', "acc", {"previous_run": {"acc": 0.95}}, ""),
        ("found", "found['acc']", {"acc": 0.8}, "acc"),
        ("found", "found['acc']", {"baseline": {"acc": 0.8}}, ""),
        ("found", "found['baseline']['acc']", {"baseline": {"acc": 0.8}}, "baseline.acc"),
    ],
)  # fmt: skip
def test_a_name_alone_is_no_proof_that_a_file_holds_what_is_asserted(
    tmp_path: Path, written: str, asserted: str, document: object, taken: str
) -> None:
    code = (
        "ACC_MIN = 0.7\ndef test_acc(tmp_path):\n    acc = bench(0.8)\n"
        "    found = {'acc': bench(0.8), 'baseline': {'acc': bench(0.8)}}\n"
        f"    (tmp_path / 'report.json').write_text(json.dumps({written}))\n    assert {asserted} >= ACC_MIN\n"
    )

    found = places(tmp_path, code, {"test_acc0/report.json": document})

    assert found == {"ACC_MIN": f"test_acc0/report.json::{taken}" if taken else ""}


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        ("c = 4\n    lat = {c: bench(1.0)}\n    tune_record('x', c)\n    assert lat[c] <= MAX", False),
        ("v = bench(1.0)\n    tune_record('x', MAX)\n    assert v <= MAX", False),
        ("v, s = bench(1.0), 1.1\n    tune_record('x', s)\n    assert v <= MAX * s", False),
        ("lat, r = bench(1.0), {'lat': bench(2.0)}\n    tune_record('x', lat)\n    assert r['lat'] <= MAX", False),
        ("v = bench(1.0)\n    tune_record('x', v * 1000)\n    assert v * 1000 <= MAX", True),
        ("v = bench(1.0)\n    tune_record('x', v)\n    assert v * 1000 <= MAX", True),
        ("tune_record('x', v := bench(1.0))\n    assert v <= MAX", True),
        ("v, w = bench(1), bench(2)\n    tune_record('x', v)\n    assert v <= MAX\n    assert w <= MAX", False),
        ("r = {'a': bench(1.0)}\n    tune_record('x', r['a'])\n    v = r['a']\n    assert v <= MAX", True),
        ("r = {'a': bench(1.0)}\n    tune_record('x', r['a'])\n    print(r)\n    assert r['a'] <= MAX", True),
        ("r = {'a': bench(1)}\n    tune_record('x', r['a'])\n    r.update(a=bench(2))\n    assert r['a'] < MAX", False),
        ("r = {'a': bench(1.0)}\n    tune_record('x', r['a'])\n    again(r)\n    assert r['a'] <= MAX", False),
        ("v = bench(1.0)\n    tune_record('x', v)\n    ok = lambda v: v <= MAX\n    assert ok(bench(2.0))", False),
        ("v = bench(1.0)\n    tune_record('x', v)\n    def ok(v):\n        assert v <= MAX\n    ok(bench(2))", False),
        ("r = {'a': bench(1)}\n    v = r['a']\n    again(r)\n    tune_record('x', r['a'])\n    assert v <= MAX", False),
        ("v = bench(1.0)\n    tune_record('x', v)\n    assert v / MAX <= 1.5", True),
        ("v = bench(1.0)\n    tune_record('x', v)\n    assert (v - MAX) / MAX <= 0.5", True),
        ("v = bench(1.0)\n    tune_record('x', MAX)\n    assert v / MAX <= 1.5", False),
        ("v, w = bench(1.0), bench(9.0)\n    tune_record('x', w)\n    assert v / MAX <= 1.5", False),
        ("w = bench(1.0)\n    tune_record('lat', w)\n    v = bench(2.0)\n    assert v <= MAX", False),
        ("v = bench(1.0)\n    tune_record('lat', v / 1000)\n    assert v <= MAX", False),
    ],
)  # fmt: skip
def test_only_the_value_that_is_compared_itself_is_the_recorded_one(tmp_path: Path, body: str, taken: bool) -> None:
    name = "lat" if "'lat', " in body else "x"
    again = "def again(r):\n    r['a'] = bench(3)\n"

    found = places(
        tmp_path, f"{again}MAX = 9.0\ndef test_a(tune_record):\n    {body}\n", {"tune_record.json": {name: 1.0}}
    )

    assert found == {"MAX": f"tune_record.json::{name}" if taken else ""}


@pytest.mark.parametrize(
    ("written", "document", "taken"),
    [
        ("m", {"acc": 0.8}, "acc"),
        ("{'metrics': m}", {"metrics": {"acc": 0.8}}, "metrics.acc"),
        ("{'args': {'acc': 0.9}, 'metrics': m}", {"args": {"acc": 0.9}}, ""),
        ("{'acc': warm['acc']}", {"acc": 0.9}, ""),
        ("warm", {"acc": 0.9}, ""),
        ("{'acc': ACC_MIN}", {"acc": 0.7}, ""),
        ("{'limits': {'acc': ACC_MIN}}", {"limits": {"acc": 0.7}}, ""),
    ],
)
def test_a_document_that_the_asserting_test_writes_of_something_else_does_not_hold_the_value(
    tmp_path: Path, written: str, document: object, taken: str
) -> None:
    code = (
        "ACC_MIN = 0.7\ndef test_acc(tmp_path):\n    m, warm = {'acc': bench(0.8)}, {'acc': bench(0.9)}\n"
        f"    (tmp_path / 'report.json').write_text(json.dumps({written}))\n    assert m['acc'] >= ACC_MIN\n"
    )

    found = places(tmp_path, code, {"test_acc0/report.json": document})

    assert found == {"ACC_MIN": f"test_acc0/report.json::{taken}" if taken else ""}


def test_one_file_that_a_loop_writes_for_each_asserted_value_holds_only_the_last(tmp_path: Path) -> None:
    code = (
        "ACC_MIN = 0.7\ndef test_acc(tmp_path):\n    for preset in ('a', 'b'):\n        acc = bench(0.8)\n"
        "        (tmp_path / 'r.json').write_text(json.dumps({'acc': acc}))\n        assert acc >= ACC_MIN\n"
    )

    assert places(tmp_path, code, {"test_acc0/r.json": {"acc": 0.8}}) == {"ACC_MIN": ""}


RUN = "def run(n):\n    return {'acc': bench(n), 'lat': bench(n)}\n\n\n"
SHAPES = {
    "the first of several runs is written, the last asserted": (
        "runs = [run(1), run(2)]\n    write('r.json', runs[0])\n    assert runs[-1]['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "the run that is asserted is written": (
        "runs = [run(1), run(2)]\n    write('r.json', runs[-1])\n    assert runs[1]['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "r.json::acc",
    ),
    "runs of a library": (
        "runs = [lib.run(n) for n in (1, 2)]\n    write('r.json', runs[0])\n    assert runs[1]['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "a fixture writes a warm-up file under the same key": (
        "out = run(2)\n    assert out['acc'] >= ACC_MIN",
        {"warm.json": {"acc": 1.0}},
        "",
    ),
    "a fixture writes a warm-up file beside the test's own": (
        "out = run(2)\n    write('r.json', out)\n    assert out['acc'] >= ACC_MIN",
        {"warm.json": {"acc": 1.0}, "r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "two files may be the one whose name is not in the code": (
        "out = run(2)\n    write(name(), out)\n    assert out['acc'] >= ACC_MIN",
        {"warm.json": {"acc": 1.0}, "r.json": {"acc": 0.9}},
        "",
    ),
    "one part is written, another asserted": (
        "out = lib.run()\n    write('r.json', out['warm'])\n    assert out['hot']['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "a part is written and asserted": (
        "out = lib.run()\n    write('r.json', out['hot'])\n    assert out['hot']['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "r.json::acc",
    ),
    "the warm part lies beside": (
        "out = lib.run()\n    write('r.json', out)\n    assert out['hot']['acc'] >= ACC_MIN",
        {"r.json": {"warm": {"acc": 1.0}, "hot": {"acc": 0.9}}},
        "r.json::hot.acc",
    ),
    "only the warm part was left by the run": (
        "out = lib.run()\n    write('r.json', out)\n    assert out['hot']['acc'] >= ACC_MIN",
        {"r.json": {"warm": {"acc": 1.0}}},
        "",
    ),
    "the file is written again with another run": (
        "out = run(1)\n    write('r.json', out)\n    write('r.json', run(2))\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "the mean is written and asserted": (
        "m = (run(1)['acc'] + run(2)['acc']) / 2\n    write('r.json', {'m': m})\n    assert m >= ACC_MIN",
        {"r.json": {"m": 1.0}},
        "r.json::m",
    ),
    "the written one was rounded": (
        "out = run(1)\n    write('r.json', {'acc': round(out['acc'], 1)})\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "the worst is asserted, each written": (
        "runs = lib.runs()\n    for r in runs:\n        write('r.json', r)\n"
        "    assert min(r['acc'] for r in runs) >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "the key means another thing in the file": (
        "out = run(1)\n    write('r.json', {'acc': out['lat'], 'lat': out['acc']})\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0, "lat": 0.9}},
        "r.json::lat",
    ),
    "it is changed between": (
        "out = lib.run()\n    write('r.json', out)\n    lib.normalise(out)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "it is only logged between": (
        "out = lib.run()\n    write('r.json', out)\n    print(out)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "r.json::acc",
    ),
    "it is only printed as JSON": (
        "out = run(1)\n    print(json.dumps(out))\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "a file is read": (
        "lib.run(tmp_path)\n    out = json.loads((tmp_path / 'r.json').read_text())\n    assert out['acc'] >= ACC_MIN",
        {"warm.json": {"acc": 1.0}, "r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "a file is read after each of two runs": (
        "a = json.loads((tmp_path / 'r.json').read_text())\n    lib.run()\n"
        "    b = json.loads((tmp_path / 'r.json').read_text())\n    assert a['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "a file of the repository is read": (
        "out = json.loads(open('tests/r.json').read())\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the output of a program is read": (
        "out = json.loads(lib.check_output())\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "a program returns what it may have written": (
        "out = lib.run(tmp_path)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "json.dump into a file that is open": (
        "out = run(1)\n    with open(tmp_path / 'r.json', 'w') as f:\n        json.dump(out, f)\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}, "warm.json": {"acc": 1.0}},
        "r.json::acc",
    ),
    "a name that is bound anew for the file": (
        "out = run(1)\n    kept = out\n    out = run(2)\n    write('r.json', kept)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the entry is replaced before it is written": (
        "out = run(1)\n    acc = out['acc']\n    out['acc'] = bench(3)\n    write('r.json', out)\n"
        "    assert acc >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the file is moved over": (
        "import os\n    out = run(1)\n    write('r.json', out)\n    write('s.json', run(2))\n"
        "    os.replace(tmp_path / 's.json', tmp_path / 'r.json')\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "code that is not followed gets the folder afterwards": (
        "out = run(1)\n    write('r.json', out)\n    lib.run(f'{tmp_path}/')\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "code that is not followed gets another file afterwards": (
        "out = run(1)\n    write('r.json', out)\n    lib.plot(tmp_path / 'a.png')\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "a file is read, then written by a program again": (
        "lib.run(tmp_path)\n    out = json.loads((tmp_path / 'r.json').read_text())\n    lib.run(tmp_path)\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the text is changed": (
        "out = run(1)\n    (tmp_path / 'r.json').write_text(json.dumps(out).replace('1', '2'))\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the text gets a line end": (
        "out = run(1)\n    (tmp_path / 'r.json').write_text(json.dumps(out) + '\\n')\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "the text is written as bytes": (
        "out = run(1)\n    (tmp_path / 'r.json').write_bytes(json.dumps(out).encode())\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "an attribute that measures anew": (
        "class R:\n        @property\n        def acc(self):\n            return bench(1)\n    r = R()\n"
        "    write('r.json', {'acc': r.acc})\n    assert r.acc >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "an object that is a dataclass": (
        "import dataclasses\n    @dataclasses.dataclass\n    class R:\n        acc: float\n    r = R(bench(1))\n"
        "    write('r.json', dataclasses.asdict(r))\n    assert r.acc >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "it is written outside of the folders of pytest": (
        "lib.run(tmp_path)\n    out = run(1)\n    lib.path(name()).write_text(json.dumps(out))\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "it is dumped outside of the folders of pytest": (
        "lib.run(tmp_path)\n    out = run(1)\n    with open('r.json', 'w') as f:\n        json.dump(out, f)\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "another run is written into the working folder, perhaps the same": (
        "monkeypatch.chdir(tmp_path)\n    out = run(1)\n    write('r.json', out)\n    with open('r.json', 'w') as f:\n"
        "        json.dump(run(2), f)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "a fixture writes the file again when the test is over": (
        "again.append(tmp_path)\n    out = run(1)\n    write('r.json', out)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the files of two folders have one name": (
        "a, b = run(1), run(2)\n    (tmp_path / 'a' / 'r.json').write_text(json.dumps(a))\n"
        "    (tmp_path / 'b' / 'r.json').write_text(json.dumps(b))\n    assert a['acc'] >= ACC_MIN",
        {"a/r.json": {"acc": 0.9}, "b/r.json": {"acc": 0.8}},
        "",
    ),
    "a number stands in for it where it fails": (
        "try:\n        out = run(1)\n    except ValueError:\n        write('r.json', {'acc': 0.0})\n        raise\n"
        "    write('r.json', out)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "it is changed between the assertion and the file": (
        "out = lib.run()\n    assert out['acc'] >= ACC_MIN\n    lib.normalise(out)\n    write('r.json', out)",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "it is changed after both": (
        "out = lib.run()\n    assert out['acc'] >= ACC_MIN\n    write('r.json', out)\n    lib.normalise(out)",
        {"r.json": {"acc": 1.0}},
        "r.json::acc",
    ),
    "an object that measures again": (
        "client = lib.client()\n    write('r.json', {'acc': client.acc})\n    client.run()\n"
        "    assert client.acc >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "an object through another that was made of it": (
        "client = lib.client()\n    runner = lib.runner(client)\n    write('r.json', {'acc': client.acc})\n"
        "    runner.run()\n    assert client.acc >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "a name of a library": (
        "lib.run()\n    write('r.json', {'acc': lib.state().acc})\n    lib.run()\n"
        "    assert lib.state().acc >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "one of two is written last": (
        "out, w = run(1), run(2)\n    write('r.json', out)\n    write('r.json', out if lib.slow() else w)\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "a key that only a run knows": (
        "out = run(1)\n    write('r.json', out)\n    write('r.json', {lib.key(): run(2)['acc']})\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 1.0}},
        "",
    ),
    "the file is read back": (
        "out = run(1)\n    write('r.json', out)\n    assert json.loads((tmp_path / 'r.json').read_text())\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "r.json::acc",
    ),
    "texts that a loop makes are written after it": (
        "texts = [json.dumps(r) for r in lib.runs()]\n    out = run(1)\n    texts.append(json.dumps(out))\n"
        "    for text in texts:\n        (tmp_path / 'r.json').write_text(text)\n    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "the text that a loop makes last": (
        "for r in lib.runs():\n        text = json.dumps(r)\n        (tmp_path / 'r.json').write_text(text)\n"
        "        assert r['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "a path made of text": (
        "lib.run(tmp_path)\n    with open(f'{tmp_path}/r.json') as f:\n        out = json.load(f)\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}, "warm.json": {"acc": 0.8}},
        "r.json::acc",
    ),
    "a path made by joining": (
        "import os\n    out = os.path.join(tmp_path, 'r.json')\n    lib.run(out)\n    out = json.load(open(out))\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}, "warm.json": {"acc": 0.8}},
        "r.json::acc",
    ),
    "a path as text": (
        "out = str(tmp_path.joinpath('r.json'))\n    lib.run(['--output', out])\n    out = json.load(open(out))\n"
        "    assert out['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}, "warm.json": {"acc": 0.8}},
        "r.json::acc",
    ),
    "a loop writes one file again and again": (
        "for r in lib.runs():\n        write('r.json', r)\n        assert r['acc'] >= ACC_MIN",
        {"r.json": {"acc": 0.9}},
        "",
    ),
    "a whole number is the key": (
        "runs = {0: run(1), 1: run(2)}\n    write('r.json', runs)\n    assert runs[1]['acc'] >= ACC_MIN",
        {"r.json": {"0": {"acc": 0.8}, "1": {"acc": 0.9}}},
        "r.json::1.acc",
    ),
}


@pytest.mark.rule("MOD-06")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_place_is_taken_only_where_the_code_shows_that_it_holds_the_compared_value(
    tmp_path: Path, shape: str
) -> None:
    body, left, taken = SHAPES[shape]
    code = f"import lib\n{RUN}def name():\n    return random.choice(['r.json', 'warm.json'])\nACC_MIN = 0.5\n"
    code += "import pytest\n@pytest.fixture\ndef again(tmp_path):\n    yield []\n"
    code += "    (tmp_path / 'r.json').write_text(json.dumps(run(9)))\n"
    asked = "".join(f", {one}" for one in ("again", "monkeypatch") if f"{one}." in body)
    code += f"def test_acc(tmp_path{asked}):\n    def write(file, document):\n"
    code += f"        (tmp_path / file).write_text(json.dumps(document))\n    {body}\n"

    found = places(tmp_path, code, {f"test_acc0/{name}": document for name, document in left.items()})

    assert found == {"ACC_MIN": f"test_acc0/{taken}" if taken else ""}
