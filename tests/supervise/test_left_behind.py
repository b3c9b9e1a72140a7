"""What an attempt left behind, through the whole way: a real pytest writes what the real suites write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import loop
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

WRITE = '(folder / "result.json").write_text(json.dumps(found))'
HELD = "    held(k)\n"


def source(old: str, new: str) -> str:
    text = toy.toy_source()
    assert old in text
    return text.replace(old, new, 1)


def measured(tmp_path: Path, text: str, repeats: int = 2) -> tuple[Project, RunDir]:
    project = toy.make_toy(tmp_path / "repo", test_source=text)
    return project, toy.finished_run(project, repeats, toy.real_pytest)


def history(run: RunDir, repeat: int = 1) -> list[tuple[str, str]]:
    found = json.loads(run.observation("toy_speed", repeat).read_text())
    return [(one["verdict"], one["reason"]) for one in found["history"]]


@pytest.mark.rule("MET-07", "MET-02")
def test_a_result_file_with_what_nobody_tracks_is_measured_reported_and_planned(tmp_path: Path) -> None:
    fields = (
        'found["config"] = {"request_rate": float("inf")}',
        'found["speed"]["rtf_p99"] = float("nan")',
        'found["per_request"] = [{"latency_s": float("-inf")}] * 3',
        'found["texts"] = {"\\ud800": "\\udfff"}',
    )
    project, run = measured(tmp_path, source(WRITE, "; ".join((*fields, WRITE))))

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    assert len(toy.launches(project, 1)) == 1
    report(project, run.run_id)
    rows = {row.metric_key: row.worst_raw for row in apply_plan(project, run.run_id).rows}
    assert rows == toy.WORST


@pytest.mark.rule("HLT-01", "STR-06", "HLT-06")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            'found["speed"]["throughput_qps"] = float("nan")',
            "throughput_qps: toy0/result.json::speed.throughput_qps: not finite",
        ),
        ('found["speed"] = {"\\ud800throughput_qps": 1.0, **found["summary"]}', "(near: \\ud800throughput_qps"),
    ],
    ids=["NaN", "a surrogate key"],
)
def test_a_tracked_value_that_is_no_number_halts_and_is_the_only_problem(tmp_path: Path, change: str, why: str) -> None:
    project, run = measured(
        tmp_path, source(WRITE, f"kept = dict(found['speed']); {change}; {WRITE}; found['speed'] = kept")
    )

    now = status(project, run.run_id)
    assert (now.state, why in now.reason) == ("halted", True), toy.told(run)
    assert "accuracy: " not in now.reason
    now.text().encode()


@pytest.mark.rule("HLT-06")
@pytest.mark.parametrize(
    ("doubled", "state", "reason"),
    [
        ('{"a": 1, "a": 2, "summary"', "finished", ""),
        ('{"summary": {}, "summary"', "halted", "toy0/result.json::summary.accuracy: duplicate key 'summary'"),
    ],
)
def test_a_duplicate_key_of_a_result_file_halts_only_where_a_value_stands_below_it(
    tmp_path: Path, doubled: str, state: str, reason: str
) -> None:
    twice = f'(folder / "result.json").write_text(json.dumps(found).replace(\'{{"summary"\', {doubled!r}))'
    project, run = measured(tmp_path, source(WRITE, twice))

    now = status(project, run.run_id)
    assert now.state == state and reason in now.reason, toy.told(run)


@pytest.mark.rule("RTY-03", "XPY-05", "WDG-01")
@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("raise RuntimeError('managed worker 0 exited before becoming healthy (exit_code=1)')", "server did not start"),
        ("raise ConnectionError('nobody knows this line')", "a fixture failed before its test ran: tests/test_toy_ci"),
        ("pytest.fail('the service is gone')", "Failed: the service is gone"),
        ("import subprocess, sys; print('Not enough memory. Please try to increase --mem-fraction-static'); "
         "subprocess.run([sys.executable, '-c', 'raise SystemExit(1)'], check=True)", "not enough GPU memory"),
    ],
)  # fmt: skip
def test_a_start_that_failed_would_be_tried_again_and_is_named_by_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, why: str
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    _, run = measured(tmp_path, source(HELD, f"{HELD}    {failure}\n"), repeats=1)

    ((verdict, reason),) = history(run)
    assert (verdict, why in reason) == ("retried", True), reason


FIRST = """
    first = len((STATE / f"launched{k}").read_text().split()) == 1
    if first:
"""


@pytest.mark.rule("RTY-04", "XPY-05")
@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
def test_a_fixture_that_fails_after_a_preliminary_file_was_written_is_no_failed_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1 if always else 2)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    crash = FIRST.replace("if first:", "if True:") if always else FIRST
    project, run = measured(
        tmp_path, source(WRITE, f"{WRITE}\n{crash}        raise OSError('the device is gone')"), repeats=1
    )

    now = status(project, run.run_id)
    if always:
        assert (now.state, now.strict_ready) == ("exhausted", "0/2"), toy.told(run)
        assert all("OSError: the device is gone" in gap.reason for gap in now.missing)
    else:
        assert now.strict_complete and history(run)[1] == ("kept", "")
    assert history(run)[0][0] == "retried" and "OSError: the device is gone" in history(run)[0][1]
    assert "failed_assertion" not in str(history(run))


@pytest.mark.rule("RTY-01", "RTY-03")
@pytest.mark.parametrize(
    ("failure", "why"),
    [
        ("raise RuntimeError('warmup crashed')", "each in the setup of tests/test_toy_ci.py::test_accuracy: a fixture"),
        ("os.kill(os.getpid(), 9)", "by signal 9 (SIGKILL), which tune-mcp did not send, in the setup of tests/"),
    ],
)
def test_what_ends_alike_each_time_after_a_preliminary_file_is_launched_four_times_and_no_other_repeat(
    tmp_path: Path, failure: str, why: str
) -> None:
    project, run = measured(tmp_path, source(WRITE, f"{WRITE}\n    {failure}"))

    now = status(project, run.run_id)
    assert (now.state, why in now.reason) == ("halted", True), toy.told(run)
    assert [len(toy.launches(project, repeat)) for repeat in (1, 2)] == [4, 0]
    with toy.supervised_here():
        resume_run(project, run.run_id)
    assert strict_audit(project, run.run_id).ready, "the machine was fixed"


@pytest.mark.rule("HLT-01")
def test_a_file_in_another_place_than_config_says_halts_at_once_as_a_matter_of_configuration(tmp_path: Path) -> None:
    project, run = measured(tmp_path, source('(folder / "result.json")', '(folder / "results.json")'), repeats=1)

    now = status(project, run.run_id)
    assert now.state == "halted" and "near: toy0/results.json" in now.reason
    assert len(toy.launches(project, 1)) == 1
