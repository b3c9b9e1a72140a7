"""What a run through Slurm says: the same as a run on one machine, and on which hosts it was measured.

The toy, whose values are fixed: the demo measures real latencies, which no two runs share.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy
from calibrations import finished, make
from cluster import NODES, Cluster

from tune_mcp.run_dir import RunDir
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.strict_audit import strict_audit

ACCURACY, SPEED = toy.STAGES
OF_HOST_AND_TIME = frozenset({
    "artifacts", "artifacts_digest", "checks", "duration_s", "durations_s", "ended_at", "environment",
    "environment_note", "finished_at", "foreign_cores", "generated_at", "gpu_summary", "gpus", "host", "incidents",
    "lane", "log_sha256", "plan_id", "run_dir", "run_id", "started_at",
})  # fmt: skip
"""Keys of report.json. Checks are the site's; incidents are other runs of this machine, seen meanwhile."""
LINES_OF_HOST_AND_TIME = (
    "- Started:", "- Finished:", "- GPU:", "- Host profile:", "- Environment:", "- Precheck,", "- Run directory:",
    "- Report generated:", "- Report digest:", "<!-- tune-mcp:", "Incidents:", "| `node",
)  # fmt: skip


def compared(value: Any) -> Any:
    """report.json without what tells of hosts and times; the sentence with the GPUs is one of the host."""
    if isinstance(value, dict):
        return {key: compared(found) for key, found in value.items() if key not in OF_HOST_AND_TIME}
    if isinstance(value, list):
        return [compared(found) for found in value]
    return re.sub(r"\d+× NVIDIA H20", "GPUs", value) if isinstance(value, str) else value


def lines_compared(page: str) -> list[str]:
    """The same of report.md: its lines, where ``#`` stands for digests and seconds."""
    page = re.sub(r"\d+× NVIDIA H20", "GPUs", page)
    page = re.sub(r"run `[0-9TZ]+_same`|`[0-9a-f]{12}`|\| \d+\.\d (?=\| #?`)", "#", page)
    page = re.sub(r" While those that count ran, .*", "", page)
    kept = (line for line in page.splitlines() if line and not line.startswith(LINES_OF_HOST_AND_TIME))
    return [line for line in kept if " overlap: " not in line]


def documents(project: Project, run: RunDir) -> tuple[str, dict[str, Any], str]:
    """The audit's text, report.json and report.md."""
    told = report(project, run.run_id)
    return (
        strict_audit(project, run.run_id).audit_text,
        json.loads(Path(told.report_json).read_text()),
        Path(told.report_md).read_text(),
    )


def test_the_same_calibration_on_one_machine_and_through_slurm_gives_the_same_audit_and_report(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make(cluster, tmp_path / "repo")
    with monkeypatch.context() as patch:
        patch.setenv("SLURMD_NODENAME", NODES[0])  # this machine with the GPUs of a node
        for name in ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "OPENBLAS_CORETYPE"):
            patch.delenv(name, raising=False)  # what a shell chooses for its launches does not reach a job
        here = Project.resolve(Options(repo=project.repo_root, host="here"))
        run = toy.start(here, 3, label="same")
        finished(here, run)
        one = documents(here, run)
    shutil.move(run.path, tmp_path / "aside")  # or it would be the earlier calibration of the other
    run = toy.start(project, 3, label="same", lanes=0)
    finished(project, run)
    other = documents(project, run)

    assert one[0] == other[0]
    assert compared(one[1]) == compared(other[1])
    assert lines_compared(one[2]) == lines_compared(other[2])
    assert one[1]["hosts"][0]["fingerprint"] == other[1]["hosts"][0]["fingerprint"]
    values = [[metric["values"] for metric in stage["metrics"]] for stage in other[1]["stages"]]
    assert sorted(found for stage in values for found in stage) == sorted(map(list, zip(*toy.VALUES, strict=True)))


def test_a_host_whose_repeats_stand_apart_is_flagged(cluster: Cluster, tmp_path: Path) -> None:
    project = make(cluster, tmp_path / "repo", gpus=4)
    (toy.state_folder(project) / "slow").write_text(NODES[1])
    run = toy.start(project, 7, lanes=0)

    finished(project, run)

    fast, slow = (next(one for one in strict_audit(project, run.run_id).hosts if one.host == node) for node in NODES)
    assert "worse than on the other hosts" in slow.apart[0] and "better than on the other hosts" in fast.apart[0]
    assert fast.repeats[SPEED] + slow.repeats[SPEED] == 7
