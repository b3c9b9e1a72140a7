"""One attempt with a real runner: what it measures is of this attempt, this commit and these files, or it says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import one_job
import psutil
import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.supervise import loop
from tune_mcp.supervise.job import JOB_FILE, RESULT_FILE, AttemptResult, Job, read_result
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

HEAD = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "--allow-empty", "-m", "moved"]


def during(code: str) -> str:
    """The toy's test with a statement that runs in its second test."""
    return toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n    {code}\n")


def only_result(run: RunDir) -> AttemptResult:
    (result,) = run.path.rglob(f"run*_a*/{RESULT_FILE}")
    return AttemptResult.model_validate_json(result.read_bytes())


@pytest.mark.rule("SES-11", "SES-03", "SES-09")
def test_a_commit_made_while_pytest_ran_halts_the_run_and_resume_is_refused(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    source = during(f"import subprocess; subprocess.run({HEAD!r}, cwd={str(repo)!r}, check=True)")
    project = toy.make_toy(repo, test_source=source)

    run = toy.finished_run(project, 2, toy.real_pytest)

    now = status(project, run.run_id)
    assert now.state == "halted", toy.told(run)
    halt = state.conclude(run).record.halt
    assert halt is not None and (halt.code, halt.repeat) == ("COMMIT_MOVED", 1)
    assert "✓" not in strict_audit(project, run.run_id).text()
    with pytest.raises(Refusal, match="COMMIT_MOVED"):
        resume_run(project, run.run_id)


@pytest.mark.rule("SES-11", "SMP-08")
def test_a_test_file_that_changed_while_pytest_ran_halts_the_run(tmp_path: Path) -> None:
    source = during("open(__file__, 'a').write('# changed')")
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    run = toy.finished_run(project, 2, toy.real_pytest)

    now = status(project, run.run_id)
    assert (now.state, "tests/test_toy_ci.py is not the file that was planned" in now.reason) == ("halted", True)
    assert "✓" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("SES-11", "HLT-02")
@pytest.mark.parametrize("move", ["os.rename('.git', '.git-aside')", "open('.git/HEAD', 'w').write('?')"])
def test_a_repository_that_is_gone_after_a_launch_halts_at_once(tmp_path: Path, move: str) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=during(move))

    run = toy.finished_run(project, 2, toy.real_pytest)

    now = status(project, run.run_id)
    assert (now.state, "has no commit to calibrate" in now.reason) == ("halted", True), now.reason
    assert len(toy.launches(project, 1)) == 1
    assert "✓" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("SES-11")
def test_a_file_that_changed_before_the_launch_starts_no_pytest(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    def attempt(job: Job) -> AttemptResult | None:
        (project.repo_root / toy.TEST_FILE).write_text("# gone\n")
        return toy.real_pytest(job)

    run = toy.finished_run(project, 1, attempt)

    assert status(project, run.run_id).state == "halted"
    assert (only_result(run).pytest_rc, toy.launches(project, 1)) == (None, ())


@pytest.mark.rule("MET-01", "STR-22")
def test_the_results_of_an_older_attempt_are_never_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older script read an old basetemp when its pytest never ran, and recorded it as ok."""
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    source = toy.toy_source().replace(
        "import pytest\n", 'import pytest\nif "TUNE_GUARD_RECORD" in os.environ:\n    os._exit(0)\n', 1
    )
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    def attempt(job: Job) -> AttemptResult | None:
        toy.measured(job)  # a whole log, result file and guard record lie where this attempt will write
        return toy.real_pytest(job)

    run = toy.finished_run(project, 1, attempt)

    found = only_result(run)
    assert (found.guard.finished, found.stages["toy_speed"].metrics["throughput_qps"]) == (False, None)
    assert "✓" not in strict_audit(project, run.run_id).text()


@pytest.mark.rule("MET-02", "GPU-17")
def test_an_attempt_is_sealed_with_the_facts_of_its_pytest(tmp_path: Path) -> None:
    project = toy.make_toy(
        tmp_path / "repo",
        test_source=during("print('accuracy: 0.99'); print(os.environ['CUDA_VISIBLE_DEVICES'] or 'no gpu')"),
    )

    run = toy.finished_run(project, 1, toy.real_pytest)

    found = only_result(run)
    assert (found.pytest_rc, found.stopped_by, found.blocked, found.moved) == (0, "", None, "")
    assert found.stages["toy_accuracy"].metrics == {"accuracy": toy.VALUES[0][0]}, "never from standard output"
    assert set(found.evidence_sha256) == {"toy0/result.json"}
    assert found.duration_s > 0 and found.log_sha256
    assert "no gpu" in run.log("test_toy_ci", 1).read_text()


@pytest.mark.rule("MET-02", "HLT-06")
def test_a_test_that_prints_its_numbers_and_leaves_no_file_has_measured_nothing(tmp_path: Path) -> None:
    written = '(folder / "result.json").write_text(json.dumps(found))'
    source = toy.toy_source().replace(written, 'print("\\n" + json.dumps(found), flush=True)')
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert '{"summary": {"accuracy": 0.75' in run.log("test_toy_ci", 1).read_text()
    found = only_result(run)
    assert (found.pytest_rc, found.stages["toy_accuracy"].metrics) == (0, {"accuracy": None})
    assert "toy0/result.json::summary.accuracy: file missing" in found.stages["toy_accuracy"].problems[0]
    assert status(project, run.run_id).state == "halted"


def test_a_sealed_attempt_is_never_run_again(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    def twice(job: Job) -> AttemptResult | None:
        first = toy.real_pytest(job)
        assert toy.real_pytest(job) == first
        return first

    toy.finished_run(project, 1, twice)

    assert len(toy.launches(project, 1)) == 1


@pytest.mark.rule("WDG-01", "XPY-05")
def test_a_pytest_that_hangs_is_ended_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    config = toy.CONFIG | {"timeout_s": {"test_toy_ci.py": 1.5}}
    project = toy.make_toy(tmp_path / "repo", config=config, test_source=during("time.sleep(600)"))

    run = toy.finished_run(project, 1, toy.real_pytest)

    found = only_result(run)
    assert (found.stopped_by, found.duration_s >= 1.5) == ("timeout", True)
    assert "wall-clock limit" in status(project, run.run_id).missing[0].reason


@pytest.mark.rule("GPU-20", "GPU-16", "GPU-05", "GPU-18")
@pytest.mark.parametrize("how", ["new session", "double fork"])
def test_what_pytest_leaves_behind_is_ended_and_named_and_a_stranger_is_not(tmp_path: Path, how: str) -> None:
    pids = tmp_path / "pids"
    server = f"import os, time; open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); time.sleep(600)"
    start = f"subprocess.Popen([sys.executable, '-c', {server!r}], start_new_session=True)"
    if how == "double fork":
        inner = f"import subprocess, sys; {start}"
        start = f"subprocess.run([sys.executable, '-c', {inner!r}])"
    wait = f"end = time.monotonic() + 30\n    while not os.path.exists({str(pids)!r}) and time.monotonic() < end: pass"
    project = toy.make_toy(tmp_path / "repo", test_source=during(f"import subprocess, sys; {start}\n    {wait}"))
    decoy = subprocess.Popen([sys.executable, "-c", server.replace(str(pids), str(tmp_path / "decoy"))])

    run = toy.finished_run(project, 1, toy.real_pytest)

    (pid,) = (int(line) for line in pids.read_text().split())
    assert not psutil.pid_exists(pid), toy.told(run)
    assert [str(pid) in line for line in only_result(run).leftovers] == [True]
    assert decoy.poll() is None, "a foreign process with the same command line lives on"
    decoy.kill()
    decoy.wait()
    assert strict_audit(project, run.run_id).ready


def run_alone(project: Project) -> tuple[subprocess.Popen[bytes], Job]:
    """A runner whose pytest is held in its fixture, started by this test alone."""
    jobs: list[Job] = []
    toy.finished_run(project, 1, lambda job: jobs.append(job) or toy.measured(job))
    (job,) = jobs
    (job.folder / RESULT_FILE).unlink()
    toy.hold(project, 1)
    runner = subprocess.Popen(
        [sys.executable, one_job.__file__, str(job.folder / JOB_FILE)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    toy.wait_for(lambda: toy.launches(project, 1), what="pytest")
    return runner, job


@pytest.mark.rule("GPU-20", "SUP-13")
@pytest.mark.parametrize("end", ["its supervisor dies", "SIGTERM"])
def test_a_runner_that_is_to_end_stops_its_pytest_and_leaves_no_result(tmp_path: Path, end: str) -> None:
    project = toy.make_toy(tmp_path / "repo")
    runner, job = run_alone(project)
    (pid,) = toy.launches(project, 1)

    assert runner.stdin
    if end == "SIGTERM":
        runner.send_signal(signal.SIGTERM)
    else:
        runner.stdin.close()

    assert runner.wait(timeout=30) == 1
    assert not psutil.pid_exists(pid)
    assert read_result(job) is None
    assert "KeyboardInterrupt" in job.run.log("test_toy_ci", 1).read_text(), (
        "asked first, so that fixtures are torn down"
    )


def test_an_ignored_interrupt_of_the_caller_does_not_reach_pytest(tmp_path: Path) -> None:
    """``cmd &`` from a shell ignores SIGINT; pytest must be interruptible all the same."""
    project = toy.make_toy(tmp_path / "repo")
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        runner, _ = run_alone(project)
    finally:
        signal.signal(signal.SIGINT, old)
    (pid,) = toy.launches(project, 1)

    os.kill(pid, signal.SIGINT)

    toy.wait_for(lambda: runner.poll() is not None, what="the end of pytest")
    assert runner.stdin and runner.returncode == 0
    runner.stdin.close()
