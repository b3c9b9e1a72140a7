"""On the real card: what NVML says, the gate in front of a holder, and a launch that sees its own GPU alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import toy

from tune_mcp.files import is_locked
from tune_mcp.gpus import MEMORY_LIMIT_MIB, Presence, read_gpus
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise import host_lock
from tune_mcp.supervise.gpu.gate import GpuGate, lock_gpu
from tune_mcp.supervise.job import PHASE_FILE, AttemptResult, Job
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.strict_audit import strict_audit
from tune_mcp.words import number_of

HERE = Path(__file__).parent
HELD_MIB = 3072
FreeGpus = Callable[[], list[str]]
SEES = """    print("sees", os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"], Cuda().count(), "GPU")
"""


@dataclass
class Holders:
    """Other processes, one for each free GPU, that hold 3 GiB of it until they are let go."""

    free_gpus: FreeGpus
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def take(self) -> None:
        for uuid in self.free_gpus():
            command = [sys.executable, str(HERE / "cuda_driver.py"), str(HELD_MIB)]
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
            process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.processes[uuid] = process
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n", "the driver refused the memory"

    def let_go(self) -> None:
        """End them all, and wait until the driver has taken the memory back."""
        for process in self.processes.values():
            process.communicate(timeout=30)
        toy.wait_for(lambda: set(self.processes) <= set(self.free_gpus()), what="the release of the memory")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def holders(free_gpus: FreeGpus) -> Iterator[Holders]:
    found = Holders(free_gpus)
    yield found
    found.close()


def one_gpu(folder: Path) -> Project:
    """The toy with one GPU for each launch; its test prints what it sees of the machine."""
    source = toy.toy_source().replace(
        "import json\n", f"import json\nimport sys\nsys.path.insert(0, {str(HERE)!r})\n", 1
    )
    source = source.replace("import pytest\n", "import pytest\nfrom cuda_driver import Cuda\n", 1)
    source = source.replace("def test_speed(results):\n", "def test_speed(results):\n" + SEES)
    return toy.make_toy(folder, config=toy.CONFIG | {"gpus_per_test": {"test_toy_ci.py": 1}}, test_source=source)


def test_nvml_tells_the_card_its_memory_and_its_state() -> None:
    reading = read_gpus()

    assert reading.presence is Presence.PRESENT
    assert reading.driver
    for gpu in reading.gpus:
        assert gpu.trouble == "" and gpu.name
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_total_mib is not None and gpu.memory_used_mib is not None
        assert 0 <= gpu.memory_used_mib <= gpu.memory_total_mib
        assert gpu.minor is not None
        assert gpu.condition.temperature_c


def test_the_gate_keeps_closed_while_another_process_holds_3_gib_and_names_it(tmp_path: Path, holders: Holders) -> None:
    holders.take()
    seen = {gpu.uuid: gpu for gpu in read_gpus().gpus}
    for uuid in holders.processes:
        assert not seen[uuid].free and (seen[uuid].memory_used_mib or 0) >= HELD_MIB > MEMORY_LIMIT_MIB
    said: list[str] = []

    def waiting(reason: str) -> None:
        said.append(reason)
        if len(said) == 1:
            holders.let_go()

    run = RunDir(tmp_path / ".tune-runs/20260423T050000Z_toy")
    gate = GpuGate(
        read=read_gpus,
        take=lambda gpu: lock_gpu(gpu, run),
        sleep=time.sleep,
        clock=time.monotonic,
        waiting=waiting,
        cancelled=lambda: len(said) > 5,
    )
    grant = gate.wait(len(holders.processes))

    try:
        assert (
            f"{number_of(len(holders.processes), 'GPU')} at or below {MEMORY_LIMIT_MIB} MiB needed, 0 free" in said[0]
        )
        pids = [process.pid for process in holders.processes.values()]
        assert f"pid {pids[0]} " in said[0] or "another pid namespace" in said[0], said[0]
        assert {gpu.uuid for gpu in grant.gpus} == set(holders.processes) and not grant.refused
    finally:
        grant.release()


def test_a_launch_waits_for_the_holder_and_then_sees_its_own_gpu_alone(tmp_path: Path, holders: Holders) -> None:
    phases: list[str] = []
    results: list[AttemptResult] = []

    def attempt(job: Job) -> AttemptResult | None:
        path = job.folder / PHASE_FILE

        def release() -> None:
            toy.wait_for(lambda: path.exists() and path.read_text().startswith("waiting_for_gpu"), what="the wait")
            phases.append(path.read_text())
            holders.let_go()

        holders.take()
        releasing = threading.Thread(target=release)
        releasing.start()
        found = toy.real_pytest(job)
        releasing.join(timeout=60)
        results.extend([found] if found else [])
        return found

    project = one_gpu(tmp_path / "repo")
    run = toy.finished_run(project, 1, attempt)

    assert "MiB" in phases[0]
    (result,) = results
    (uuid,) = result.gpu_uuids
    (granted,) = [gpu for gpu in read_gpus().gpus if gpu.uuid == uuid]
    assert f"sees {granted.index} PCI_BUS_ID 1 GPU" in run.log("test_toy_ci", 1).read_text()
    assert result.gpus_at_start[0].memory_total_mib == granted.memory_total_mib
    assert strict_audit(project, run.run_id).ready
    assert [path for path in host_lock.lock_folder().glob("gpu-*.lock") if is_locked(path)] == []
