"""An attempt and its GPUs: cleaned up, waited for, handed over, held, and left clear. The runner, its probe and the
cleanup script are real processes; NVML is a recorded one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvml
import one_job
import psutil
import pytest
import toy
from nvml import GIB, Recorded

from tune_mcp.files import is_locked
from tune_mcp.gpus import Condition, Gpu, GpuReading, Presence
from tune_mcp.session import events, state
from tune_mcp.session.drift import Baseline
from tune_mcp.supervise import host_lock
from tune_mcp.supervise.gpu import gate
from tune_mcp.supervise.gpu import use as gpu_use
from tune_mcp.supervise.gpu.use import GpuUse
from tune_mcp.supervise.job import JOB_FILE, PHASE_FILE, RESULT_FILE, AttemptResult, Job, read_result
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.stop_run import stop_run
from tune_mcp.verbs.strict_audit import strict_audit

SCRIPT = ".github/scripts/free_gpus.sh"
SEES = "    print('sees', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'])\n"


pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    monkeypatch.setattr(gate, "HOLD_S", 0.3)
    monkeypatch.setattr(gate, "LOOK_EVERY_S", 0.3)
    with nvml.recorded(tmp_path / "nvml.json") as found:
        yield found


TREE = Baseline(git_sha="0" * 40, changed={}, untracked={}, file_sha256={}, config_sha256={})


def project_with(folder: Path, gpus: int = 1, script: str | None = None, **more: object) -> Project:
    """The toy on a host of its own; ``script`` is the body of the cleanup script that the profile names."""
    config = toy.CONFIG | {"gpus_per_test": {"test_toy_ci.py": gpus}}
    profile: dict[str, Any] = {"name": "here", "hostname": os.uname().nodename, "repo_root": str(folder), **more}
    files = {}
    if script is not None:
        profile["cleanup_command"] = ["bash", SCRIPT, "--kill-orphans"]
        files[SCRIPT] = script
    files[".tune/hosts/here.yaml"] = json.dumps(profile)
    source = toy.toy_source().replace("def test_speed(results):\n", "def test_speed(results):\n" + SEES)
    return toy.make_toy(folder, config=config, files=files, test_source=source)


def result(job: Job) -> AttemptResult:
    found = read_result(job)
    assert found is not None, toy.told(job.run)
    return found


def phase(job: Job) -> str:
    path = job.folder / PHASE_FILE
    return path.read_text() if path.exists() else ""


def gpu_locks() -> list[str]:
    return [path.stem for path in sorted(host_lock.lock_folder().glob("gpu-*.lock")) if is_locked(path)]


@pytest.mark.rule("GPU-01", "GPU-06", "GPU-13", "GPU-16", "GPU-17", "GPU-02")
def test_a_busy_gpu_is_waited_for_its_holder_is_named_and_left_alone_and_then_pytest_starts(
    tmp_path: Path, machine: Recorded
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "input('train.py')"], stdin=subprocess.PIPE)
    busy = {"used": 17 * GIB, "processes": [[holder.pid, 16 * GIB]], "minor": {"error": 3}}
    machine.machine(busy, {"processes": nvml.TROUBLE}, {"mig": 1})
    project = project_with(tmp_path / "repo")
    seen: list[str] = []
    jobs: list[Job] = []

    def attempt(job: Job) -> AttemptResult | None:
        jobs.append(job)

        def free() -> None:
            toy.wait_for(lambda: phase(job).startswith("waiting_for_gpu"), what="the wait")
            seen.extend([phase(job), *status(project, job.run.run_id).lines()])
            machine.change(0, used=4 * 2**20, processes=[])

        freeing = threading.Thread(target=free)
        freeing.start()
        found = toy.real_pytest(job)
        freeing.join(timeout=60)
        return found

    run = toy.finished_run(project, 1, attempt)

    assert holder.poll() is None, "whoever holds a GPU lives on"
    holder.communicate(b"\n", timeout=60)
    assert f"held by pid {holder.pid} " in seen[0] and "train.py" in seen[0] and "(16384 MiB)" in seen[0]
    assert "GPU 1: Unknown Error" in seen[0] and "GPU 2 is split (MIG)" in seen[0]
    assert any("GPU 0 17408/97871 MiB busy" in line for line in seen), seen
    found = result(jobs[0])
    assert found.gpu_uuids == ("GPU-0",)
    assert found.gpus_at_start[0].condition.sm_clock_mhz == found.gpus_at_end[0].condition.sm_clock_mhz == 345
    assert "sees 0 PCI_BUS_ID" in run.log("test_toy_ci", 1).read_text()
    assert strict_audit(project, run.run_id).ready
    assert gpu_locks() == []


@pytest.mark.rule("GPU-17", "GPU-19", "GPU-03", "GPU-05", "GPU-07", "GPU-08", "GPU-09", "GPU-11")
def test_cleanup_comes_before_the_choice_and_after_the_run_and_the_free_gpus_are_the_visible_ones(
    tmp_path: Path, machine: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell's CUDA_VISIBLE_DEVICES is another's; the script frees GPU 2, and its own child is not left behind."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    machine.machine({"used": 9 * GIB}, {"used": 9 * GIB}, {"used": 9 * GIB}, {})
    after = machine.path.with_name("free.json")
    done = tmp_path / "cleanup.log"
    script = f"""date +%s.%N >> {done}; echo freed with "$@"; sleep 600 & echo $! > {tmp_path}/child
cp {after} {machine.path}.new && mv {machine.path}.new {machine.path}
"""
    project = project_with(tmp_path / "repo", gpus=2, script=script)
    after.write_text(json.dumps({"gpus": [*machine.gpus[:2], machine.gpus[3] | {"uuid": "GPU-2"}, machine.gpus[3]]}))

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert "sees 2,3 PCI_BUS_ID" in run.log("test_toy_ci", 1).read_text(), toy.told(run)
    (folder,) = run.path.glob("_pytest/test_toy_ci/attempts/run1_a1")
    told = (folder / "runner.log").read_text()
    steps = [told.index(word) for word in ("freed with --kill-orphans", "launch: ")]
    assert steps == sorted(steps) and told.count("freed with --kill-orphans") == 2, "before and after, in our log"
    assert "freed" not in run.log("test_toy_ci", 1).read_text()
    cleaned = float(done.read_text().split()[0])
    assert run.log("test_toy_ci", 1).stat().st_mtime - cleaned >= gate.HOLD_S, "the hold settles what the script left"
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))
    assert json.loads((folder / "after.json").read_text()) | {"waited_s": 0} == {
        "schema_version": 1, "cleanup": "", "not_clear": "", "waited_s": 0
    }  # fmt: skip
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("GPU-15")
def test_a_gpu_that_is_taken_between_two_repeats_is_left_to_its_holder(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({}, {})
    project = project_with(tmp_path / "repo")

    def attempt(job: Job) -> AttemptResult | None:
        if job.repeat == 2:
            machine.change(0, used=3 * GIB)
        return toy.real_pytest(job)

    run = toy.finished_run(project, 2, attempt)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    assert [f"sees {index} PCI" in run.log("test_toy_ci", index + 1).read_text() for index in (0, 1)] == [True, True]


@pytest.mark.rule("GPU-09", "GPU-06")
def test_a_cleanup_that_fails_blocks_the_launch_and_the_script_is_named(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({})
    project = project_with(tmp_path / "repo", script="echo cannot >&2; exit 3\n")

    run = toy.finished_run(project, 1, toy.real_pytest)

    now = status(project, run.run_id)
    assert (now.state, toy.launches(project, 1), machine.asked) == ("halted", (), [])
    assert f"the cleanup script ended with exit code 3 (bash {SCRIPT} --kill-orphans)" in now.reason
    assert "cleanup_command" in now.next


@pytest.mark.rule("GPU-07", "GPU-12", "POL-08")
def test_nothing_but_an_active_run_ever_runs_the_cleanup_script(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({})
    mark = tmp_path / "mark"
    project = project_with(tmp_path / "repo", script=f"echo $$ >> {mark}\n")
    jobs: list[Job] = []
    run = toy.finished_run(project, 1, lambda job: jobs.append(job) or toy.measured(job))

    assert precheck(project, toy.MODEL).ok, "and precheck had the GPU to look at"
    discover(project, toy.MODEL)
    status(project, run.run_id)
    stop_run(project, run.run_id, "over anyway")
    (jobs[0].folder / RESULT_FILE).unlink()
    found = toy.real_pytest(jobs[0])

    assert found is not None and found.blocked is not None
    assert "the cleanup script was not run" in found.blocked.reason and "is not active" in found.blocked.reason
    assert not mark.exists() and toy.launches(project, 1) == ()


@pytest.mark.rule("GPU-07")
def test_a_stage_without_gpus_needs_no_cleanup_and_no_nvml(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({}, behaviour="hang")
    mark = tmp_path / "mark"
    project = project_with(tmp_path / "repo", gpus=0, script=f"touch {mark}; exit 1\n")

    run = toy.finished_run(project, 1, toy.real_pytest)

    assert strict_audit(project, run.run_id).ready, toy.told(run)
    assert (mark.exists(), machine.asked) == (False, [])
    assert "sees  PCI_BUS_ID" in run.log("test_toy_ci", 1).read_text()


@pytest.mark.rule("GPU-14", "GPU-20")
def test_a_gpu_stays_taken_while_the_pytest_of_a_killed_runner_lives(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({})
    project = project_with(tmp_path / "repo")
    jobs: list[Job] = []
    toy.finished_run(project, 1, lambda job: jobs.append(job) or toy.measured(job))
    (jobs[0].folder / RESULT_FILE).unlink()
    toy.hold(project, 1)
    command = [sys.executable, one_job.__file__, str(jobs[0].folder / JOB_FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as runner:
        toy.wait_for(lambda: toy.launches(project, 1), what="pytest")
        runner.kill()
    (pid,) = toy.launches(project, 1)

    assert gpu_locks() == ["gpu-GPU-0"]
    os.kill(pid, signal.SIGKILL)
    toy.wait_for(lambda: not gpu_locks(), what="the free lock")


@pytest.mark.rule("GPU-06", "GPU-21")
def test_a_gpu_without_numbers_is_measured_on_where_the_host_accepts_it_and_the_run_records_that(
    tmp_path: Path, machine: Recorded
) -> None:
    machine.machine({"used": {"error": 3}})
    project = project_with(tmp_path / "repo", gpu_memory_unknown="accept")

    run = toy.start(project, 1)
    now = toy.wait_until_rest(project, run.run_id)

    assert now.state == "finished", toy.told(run)
    environment, prechecked = (json.loads(path.read_text()) for path in (run.environment, run.precheck))
    assert [gpu["unknown_accepted"] for gpu in environment["gpus"]] == [True]
    assert "accepted by the host profile" in prechecked["gpu_summary"]


@pytest.mark.rule("GPU-06")
def test_a_gpu_without_numbers_blocks_a_run_where_the_host_says_nothing(tmp_path: Path, machine: Recorded) -> None:
    machine.machine({"used": {"error": 3}})
    project = project_with(tmp_path / "repo")

    run = toy.start(project, 1)
    now = toy.wait_until_rest(project, run.run_id)

    assert now.state == "failed", toy.told(run)
    assert "gpu_memory_unknown: accept" in run.run_log.read_text() + run.precheck.read_text()
    assert toy.launches(project, 1) == ()


@pytest.mark.rule("GPU-21")
def test_a_real_run_leaves_its_gpus_in_precheck_json_and_tells_them_in_its_report(
    tmp_path: Path, machine: Recorded
) -> None:
    machine.machine({}, {})
    project = project_with(tmp_path / "repo", gpus=0)

    run = toy.start(project, 1)
    now = toy.wait_until_rest(project, run.run_id)

    facts = json.loads(run.precheck.read_text())
    assert [{name: gpu[name] for name in ("index", "uuid", "name")} for gpu in facts["gpus"]] == [
        {"index": index, "uuid": f"GPU-{index}", "name": "NVIDIA H20"} for index in (0, 1)
    ]
    assert (facts["gpu_count"], facts["gpu_summary"]) == (2, "2× NVIDIA H20")
    assert (now.gpus_known, [gpu.memory_used_mib for gpu in now.gpus]) == (True, [4, 4]), "as precheck saw them"
    asked = len(machine.asked)
    machine.say(behaviour="hang")
    assert status(project, run.run_id).gpus == now.gpus, "and status asks nobody"
    assert len(machine.asked) == asked


class Attempt:
    """A ``GpuUse`` in this process on scripted readings; time passes only in sleeps."""

    def __init__(self, folder: Path, *readings: GpuReading) -> None:
        self.now = 0.0
        self.readings = iter(readings)
        self.looks = 0
        self.last = readings[0]
        job = Job(
            run_dir=str(folder / ".tune-runs" / "20260423T050000Z_toy"), repo_root=str(folder),
            test="tests/test_toy.py", test_key="test_toy", repeat=1, attempt=1, stages=(),
            tree=TREE, venv_python="python", env={}, gpus=1, timeout_s=1,
        )  # fmt: skip
        job.folder.mkdir(parents=True)
        self.job = job
        self.use = GpuUse(job, self.read, self.sleep, lambda: False, self.sleep, lambda: self.now)

    def read(self) -> GpuReading:
        self.last = next(self.readings, self.last)
        self.looks += 1
        return self.last

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def after(self) -> gpu_use.AfterRun:
        self.use.leave()
        found = gpu_use.AfterRun.from_file(self.job.folder / gpu_use.AFTER_FILE)
        assert found is not None
        return found


def reading(used: int | None = 0, slowed: tuple[str, ...] = ()) -> GpuReading:
    return GpuReading(
        Presence.PRESENT, (Gpu(0, "GPU-0", "H20", used, 97871, 0, condition=Condition(slowed_by=slowed)),)
    )


@pytest.mark.rule("GPU-05")
@pytest.mark.parametrize(
    ("later", "not_clear", "waited_s"),
    [
        ((reading(),), "", 0.0),
        ((reading(9000), reading(9000), reading()), "", 10.0),
        ((reading(9000),), "GPU 0: 9000/97871 MiB, no holder visible from here", gpu_use.CLEAR_LIMIT_S),
        ((GpuReading(Presence.UNKNOWN, reason="hangs"),), "GPU 0: unknown", gpu_use.CLEAR_LIMIT_S),
    ],
)
def test_after_a_run_its_gpus_are_waited_for_a_while_and_the_outcome_is_told(
    tmp_path: Path, later: tuple[GpuReading, ...], not_clear: str, waited_s: float
) -> None:
    attempt = Attempt(tmp_path, reading(), reading(), *later)
    assert attempt.use.acquire() is None

    after = attempt.after()

    assert after.not_clear.startswith(not_clear) and bool(after.not_clear) is bool(not_clear)
    assert after.waited_s == waited_s
    assert gpu_locks() == []


def test_what_slowed_the_gpus_is_noted_whenever_it_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_use, "SAMPLE_EVERY_S", 0.01)
    hot = reading(slowed=("hardware thermal slowdown",))
    attempt = Attempt(tmp_path, reading(), reading(slowed=("power cap",)), hot, reading())
    assert attempt.use.acquire() is None

    with attempt.use.watched():
        toy.wait_for(lambda: attempt.looks >= 4, what="some looks")

    facts = attempt.use.facts()
    assert facts["slowed_by"] == ("GPU 0: hardware thermal slowdown", "GPU 0: power cap")
    assert facts["gpus_at_end"] == reading().gpus
    attempt.use.leave()


def test_clocks_are_kept_as_the_range_while_pytest_ran_and_what_nvml_does_not_say_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_use, "SAMPLE_EVERY_S", 0.01)

    def clocked(mhz: int | None, *slowed: str) -> GpuReading:
        condition = Condition(temperature_c=50 + len(slowed), sm_clock_mhz=mhz, slowed_by=slowed)
        return GpuReading(Presence.PRESENT, (Gpu(0, "GPU-0", "H20", 0, 97871, 0, condition=condition),))

    idle = clocked(345)
    attempt = Attempt(tmp_path, idle, idle, clocked(1980), clocked(None), clocked(1400, "power cap"), clocked(1980))
    assert attempt.use.acquire() is None
    assert attempt.use.ranges()[0].looks == 0 and attempt.use.ranges()[0].sm_clock_mhz is None

    with attempt.use.watched():
        toy.wait_for(lambda: attempt.looks >= 6, what="some looks")

    (found,) = attempt.use.ranges()
    assert (found.index, found.sm_clock_mhz, found.temperature_c) == (0, (1400, 1980), 51)
    assert found.slowed_by == {"power cap": 1}
    assert (found.memory_clock_mhz, found.power_w) == (None, None)
    attempt.use.leave()


@pytest.mark.rule("GPU-05")
def test_a_gpu_that_was_left_dirty_never_turns_a_finished_measurement_red(project: Project) -> None:
    def attempt(job: Job) -> AttemptResult:
        found = toy.measured(job)
        after = gpu_use.AfterRun(
            cleanup="the cleanup script ended with exit code 1", not_clear="GPU 0: 17000/97871 MiB"
        )
        (job.folder / gpu_use.AFTER_FILE).write_text(after.model_dump_json())
        return found

    run = toy.finished_run(project, 1, attempt)

    assert strict_audit(project, run.run_id).ready
    (told,) = [event.text for event in events.read(run.events) if event.kind == "gpus_not_clear"]
    assert told.endswith("the cleanup script ended with exit code 1; GPU 0: 17000/97871 MiB")


def test_clocks_that_were_held_down_are_a_note_in_the_observation_and_change_nothing_else(project: Project) -> None:
    hot = ("GPU 0: hardware thermal slowdown",)

    run = toy.finished_run(project, 1, lambda job: toy.measured(job).model_copy(update={"slowed_by": hot}))

    assert strict_audit(project, run.run_id).ready
    assert json.loads(run.observation("toy_speed", 1).read_text())["history"][0]["slowed_by"] == list(hot)
    (told,) = [event.text for event in events.read(run.events) if event.kind == "observed"]
    assert told.endswith("clocks held down: GPU 0: hardware thermal slowdown")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"seen_at": 1}', b"\xff"])
def test_a_damaged_record_of_the_gpus_is_no_record(project: Project, data: bytes) -> None:
    run = toy.finished_run(project, 1)
    run.gpus.write_bytes(data)

    now = status(project, run.run_id)

    assert (state.GpusSeen.from_file(run.gpus), now.gpus, now.gpus_known, now.gpus_seen_at) == (None, (), False, None)


def test_a_record_of_the_gpus_that_cannot_be_written_costs_no_look(project: Project) -> None:
    run = toy.finished_run(project, 1)
    run.gpus.unlink(missing_ok=True)
    run.gpus.mkdir()

    look = state.recording(run, lambda: reading(9000))

    assert look() == reading(9000)
