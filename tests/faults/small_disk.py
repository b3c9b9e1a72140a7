"""What happens on a full and on a read-only disk; started by test_disk.py in a mount namespace of its own.

``small_disk.py SCENARIO FOLDER``: a tmpfs is mounted on FOLDER, seen by this process and its children alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import campaign
import toy

from tune_mcp import run_dir
from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal, unusable
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.verbs.tail_pytest import tail_pytest


def mounted(folder: Path, *options: str) -> None:
    remount = ["-o", ",".join(options)]
    subprocess.run(["mount", "-t", "tmpfs", *remount, "tmpfs", str(folder)], check=True)


def filled(folder: Path) -> None:
    """Make the disk as small as what is on it."""
    facts = os.statvfs(folder)
    used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    mounted(folder, "remount", f"size={used}")
    left = os.statvfs(folder).f_bavail
    assert left == 0, left


def refused(call: Callable[[], object]) -> str:
    """What both faces answer: the refusal for a disk that cannot be written."""
    try:
        call()
    except OSError as error:
        refusal = unusable(error)
        assert refusal is not None, error
        return refusal.text()
    except Refusal as refusal:
        return refusal.text()
    raise AssertionError("it was not refused")


def content(run: RunDir) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}


def full(folder: Path) -> None:
    project = toy.make_toy(folder / "repo")
    run = toy.start_and_hold(project, 3, repeat=2)
    first = run.observation("toy_speed", 1).read_bytes()
    filled(folder)
    toy.let_go(project, 2)
    toy.wait_for(lambda: state.conclude(run).state.at_rest, limit_s=60, what="the end of the run")

    now = status(project, run.run_id)
    assert now.state == "failed" and "No space left on device" in now.reason and "free space" in now.reason, now.text()
    assert strict_audit(project, run.run_id).audit_text.count("✓——") == 2
    toy.wait_for(lambda: not campaign.survivors(run), what="the end of every process")
    filled(folder)  # the reserved space is free again
    for call in (lambda: start_run(project, toy.MODEL), lambda: resume_run(project, run.run_id)):
        said = refused(call)
        assert said.startswith("NOT_WRITABLE") and "free space" in said, said
    assert [found.run_id for found in run_dir.list_runs(project.repo_root)] == [run.run_id], "nothing half made"

    mounted(folder, "remount", "size=2g")
    resume_run(project, run.run_id)
    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    assert run.observation("toy_speed", 1).read_bytes() == first
    report(project, run.run_id)
    assert {row.metric_key: row.worst_raw for row in apply_plan(project, run.run_id).rows} == toy.WORST


def readonly(folder: Path) -> None:
    project = toy.make_toy(folder / "repo")
    run = toy.finished_run(project, 2)
    halted = toy.finished_run(project, 1, lambda job: toy.measured(job, summary={"evaluated": 0, "total_samples": 0}))
    before = content(run) | content(halted)
    fixed = PurgeItem(stage="toy_speed", repeat=1, reason="the samples are there now")
    mounted(folder, "remount", "ro")

    assert status(project, run.run_id).strict_complete
    assert strict_audit(project, run.run_id).ready
    assert tail_pytest(project, run.run_id).log_lines
    assert {found.state for found in list_runs(project).runs} == {"finished", "halted"}
    for call in (
        lambda: stop_run(project, halted.run_id, "x"),
        lambda: resume_run(project, halted.run_id, [fixed]),
        lambda: report(project, run.run_id),
    ):
        said = refused(call)
        assert said.startswith("NOT_WRITABLE") and "mount it writable" in said, said
    assert content(run) | content(halted) == before
    mounted(folder, "remount", "rw")
    assert report(project, run.run_id).metrics == 3


if __name__ == "__main__":
    place = Path(sys.argv[2])
    mounted(place, "size=2g")
    {"full": full, "readonly": readonly}[sys.argv[1]](place)
