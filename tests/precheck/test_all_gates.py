"""All gates together: at once, bounded, read-only, the same for the tool and for a run's first phase."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
from precheck.machine import MIRROR, gaps, probes, profile, stage, subject

from tune_mcp.config.model import ModelConfig
from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import GpuReading
from tune_mcp.precheck import scripts
from tune_mcp.precheck.gates import GATES, Deadline, Precheck, Probes, precheck
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.precheck.venv import VenvFacts
from tune_mcp.session import plan as plans
from tune_mcp.session.plan import Plan
from tune_mcp.supervise import first_look, host_lock
from tune_mcp.verbs import precheck as verb

NOW = "2026-06-01T00:00:00Z"


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that nobody sets while a test looks; threads that wait for it are let go afterwards."""
    event = threading.Event()
    yield event
    event.set()


class Spent(Deadline):
    """Time enough for every wait but one."""

    def __init__(self, spent_at: int) -> None:
        super().__init__(30)
        self.waits = 0
        self.spent_at = spent_at

    def left(self) -> float:
        self.waits += 1
        return 0.0 if self.waits == self.spent_at else 10.0


@pytest.mark.rule("PRE-12")
def test_a_gate_that_hangs_is_unknown_and_the_others_still_answer(tmp_path: Path, never: threading.Event) -> None:
    def hangs(_: Subject) -> list[Check]:
        never.wait()
        return []

    def answers(_: Subject) -> list[Check]:
        return [Check(id="quick", status="ok", detail="")]

    def unreachable(_: Subject) -> list[Check]:
        raise OSError(116, "Stale file handle")

    found = precheck(
        subject(tmp_path, python=tmp_path / "python"),
        probes(),
        NOW,
        deadline=Spent(1),
        gates=(("slow", hangs), ("quick", answers), ("stale", unreachable)),
    )

    assert gaps(found.checks) == {"slow": ("unknown", "timeout 10 df -h"), "stale": ("unknown", "timeout 10 df -h")}
    assert {check.id for check in found.checks} >= {"quick"}
    assert not found.ok


@pytest.mark.rule("PRE-12")
def test_slow_probes_that_hang_are_unknown(
    tmp_path: Path, never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gpus() -> GpuReading:
        never.wait()
        raise AssertionError

    def venv(_: Subject) -> VenvFacts:
        never.wait()
        raise AssertionError

    monkeypatch.setattr(scripts, "read_started", lambda _: never.wait())
    python = tmp_path / "python"
    asked = subject(tmp_path, python=python)
    needing = Subject(**{**vars(asked), "gpus_per_test": {"test_toy_ci": 1}})

    found = precheck(needing, Probes(gpus, venv, probes().try_imports), NOW, deadline=Deadline(0.0), gates=())

    assert gaps(found.checks)["gpu.free"] == ("unknown", "nvidia-smi")
    assert gaps(found.checks)["venv.python"] == ("unknown", f"{python} --version")
    assert gaps(found.checks)["venv.scripts"][1].startswith("uptime; tune-mcp precheck"), "nothing of the disk is known"
    assert not found.ok


def test_the_two_slow_probes_run_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def gpus() -> GpuReading:
        both.wait()
        return probes().read_gpus()

    def venv(asked: Subject) -> VenvFacts:
        both.wait()
        return probes().read_venv(asked)

    assert precheck(subject(tmp_path, python=tmp_path), Probes(gpus, venv, probes().try_imports), NOW, gates=()).ok


def test_a_bug_in_a_gate_keeps_its_traceback(tmp_path: Path) -> None:
    def broken(_: Subject) -> list[Check]:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        precheck(subject(tmp_path), probes(), NOW, gates=(("broken", broken),))


@pytest.mark.rule("PRE-01", "PRE-02", "PRE-03", "PRE-12", "ENV-16", "ENV-30", "FAIL-04")
def test_every_group_of_gaps_is_told_at_once_and_nothing_is_touched(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["torch==2.11.0"]\n')
    env = {
        "HF_HOME": f"{tmp_path}/hf",
        "HF_ENDPOINT": MIRROR,
        "SEEDTTS_SIM_CACHE_DIR": f"{tmp_path}/sim",
        "OMNI_CI_HOME": "/",
        "XDG_CACHE_HOME": f"{tmp_path}/slice/.cache",
    }
    host = profile(root, {"hf_hub": f"{tmp_path}/hf"})
    needs = Needs(env=env, model_ids=("org/m",), datasets=("org/d",), profile=host, ci_env_file="ci_env.sh")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))

    stages = [stage(), stage("tests/test_toy_tp2_ci.py")]
    found = precheck(subject(root, needs, stages, tmp_path / "python"), probes({"torch": "2.10"}), NOW)

    assert {
        "repo.head",
        "stages.fresh",
        "env.layout:OMNI_CI_HOME",
        "env.ci",
        "host.paths:physical.hf_hub",
        "hf.model:org/m",
        "hf.dataset:org/d",
        "speaker_sim.assets",
        "venv.dependencies:version",
    } <= set(gaps(found.checks))
    assert all(check.fix for check in found.blocking())
    assert found.pins == {"torch": "2.11.0"}
    assert {"disk.space", "host.ptrace", "gpu.free"} <= {check.id for check in found.checks}
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert Precheck.model_validate_json(found.model_dump_json()) == found


NEEDY = {
    **toy.CONFIG,
    "hf_model_id": "org/m",
    "hf_datasets": ["org/d"],
    "auto_env": {"HF_HOME": "/nowhere/hf", "HF_ENDPOINT": MIRROR, "XDG_CACHE_HOME": "/dev/null"},
}


def planned(root: Path, config: dict[str, object]) -> tuple[toy.Project, toy.RunDir, Plan]:
    project = toy.make_toy(root, config=config)
    run = toy.planned_run(project)
    return project, run, plans.load(run, toy.no_older_runs)


@pytest.mark.rule("PRE-01")
def test_the_tool_and_a_run_s_first_phase_find_the_same_gaps(tmp_path: Path) -> None:
    project, run, plan = planned(tmp_path / "repo", NEEDY)

    by_tool = verb.precheck(project, "toy")
    by_run = first_look.prechecked(run, plan)

    assert gaps(by_run.checks) == gaps(by_tool.checks)
    assert set(gaps(by_run.checks)) == {"hf.model:org/m", "hf.dataset:org/d", "env.layout:XDG_CACHE_HOME"}


@pytest.mark.rule("PRE-01", "PRE-12")
@pytest.mark.usefixtures("warm")
def test_a_run_on_a_machine_with_gaps_lists_them_all_and_starts_no_pytest(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo", config=NEEDY)

    run = toy.start(project, repeats=1)
    now = toy.wait_until_rest(project, run.run_id)

    assert now.state == "failed", toy.told(run)
    for gap in ("hf.model:org/m missing", "hf.dataset:org/d missing", "env.layout:XDG_CACHE_HOME mismatch"):
        assert gap in run.run_log.read_text()
    assert toy.launches(project, 1) == ()
    toy.wait_for(lambda: host_lock.current() is None, what="the host to be free again")
    assert set(gaps(Precheck.model_validate_json(run.precheck.read_bytes()).checks)) == set(
        gaps(verb.precheck(project, "toy").checks)
    )


def test_a_run_whose_config_is_another_now_does_not_ask_for_its_data_sets(tmp_path: Path) -> None:
    _, run, plan = planned(tmp_path / "repo", NEEDY)
    other = plan.model_copy(update={"settings": plan.settings.model_copy(update={"env": {"HF_HOME": "/other/hf"}})})

    found = first_look.prechecked(run, other)

    assert set(gaps(found.checks)) == {"hf.model:org/m"}
    assert [check.id for check in found.checks if check.status == "warn" and check.id.startswith("hf")] == [
        "hf.dataset"
    ]


def test_a_plain_machine_with_a_plain_model_has_no_new_gap(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")

    reply = verb.precheck(project, "toy")

    assert reply.ok, reply.text()
    assert not [check.id for check in reply.checks if check.id.startswith(("hf.", "env.", "speaker", "host.paths"))]


def test_needs_are_the_configuration_s_and_the_host_s() -> None:
    config = ModelConfig.model_validate(
        {"name": "toy", "test_globs": ["a.py"], "metric_sources": {}, "hf_datasets": ["org/d", "org/d"]}
    )

    assert Needs.of(config, None, []) == Needs(datasets=("org/d",), test_globs=("a.py",))
    assert len({name for name, _ in GATES}) == len(GATES)
