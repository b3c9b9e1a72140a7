"""Bugs of the older script that no other test looks for; tests/rules/older_bugs.yaml has them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.session.state import recording
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import status

SLOW_TO_END = """import pathlib, signal, sys, time
begin, out = float(sys.argv[1]), pathlib.Path(sys.argv[2])
def end(*_):
    now = time.monotonic()
    until = now + (now - begin)  # as long again as pytest took
    while time.monotonic() < until:
        time.sleep(0.01)
    out.write_text(str(time.monotonic() - begin))
    sys.exit()
signal.signal(signal.SIGTERM, end)
out.with_suffix(".up").touch()
while True:
    signal.pause()
"""


def test_the_time_of_an_attempt_is_that_of_pytest_alone(tmp_path: Path) -> None:
    """Bug 21: what is left behind takes as long to end as pytest took, and is not counted."""
    server, out = tmp_path / "server.py", tmp_path / "ended"
    server.write_text(SLOW_TO_END)
    start = (
        "    import subprocess, sys\n"
        "    begin = int(open('/proc/self/stat').read().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')\n"
        f"    subprocess.Popen([sys.executable, '-S', {str(server)!r}, str(begin), {str(out)!r}])\n"
        "    end = time.monotonic() + 30\n"
        f"    while not os.path.exists({str(out.with_suffix('.up'))!r}) and time.monotonic() < end:\n"
        "        time.sleep(0.01)\n"
    )
    source = toy.toy_source().replace("def held(k):\n", f"def held(k):\n{start}")
    results: list[AttemptResult | None] = []

    def attempt(job: Job) -> AttemptResult | None:
        results.append(toy.real_pytest(job))
        return results[-1]

    run = toy.finished_run(toy.make_toy(tmp_path / "repo", test_source=source), 1, attempt)

    (result,) = results
    assert result is not None and len(result.leftovers) == 1, toy.told(run)
    assert 0 < result.duration_s < float(out.read_text())


@pytest.mark.parametrize("how", ["none seen", "damaged", "unknown"])
def test_status_answers_on_a_machine_whose_gpus_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Bug 22: the GPUs are unknown and that is reported; all else is answered."""
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 1)
    if how == "unknown":
        unknown = GpuReading(Presence.UNKNOWN, reason="NVML hangs")
        recording(run, lambda: unknown)()
    elif how == "damaged":
        run.gpus.write_bytes(b'{"reading": ')
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi

    now = status(project, run.run_id)

    assert (now.state, now.strict_complete, now.gpus, now.gpus_known) == ("finished", True, (), False)
    assert "NVML hangs" in now.text() or how != "unknown"


def test_a_refused_resume_writes_nothing_and_a_resume_only_appends(tmp_path: Path) -> None:
    """Bug 25: run.log was truncated and precheck.json overwritten, even by a run that was refused."""
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 2, lambda job: toy.measured(job, summary={"evaluated": 0, "total_samples": 0}))
    assert status(project, run.run_id).state == "halted"
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    toy.commit(project)

    with pytest.raises(Refusal, match="COMMIT_MOVED"):
        resume_run(project, run.run_id)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before

    toy.git(project.repo_root, "reset", "-q", "--soft", "HEAD~1")
    fixed = PurgeItem(stage="toy_speed", repeat=1, reason="the samples are there now")
    with toy.supervised_here():
        resume_run(project, run.run_id, [fixed])
    assert status(project, run.run_id).strict_complete, toy.told(run)
    for path in (run.run_log, run.events):
        assert path.read_bytes().startswith(before[path]) and len(path.read_bytes()) > len(before[path])
