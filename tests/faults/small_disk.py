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

from tune_mcp.calibration import listing, reporting, running, tailing, watching
from tune_mcp.errors import Refusal, unusable
from tune_mcp.run_dir import RunDir, list_runs
from tune_mcp.session import state


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

    now = watching.status(project, run.run_id)
    assert now.state == "failed" and "No space left on device" in now.reason and "free space" in now.reason, now.text()
    assert watching.strict_audit(project, run.run_id).audit_text.count("✓——") == 2
    toy.wait_for(lambda: not campaign.survivors(run), what="the end of every process")
    filled(folder)  # the room for the last words is free again
    for call in (lambda: running.start_run(project, toy.MODEL), lambda: running.resume_run(project, run.run_id)):
        said = refused(call)
        assert said.startswith("NOT_WRITABLE") and "free space" in said, said
    assert [found.run_id for found in list_runs(project.repo_root)] == [run.run_id], "nothing half made"

    mounted(folder, "remount", "size=2g")
    running.resume_run(project, run.run_id)
    now = toy.wait_until_rest(project, run.run_id)
    assert (now.state, now.strict_complete) == ("finished", True), toy.told(run)
    assert run.observation("toy_speed", 1).read_bytes() == first
    reporting.report(project, run.run_id)
    assert {row.metric_key: row.worst_raw for row in reporting.apply_plan(project, run.run_id).rows} == toy.WORST


def readonly(folder: Path) -> None:
    project = toy.make_toy(folder / "repo")
    run = toy.finished_run(project, 2)
    halted = toy.finished_run(project, 1, lambda job: toy.measured(job, summary={"evaluated": 0, "total_samples": 0}))
    before = content(run) | content(halted)
    fixed = running.PurgeItem(stage="toy_speed", repeat=1, reason="the samples are there now")
    mounted(folder, "remount", "ro")

    assert watching.status(project, run.run_id).strict_complete
    assert watching.strict_audit(project, run.run_id).ready
    assert tailing.tail_pytest(project, run.run_id).log_lines
    assert {found.state for found in listing.list_runs(project).runs} == {"finished", "halted"}
    for call in (
        lambda: running.stop_run(project, halted.run_id, "x"),
        lambda: running.resume_run(project, halted.run_id, [fixed]),
        lambda: reporting.report(project, run.run_id),
    ):
        said = refused(call)
        assert said.startswith("NOT_WRITABLE") and "mount it writable" in said, said
    assert content(run) | content(halted) == before
    mounted(folder, "remount", "rw")
    assert reporting.report(project, run.run_id).metrics == 3


if __name__ == "__main__":
    place = Path(sys.argv[2])
    mounted(place, "size=2g")
    {"full": full, "readonly": readonly}[sys.argv[1]](place)
