"""A threshold that only assertions read is no part of the measurement; any other use is named with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tune_mcp.discover.measuring_uses import measuring_uses

OMNI = Path(__file__).parents[1] / "omni_repo"
UTILS = """
def apply_slack(p95, higher=0.875):
    limits = {}
    for concurrency, reference in p95.items():
        limits[concurrency] = {"qps_min": round(reference["qps"] * higher, 2)}
    return limits


def served(limit):
    open("limit.txt", "w").write(str(limit))
    return limit
"""
HARMLESS = {
    "assert": "def test_a(r):\n    assert r['acc'] >= LIMIT, f'{r} below {LIMIT}'",
    "slack": "def test_a(r):\n    assert r['acc'] >= round(LIMIT * 0.9, 2)",
    "unittest": "class T(TestCase):\n    def test_a(self):\n        self.assertGreaterEqual(acc(), LIMIT)",
    "collector": "def test_a(r):\n    checks.check(r >= LIMIT, f'{LIMIT}')",
    "helper": "def test_a(r):\n    assert_speed_thresholds(r, LIMIT, 8, collector=c)",
    "derived": "OTHER = apply_slack(LIMIT)\n\n\ndef test_a(r):\n    assert r >= OTHER[8]['qps_min']",
    "derived in place": "T = {8: {}}\nT[8]['m'] = min(T[8]['m'], LIMIT)\n\n\ndef test_a(r):\n    assert r <= T[8]['m']",
    "local": "def test_a(r):\n    floor = LIMIT * 0.9\n    bound = floor\n    assert r >= bound",
    "loop": "def test_a(r):\n    for name, limit in LIMIT.items():\n        assert r[name] >= limit",
    "all": "def test_a(r):\n    assert all(r[name] >= limit for name, limit in LIMIT.items())",
    "raise": "def test_a(r):\n    if r < LIMIT:\n        raise AssertionError(f'below {LIMIT}')",
    "collected": "def test_a(r):\n    if not r >= LIMIT:\n        failures.append('acc')",
    "approx": "def test_a(r):\n    assert r == pytest.approx(LIMIT, rel=0.1)",
    "message": "def test_a(r):\n    print('limit', LIMIT)\n    logger.info('limit %s', LIMIT)",
    "exported": "__all__ = ['LIMIT']",
    "field": "P = Preset(wer_max=LIMIT)\n\n\ndef test_a(r):\n    assert r <= P.wer_max\n\n\ndef go():\n    run(P)",
    "handed on": "def test_a(r):\n    measured(LIMIT, r=r)\n\n\ndef measured(limit, r):\n    assert r >= limit",
    "asked": "def good(r, limit):\n    return r >= limit\n\n\ndef test_a(r):\n    assert good(r, limit=LIMIT)",
    "another name": "def run():\n    measure(OTHER_LIMIT, 'LIMIT of it')",
}
MEASURING = {
    "argument": "def test_a():\n    assert measure(target=LIMIT) >= LIMIT",
    "fixture": "@pytest.fixture\ndef r():\n    return run(8, LIMIT)",
    "local argument": "def r():\n    target = LIMIT * 2\n    return run(target)",
    "derived argument": "RATE = LIMIT * 2\n\n\ndef r():\n    return run(RATE)",
    "written": "def r(tmp):\n    (tmp / 'x').write_text(json.dumps({'limit': LIMIT}))",
    "environment": "def r():\n    os.environ['LIMIT'] = str(LIMIT)",
    "condition": "def r():\n    if LIMIT > 3:\n        run(1)",
    "until good": "def r():\n    value = run()\n    while value < LIMIT:\n        value = run()\n    return value",
    "again": "def r():\n    value = run()\n    if value < LIMIT:\n        value = run()\n    return value",
    "returned": "def target():\n    return LIMIT",
    "decorator": "@pytest.mark.skipif(LIMIT > 3, reason='x')\ndef test_a():\n    pass",
    "parametrized": "@pytest.mark.parametrize('limit', [LIMIT])\ndef test_a(limit):\n    run(limit)",
    "attribute": "def r(server):\n    server.limit = LIMIT",
    "default": "def run(limit=LIMIT):\n    pass",
    "by its name": "def r():\n    run(getattr(config, 'LIMIT'))",
    "all names": "def r():\n    run(globals())",
    "field": "P = Preset(wer_max=LIMIT)\n\n\ndef r():\n    run(P.wer_max)",
    "impure": "OTHER = served(LIMIT)",
    "helper by name": "def check_speed(limit):\n    return run(limit)\n\n\ndef test_a():\n    check_speed(LIMIT)",
    "handed on": "def r():\n    measured(LIMIT)\n\n\ndef measured(limit):\n    run(rate=limit)",
    "starred": "def r():\n    served(*LIMIT)",
    "each": "def r():\n    return [run(limit) for limit in LIMIT.values()]",
    "method": "def r():\n    LIMIT.send()",
    "walrus": "def r():\n    run((n := LIMIT))",
    "lambda": "ready = lambda x: x > LIMIT\n\n\ndef r():\n    wait(ready)",
}


def uses(files: dict[str, str], symbol: str = "LIMIT", home: str = "tests/test_a.py") -> tuple[str, ...]:
    def find(word: str) -> dict[str, bytes]:
        held = re.compile(rf"\b{re.escape(word)}\b")
        return {path: text.encode() for path, text in files.items() if held.search(text)}

    return measuring_uses(symbol, home, find)


@pytest.mark.rule("RES-02")
@pytest.mark.parametrize("code", [*HARMLESS])
def test_what_only_assertions_read_is_no_part_of_the_measurement(code: str) -> None:
    assert uses({"tests/test_a.py": f"LIMIT = 0.5\n{HARMLESS[code]}\n", "tests/utils.py": UTILS}) == ()


@pytest.mark.rule("RES-02")
@pytest.mark.parametrize("code", [*MEASURING])
def test_any_other_use_is_named_with_its_place(code: str) -> None:
    found = uses({"tests/test_a.py": f"LIMIT = 0.5\n{MEASURING[code]}\n", "tests/utils.py": UTILS})

    assert found, MEASURING[code]
    assert all(re.match(r"tests/(test_a|utils)\.py:\d+ ", one) for one in found)


@pytest.mark.rule("RES-02")
def test_a_use_in_another_file_counts_too() -> None:
    home = "LIMIT = 0.5\n\n\ndef test_a(r):\n    assert r >= LIMIT\n"
    for text in (
        "from tests.test_a import LIMIT\nrun(LIMIT)",
        "from tests.test_a import LIMIT as goal\nrun(goal)",
        "from tests import test_a\nrun(test_a.LIMIT)",
    ):
        (found,) = uses({"tests/test_a.py": home, "bench/run.py": text})
        assert found.startswith("bench/run.py:2 passes ")
    assert uses({"tests/test_a.py": home, "tests/test_b.py": "LIMIT = 3\nrun(LIMIT)"}) == (), "its own constant"


@pytest.mark.rule("RES-02")
def test_no_threshold_of_the_real_suites_kind_is_taken_for_a_part_of_the_measurement() -> None:
    files = {str(path.relative_to(OMNI)): path.read_text() for path in OMNI.rglob("*.py")}
    named = {
        (path, match[1])
        for path, text in files.items()
        for match in re.finditer(r"^(\w+_(?:MAX|MIN|REFERENCE|P95))\b[^=\n]*= [\d{]", text, re.MULTILINE)
    }
    assert len(named) > 20
    assert {(path, name, *uses(files, name, path)) for path, name in named} == {(path, name) for path, name in named}
