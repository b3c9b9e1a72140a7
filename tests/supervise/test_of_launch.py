"""A result counts only if it is a new file of its own launch, and not an earlier one's numbers once more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import toy

from tune_mcp.errors import Json
from tune_mcp.observe import result_files
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

WRITE = '    (folder / "result.json").write_text(json.dumps(found))\n'
PRECISE = (
    '    found["speed"]["latency_mean_s"] += time.perf_counter_ns() % 10**9 / 1e11\n'
    '    found["speed"]["throughput_qps"] += time.perf_counter_ns() % 10**9 / 1e11\n'
)
BEFORE = '    import subprocess, sys\n    target = folder / "result.json"\n    text = json.dumps(found)\n'
FIRST = (
    f"{BEFORE}    first = STATE / 'first'\n"
    "    if k == 1:\n        target.write_text(text)\n        first.write_text(str(target))\n        return found\n"
    "    import shutil\n    old = Path(first.read_text()).resolve()\n"
)
DAEMON = """    target.write_text(text)
    loop = (
        "import os, sys\\nwhile True:\\n    open(sys.argv[1] + '.new', 'w').write(sys.argv[2])\\n"
        "    os.replace(sys.argv[1] + '.new', sys.argv[1])"
    )
    subprocess.Popen([sys.executable, "-c", loop, str(target), text], start_new_session=True)
"""
LINKED = (
    "    target.write_text(text)\n    base = tmp_path_factory.getbasetemp()\n"
    '    away = base.resolve().with_name("away")\n    base.rename(away)\n    base.symlink_to(away)\n'
)
WAYS = {
    "hard link": ("    os.link(old, target)\n    os.utime(target)\n", "hard link"),
    "copy with its time": ("    shutil.copy2(old, target)\n", "older than the launch"),
    "cached numbers, written anew": (
        "    target.write_text(json.dumps(json.loads(old.read_text()), indent=3, sort_keys=True))\n",
        "every number in it is that of repeat 1, attempt 1",
    ),
}
AT_ONCE = {
    "a daemon": (DAEMON, "after pytest's session had ended"),
    "a linked basetemp": (LINKED, "its folder is a link"),
}
"""What needs no earlier launch."""


@pytest.mark.rule("MET-01", "XPY-06")
@pytest.mark.parametrize("way", [*WAYS, *AT_ONCE])
def test_a_result_of_another_launch_is_no_observation(tmp_path: Path, way: str) -> None:
    code, why = (WAYS | AT_ONCE)[way]
    source = toy.toy_source()
    assert WRITE in source
    before = FIRST if way in WAYS else BEFORE
    project = toy.make_toy(tmp_path / "repo", test_source=source.replace(WRITE, PRECISE + before + code))

    run = toy.finished_run(project, 2 if way in WAYS else 1, toy.real_pytest)

    now = status(project, run.run_id)
    assert (now.state, why in now.reason) == ("halted", True), (now.reason, toy.told(run))
    assert f"toy_speed: {'✓✗' if way in WAYS else '✗'} (" in strict_audit(project, run.run_id).text()


@pytest.mark.rule("MET-01")
@pytest.mark.parametrize("change", ["", PRECISE], ids=["few round numbers that repeat", "precise numbers"])
def test_new_files_with_their_own_or_with_round_numbers_count(tmp_path: Path, change: str) -> None:
    same = toy.toy_source().replace("VALUES[(k - 1) % len(VALUES)]", "VALUES[0]").replace(WRITE, change + WRITE)

    run = toy.finished_run(project := toy.make_toy(tmp_path / "repo", test_source=same), 2, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)


@pytest.mark.parametrize(
    ("document", "proves"),
    [
        ({"a": 0.123456789, "b": 0.987654321}, True),
        ({"a": [0.123456789], "b": {"c": 17.25309}}, True),
        ({"a": 0.12345678901234567}, False),
        ({"a": 0.5, "b": 12.25, "c": 0.125, "d": 0.75, "e": 3.0}, False),
        ({"a": 0.123456789, "b": 0.123456789}, False),
        ({"a": 123456789, "b": "0.123456789"}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_numbers_prove_a_copy_only_where_chance_cannot_make_them_equal(document: Json, proves: bool) -> None:
    assert (result_files.signature(document) is not None) is proves


def test_the_order_of_keys_and_the_layout_change_no_signature_and_one_number_does() -> None:
    one: Json = {"a": 0.123456789, "b": [0.987654321, 2.5]}
    assert result_files.signature(one) == result_files.signature({"b": [2.5, 0.987654321], "a": 0.123456789})
    assert result_files.signature(one) != result_files.signature({"a": 0.123456788, "b": [0.987654321, 2.5]})


@pytest.mark.parametrize("moment", [1764470000.123456, 1764470000123.456])
def test_the_time_of_day_beside_cached_numbers_makes_them_no_new_ones(moment: float) -> None:
    cached = {"latency_s": 5.123456789, "p50": 1.23456}

    assert result_files.signature({**cached, "at": moment}) == result_files.signature(cached)
    assert result_files.signature({**cached, "elapsed_s": 12.3456}) != result_files.signature(cached)


def test_a_file_that_was_moved_here_from_before_is_known_by_its_birth(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps({}))
    born = result_files.birth_ns(old)
    assert born, "the file system of the tests tells when a file was made"
    base = tmp_path / "base"
    base.mkdir()
    old.rename(base / "r.json")
    os.utime(base / "r.json")
    changed = (base / "r.json").stat()

    found = result_files.strangers(base, ["r.json", "none.json", "../x"], born + 1, changed.st_ctime_ns + 1)

    assert found == {"r.json": "it is older than the launch"}
    ended = max(changed.st_ctime_ns, changed.st_mtime_ns)
    assert result_files.strangers(base, ["r.json"], born, ended) == {}
    for time, why in {1: "it is older than the launch", 9e9: "it was written after pytest's session had ended"}.items():
        os.utime(base / "r.json", (time, time))
        assert result_files.strangers(base, ["r.json"], born, ended + 10**10) == {"r.json": why}, "a time that was set"
