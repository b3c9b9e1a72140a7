"""What a Slurm site lacks, from recorded answers of scontrol and sinfo (Slurm 22.05)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tune_mcp.config.host import SlurmSettings
from tune_mcp.precheck import slurm_site
from tune_mcp.slurm import Slurm, SlurmNode

CONFIG = """Configuration data as of 2026-11-29T01:23:40
ClusterName             = tune
ProctrackType           = proctrack/cgroup
SLURM_VERSION           = 22.05.8
Cgroup Support Configuration:
ConstrainDevices        = yes
"""
H100 = "node1|idle|h100|gpu:h100:8(S:0-1)|gpu*"
A100 = "node2|idle|a100|gpu:a100:8(S:0-1)|gpu*"


def answers(settings: dict[str, object], nodes: Sequence[str], config: str = CONFIG, gpus: int = 2) -> dict[str, str]:
    """Status of each check, by its name."""

    def run(words: Sequence[str], _seconds: float) -> subprocess.CompletedProcess[str]:
        text = config if words[0] == "scontrol" else "".join(f"{line}\n" for line in nodes)
        return subprocess.CompletedProcess(
            words, 0 if text else 1, text, "slurm_load: Unable to contact slurm controller"
        )

    found = slurm_site.checks(SlurmSettings.model_validate(settings), Path("/repo"), gpus, Slurm(run=run))
    return {check.id.removeprefix("slurm."): check.status for check in found}


def test_a_site_that_has_everything_lacks_nothing() -> None:
    found = answers({"constraint": "h100", "gres": "gpu:h100"}, [H100, A100])

    assert found | {"folder": "?"} == {
        "controller": "ok", "folder": "?", "processes": "ok", "devices": "ok", "nodes": "ok", "class": "ok"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "nodes", "config", "gap"),
    [
        ({}, [H100], CONFIG.replace("proctrack/cgroup", "proctrack/linuxproc"), ("processes", "missing")),
        ({}, [H100], CONFIG.replace("= yes", "= no"), ("devices", "warn")),
        ({}, [H100, A100], CONFIG, ("class", "missing")),
        ({}, [H100], CONFIG, ("class", "warn")),
        ({"constraint": "h200"}, [H100], CONFIG, ("nodes", "missing")),
        ({"constraint": "h100&nvlink"}, [H100], CONFIG, ("nodes", "missing")),
        ({"constraint": "h200|h100"}, [H100], CONFIG, ("nodes", "ok")),
        ({"gres": "gpu:h200"}, [H100], CONFIG, ("nodes", "missing")),
        ({}, [H100.replace(":8", ":1")], CONFIG, ("nodes", "missing")),
        ({}, [H100.replace("idle", "down*")], CONFIG, ("nodes", "missing")),
        ({}, [H100.replace("idle", "idle*")], CONFIG, ("nodes", "missing")),
        ({}, [H100.replace("idle", "allocated+")], CONFIG, ("nodes", "ok")),
        ({}, [H100.replace("idle", "idle~")], CONFIG, ("nodes", "ok")),
        ({}, [H100.replace("gpu*", "cpu")], CONFIG, ("nodes", "missing")),
        ({}, [], "", ("controller", "unknown")),
    ],
)
def test_each_thing_that_a_site_lacks_is_named(
    settings: dict[str, object], nodes: list[str], config: str, gap: tuple[str, str]
) -> None:
    assert answers(settings, nodes, config)[gap[0]] == gap[1]


@pytest.mark.parametrize(
    ("nodes", "without", "why"),
    [
        ({"n1": "idle", "n2": "drained"}, (), ""),
        ({"n1": "allocated", "n2": "drained"}, (), ""),
        ({"n1": "idle", "n2": "drained"}, ("n1",), "n1 was left out after a refusal, n2 is drained"),
        ({"n1": "idle", "n2": "mixed-"}, ("n1",), ""),
        ({"n1": "mixed*", "n2": "draining"}, (), "n1 is mixed*, n2 is draining"),
        ({}, (), ""),
    ],
)
def test_no_node_can_take_a_job_where_all_that_fit_are_out_of_service_or_left_out(
    nodes: dict[str, str], without: tuple[str, ...], why: str
) -> None:
    found = [SlurmNode(name, state, ("h100",), "gpu:8") for name, state in nodes.items()]
    other = SlurmNode("n3", "idle", ("a100",), "gpu:8")

    assert slurm_site.no_node(SlurmSettings(constraint="h100"), [*found, other], 2, without) == why


def test_a_shared_file_system_is_known_by_its_type(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
        "36 22 0:31 / /shared rw,relatime shared:1 - nfs4 filer:/x rw\n"
        "37 22 0:32 / /shared-not rw - tmpfs tmpfs rw\n"
    )

    kinds = [slurm_site.file_system(Path(path), mounts) for path in ("/shared/omni", "/shared-not/omni", "/home")]

    assert kinds == ["nfs4", "tmpfs", "ext4"]
