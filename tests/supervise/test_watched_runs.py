"""The watchdog at work: real pytests that crash, hang, are killed, or only look as if they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from tune_mcp.cli.watch import picture
from tune_mcp.observe.observation import Attempt, Stored, load
from tune_mcp.report import history
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.supervise import loop, pytest_session
from tune_mcp.supervise.job import JOB_FILE, AttemptResult, read_job, read_result
from tune_mcp.supervise.processes import Grace
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

ONCE = "flag = STATE / 'once'; first = not flag.exists(); flag.touch()"
"""In a toy's test: ``first`` is true in the first launch alone."""
OOM = "print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB')"


def watched(tmp_path: Path, *code: str, **signatures: object) -> Project:
    """A toy whose second test runs ``code`` first, with a ``signatures.yaml`` of its own."""
    body = "".join(f"    {line}\n" for line in code)
    source = toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n{body}")
    files = {".tune/models/toy/signatures.yaml": json.dumps(signatures)}
    return toy.make_toy(tmp_path / "repo", test_source=source, files=files)


def results(run: RunDir) -> list[AttemptResult]:
    jobs = sorted(run.path.glob(f"_pytest/test_toy_ci/attempts/*/{JOB_FILE}"))
    found = [read_result(read_job(job)) for job in jobs]
    assert None not in found, toy.told(run)
    return [one for one in found if one is not None]


def attempts(run: RunDir) -> tuple[Attempt, ...]:
    stored = load(run, "toy_speed", 1)
    assert isinstance(stored, Stored) and stored.content is not None, toy.told(run)
    return stored.content.history


def told(run: RunDir, kind: str) -> list[str]:
    return [event.text for event in events.read(run.events) if event.kind == kind]


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)


@pytest.mark.rule("WDG-01", "RTY-03", "POL-12")
def test_a_crash_is_stopped_by_an_interrupt_told_and_the_repeat_tried_again(tmp_path: Path) -> None:
    project = watched(tmp_path, ONCE, f"first and ({OOM}, time.sleep(600))")

    run = toy.finished_run(project, 1, toy.real_pytest)

    crashed, whole = results(run)
    assert (crashed.stopped_by, crashed.stopped_for, crashed.signals) == ("watchdog", "CUDA out of memory", ("SIGINT",))
    assert (whole.stopped_by, whole.signals, whole.pytest_rc) == ("", (), 0)
    assert [(one.verdict, "stopped by the watchdog" in one.reason) for one in attempts(run)] == [
        ("retried", True),
        ("kept", False),
    ]
    (alert,) = told(run, "alert")
    assert alert.startswith("test_toy_ci run 1 attempt 1: CUDA out of memory: ") and "To do: look for another" in alert
    assert "stopped by the watchdog: CUDA out of memory" in told(run, "retry")[0]
    assert strict_audit(project, run.run_id).ready
    assert [one.kind for one in history.incidents(run)] == ["alert", "retry"]


@pytest.mark.rule("WDG-01")
@pytest.mark.usefixtures("one_try")
def test_a_worker_that_dies_is_seen_although_pytest_goes_on_polling(tmp_path: Path) -> None:
    worker = (
        "import json, os, signal, sys, time\n"
        "while sum(json.load(open(sys.argv[1]))['processes'].values()) < 2: time.sleep(0.02)\n"
        "print('Fatal Python error: Segmentation fault', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
    )
    watch = "os.path.join(os.path.dirname(os.environ['TUNE_GUARD_RECORD']), 'watch.json')"
    project = watched(
        tmp_path,
        "import subprocess, sys",
        f"worker = subprocess.Popen([sys.executable, '-c', {worker!r}, {watch}])",
        "end = time.monotonic() + 60",
        "while time.monotonic() < end: worker.poll(), print('waiting', flush=True), time.sleep(0.01)",
        no_progress={"alert_after_s": 2.0, "stop_after_s": 60.0},  # a fifth of it is the time between two looks
    )

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert "process ended" in results(run)[0].stop_reason
    assert [one.verdict for one in attempts(run)] == ["retried"]


@pytest.mark.rule("WDG-01", "XPY-05", "RTY-04")
def test_a_healthy_pytest_lives_whatever_its_log_says_and_a_failed_threshold_is_kept(tmp_path: Path) -> None:
    lines = [
        "Connection refused", "Address already in use", "AssertionError: server worker router health",
        "CUDA out of memory", "TimeoutExpired", "E   torch.OutOfMemoryError: CUDA out of memory",
    ]  # fmt: skip
    wait = "end = time.monotonic() + 1.5"
    project = watched(tmp_path, *(f"print({line!r})" for line in lines), wait, "while time.monotonic() < end: pass")
    toy.steer(project, 1, speed={"throughput_qps": 0.1})

    run = toy.finished_run(project, 1, toy.real_pytest)

    (only,) = results(run)
    assert (only.pytest_rc, only.stopped_by) == (1, "")
    assert [(one.verdict, one.reason[:16]) for one in attempts(run)] == [("kept", "failed_assertion")]
    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("WDG-01", "XPY-05")
@pytest.mark.usefixtures("one_try")
def test_a_pytest_that_stands_still_is_told_then_stopped_to_be_tried_again(tmp_path: Path) -> None:
    project = watched(tmp_path, "time.sleep(600)", no_progress={"alert_after_s": 0.5, "stop_after_s": 1.5})

    run = toy.finished_run(project, 1, toy.real_pytest)

    (only,) = results(run)
    assert only.stopped_for == "no progress"
    assert told(run, "alert")[0].startswith("test_toy_ci run 1 attempt 1: no progress: no log line")
    assert [one.verdict for one in attempts(run)] == ["retried"]


@pytest.mark.rule("WDG-02", "WDG-11", "STR-15")
@pytest.mark.usefixtures("warm")
def test_an_open_alert_is_shown_by_status_and_watch_and_its_end_is_told(tmp_path: Path) -> None:
    project = watched(tmp_path, startup={"after_s": 0.2})
    run = toy.start_and_hold(project, 1)

    toy.wait_for(lambda: status(project, run.run_id).alerts, what="the alert")
    now = status(project, run.run_id)
    toy.let_go(project, 1)
    toy.wait_until_rest(project, run.run_id)

    (alert,) = now.alerts
    assert alert.startswith("slow start: ") and "no cause is known; last line: " in alert
    assert now.processes == {"pytest": 1}
    assert "ALERT: slow start" in now.text() and "processes: 1 pytest" in now.text()
    assert "slow start" in str([part.plain for part in picture(now).renderable.renderables if hasattr(part, "plain")])
    assert status(project, run.run_id).alerts == ()
    assert "up after" in told(run, "alert_over")[0]
    (record,) = run.path.glob("_pytest/*/attempts/*/watch.json")
    assert [one["name"] for one in json.loads(record.read_text())["alerts"]] == ["slow start"]


@pytest.mark.rule("XPY-05")
@pytest.mark.usefixtures("one_try")
def test_a_signal_that_we_did_not_send_is_told_as_one_from_outside(tmp_path: Path) -> None:
    project = watched(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)")

    run = toy.finished_run(project, 1, toy.real_pytest)

    (only,) = results(run)
    assert (only.stopped_by, only.signals) == ("", ())
    reason = status(project, run.run_id).missing[0].reason
    assert "killed from outside" in reason and "(SIGTERM), which tune-mcp did not send" in reason


@pytest.mark.rule("XPY-05")
def test_an_interrupt_that_we_did_not_send_halts_and_says_so(tmp_path: Path) -> None:
    """pytest survives it and ends its session, so it may as well be the test file's own doing."""
    project = watched(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(600)")

    run = toy.finished_run(project, 1, toy.real_pytest)

    now = status(project, run.run_id)
    assert now.state == "halted" and "interrupted from outside or by the test itself, not by tune-mcp" in now.reason
    assert "✓" not in strict_audit(project, run.run_id).text()


QUICKLY = {"exit_after_s": 0.5}
LINGERING = {
    "exit handler": ["import atexit", "atexit.register(time.sleep, 600)"],
    "ignores everything": [
        "import signal, threading",
        "[signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)]",
        "threading.Thread(target=time.sleep, args=(600,), name='poller').start()",
    ],
    "child": [
        "import atexit, subprocess, sys",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "atexit.register(child.wait)",
    ],
}


@pytest.mark.rule("XPY-05", "MET-02")
@pytest.mark.parametrize("how", list(LINGERING))
def test_a_pytest_that_does_not_exit_after_its_session_is_stopped_and_its_numbers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(pytest_session, "AFTER_THE_SESSION", Grace(interrupt_s=0.5, terminate_s=0.5))
    project = watched(tmp_path, *LINGERING[how], no_progress=QUICKLY)

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    (only,) = results(run)
    assert (only.stopped_by, only.guard.exitstatus) == ("exit", 0)
    (kept,) = attempts(run)
    assert kept.verdict == "kept"
    assert "did not exit by itself within 0.5 s of its session's end" in kept.reason
    assert ("thread poller" in kept.reason) == (how == "ignores everything")
    assert ("1 process, " in kept.reason) == (how == "child")
    assert ("an exit handler?" in kept.reason) == (how == "exit handler")
    assert told(run, "retry") == []
    assert len(toy.launches(project, 1)) == 1


PATIENTLY = {"exit_after_s": 1.5}
TEARDOWN = "@pytest.fixture(autouse=True, scope='session')\ndef server():\n    yield\n    time.sleep(2)\n"
UNCONFIGURE = "@pytest.hookimpl(trylast=True)\ndef pytest_unconfigure():\n    time.sleep(2)\n"


@pytest.mark.rule("XPY-05", "RTY-04")
@pytest.mark.parametrize("slow", [TEARDOWN, UNCONFIGURE], ids=["teardown", "unconfigure"])
def test_a_teardown_and_the_hooks_of_other_plugins_may_take_longer_than_the_grace(tmp_path: Path, slow: str) -> None:
    conftest = f"import time\nimport pytest\n{slow}"
    files = {"conftest.py": conftest, ".tune/models/toy/signatures.yaml": json.dumps({"no_progress": PATIENTLY})}
    project = toy.make_toy(tmp_path / "repo", files=files)
    toy.steer(project, 1, speed={"throughput_qps": 0.1})

    run = toy.finished_run(project, 1, toy.real_pytest)

    (only,) = results(run)
    assert (only.pytest_rc, only.stopped_by, only.signals) == (1, "", ())
    assert [(one.verdict, one.reason[:16]) for one in attempts(run)] == [("kept", "failed_assertion")]


@pytest.mark.rule("RTY-04")
def test_a_fork_that_ends_the_session_in_its_own_process_starts_no_grace(tmp_path: Path) -> None:
    """A child that runs through pytest's end writes the guard's line too, long before its parent is done."""
    fork = ["pid = os.fork()", "(pid == 0) and sys.exit(0)", "os.waitpid(pid, 0)", "time.sleep(2)"]
    project = watched(tmp_path, "import sys", *fork, no_progress=PATIENTLY)

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert {one.stopped_by for one in results(run)} == {""}
