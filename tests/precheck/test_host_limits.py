"""The kernel's limits and CPU settings, read from recorded files: what is slower elsewhere is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_mcp.precheck import host_limits

FILES = {
    "proc/self/cgroup": "0::/user/run.scope\n",
    "proc/sys/kernel/numa_balancing": "1\n",
    "sys/fs/cgroup/user/cpu.max": "400000 100000\n",
    "sys/fs/cgroup/user/run.scope/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user/run.scope/memory.max": "max\n",
    "sys/fs/cgroup/memory.max": "1000000\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
}


def machine(folder: Path, files: dict[str, str]) -> dict[str, str]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return host_limits.read(folder / "proc", folder / "sys")


@pytest.mark.rule("SCP-02")
def test_the_least_limit_of_all_groups_above_counts_and_what_is_missing_is_left_out(tmp_path: Path) -> None:
    found = machine(tmp_path, FILES)

    assert found["CPU quota"] == "00004.00 cores"
    assert found["memory limit"] == "1000000"
    assert found["CPU governor"] == "performance, powersave"
    assert found["transparent huge pages"] == "madvise"
    assert (found["NUMA balancing"], found["turbo off"]) == ("1", "0")
    assert "CPU boost" not in found
    assert found["nice value"] == str(os.getpriority(os.PRIO_PROCESS, 0))


@pytest.mark.rule("SCP-02")
def test_cgroups_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/a/b\n3:cpu,cpuacct:/a\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }

    found = machine(tmp_path, files)

    assert (found["CPU quota"], found["memory limit"]) == ("00001.50 cores", "5000")


@pytest.mark.rule("SCP-02")
def test_a_machine_that_shows_nothing_has_no_limit_that_could_differ(tmp_path: Path) -> None:
    found = machine(tmp_path, {"proc/self/cgroup": "garbage\n\n::\n"})

    assert (found["CPU quota"], found["memory limit"]) == ("none", "none")
    assert not {"CPU governor", "NUMA balancing", "turbo off"} & set(found)
