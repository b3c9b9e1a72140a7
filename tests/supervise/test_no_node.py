"""A job that waits in Slurm's queue: for a busy node without a limit, for one that is out of service with one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import toy

from tune_mcp.config.host import SlurmSettings
from tune_mcp.precheck.gates import Precheck
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.slurm import Slurm
from tune_mcp.supervise import job
from tune_mcp.supervise.executor import first_job, no_node, slurm
from tune_mcp.supervise.executor.slurm import SlurmExecutor
from tune_mcp.supervise.job import JOB_FILE, LEFT_FILE, AttemptResult, Job, claim, read_job, seal
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.status import list_runs, status
from tune_mcp.verbs.strict_audit import strict_audit


@dataclass
class Site:
    """A Slurm of two nodes that starts no job by itself; ``then`` is done at each look of the supervisor's loop."""

    states: dict[str, str] = field(default_factory=lambda: {"n1": "allocated", "n2": "drained"})
    queued: dict[str, Path] = field(default_factory=dict[str, Path])
    then: Callable[[], object] = lambda: None
    answers: Callable[[str], subprocess.CompletedProcess[str] | None] = lambda _program: None
    now = staticmethod(utc_now)
    monotonic = staticmethod(time.monotonic)

    def run(self, words: Sequence[str], _seconds: float) -> subprocess.CompletedProcess[str]:
        """What sbatch, squeue, sinfo and scancel answer."""
        if (other := self.answers(words[0])) is not None:
            return other
        options = dict(word.split("=", 1) for word in words if "=" in word)
        text = "".join(f"{name}|{state}|h100|gpu:8|gpu*\n" for name, state in self.states.items())
        if words[0] == "sbatch":
            self.queued[options["--job-name"]] = Path(options["--chdir"])
            text = "1\n"
        elif words[0] == "squeue":
            text = "".join(f"1|PENDING||Resources|{name}|{folder}\n" for name, folder in self.queued.items())
        elif words[0] == "scancel":
            self.queued.pop(options["--name"], None)
        return subprocess.CompletedProcess(words, 0, text, "")

    def sleep(self, seconds: float) -> None:
        self.then()
        time.sleep(0.01)

    def start_all(self) -> None:
        """Every job gets a node and measures."""
        for name, folder in [*self.queued.items()]:
            one = read_job(folder / JOB_FILE)
            if claim(one):
                one.run.test_folder(one.test_key).mkdir(parents=True, exist_ok=True)
                seal(one, toy.measured(one))
                (folder / LEFT_FILE).touch()
            del self.queued[name]


def nothing(_run: RunDir, _plan: Plan) -> None:
    """The precheck is no matter of Slurm."""


@dataclass
class Watched:
    """A run on a site, and what its status said in the course of it."""

    project: Project
    site: Site
    seen: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    def alerts(self) -> tuple[str, ...]:
        """The alerts of the run now."""
        (run,) = list_runs(self.project).runs
        self.seen.append(status(self.project, run.run_id).alerts)
        return self.seen[-1]

    def measure(self, act: Callable[[], object], how: Callable[[RunDir, Plan], object] = nothing) -> None:
        """Let ``act`` start or resume the run; ``how`` comes before its precheck."""
        executor = SlurmExecutor(RunDir(Path()), SlurmSettings(), Slurm(run=self.site.run))
        end = time.monotonic() + 60
        then = self.site.then

        def look() -> None:
            assert time.monotonic() < end
            then()

        self.site.then = look

        def precheck(run: RunDir, plan: Plan) -> Precheck:
            executor.run = run
            how(run, plan)
            return toy.ready(run, plan)

        with toy.supervised_by(executor, self.site, precheck):
            act()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    for module, name in ((slurm, "LOOK_EVERY_S"), (slurm, "_RETRY_S"), (slurm, "_NODES_EVERY_S")):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(no_node, "LIMIT_S", 1e9)
    return Watched(toy.make_toy(tmp_path / "repo"), Site())


def only_run(project: Project) -> RunDir:
    (entry,) = list_runs(project).runs
    return project.run(entry.run_id)


@pytest.mark.rule("GPU-14")
def test_a_job_that_no_node_can_take_is_an_alert_and_halts_the_run_when_none_comes_back(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, site = watched.project, watched.site
    site.states = {"n1": "down*", "n2": "drained"}

    def then() -> None:
        if watched.alerts():
            monkeypatch.setattr(no_node, "LIMIT_S", 0.0)

    site.then = then
    watched.measure(lambda: toy.start(project, 1))

    run = only_run(project)
    assert any("no_node: n1 is down*, n2 is drained. To do: bring one" in "".join(one) for one in watched.seen)
    (halted,) = events.read(run.events, "halted")
    assert halted.facts["code"] == "EXECUTOR_UNAVAILABLE" and "n1 is down*, n2 is drained" in halted.text
    assert site.queued == {}, "the job is taken back"
    assert "sinfo -R" in status(project, run.run_id).text()

    site.states, site.then = {"n1": "idle"}, site.start_all
    watched.measure(lambda: resume_run(project, run.run_id))
    assert strict_audit(project, run.run_id).ready, toy.told(run)


@pytest.mark.rule("GPU-14")
def test_an_alert_that_no_node_can_take_a_job_ends_with_the_node_that_comes_back(watched: Watched) -> None:
    project, site = watched.project, watched.site
    site.states = {"n1": "drained", "n2": "drained"}

    def then() -> None:
        if watched.alerts():
            site.states["n1"] = "mixed"
        elif any(watched.seen):
            site.start_all()

    site.then = then
    watched.measure(lambda: toy.start(project, 1))

    run = only_run(project)
    assert strict_audit(project, run.run_id).ready, toy.told(run)
    kinds = [one.kind for one in events.read(run.events, "alert", "alert_over")]
    assert kinds == ["alert", "alert_over"]


@pytest.mark.rule("GPU-14")
def test_a_busy_node_is_waited_for_without_an_alert_and_without_a_limit(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(no_node, "LIMIT_S", 0.0)
    project, site = watched.project, watched.site
    site.then = lambda: watched.alerts() or (len(watched.seen) > 20 and site.start_all())

    watched.measure(lambda: toy.start(project, 1))

    assert strict_audit(project, only_run(project).run_id).ready
    assert not any(watched.seen)


def test_a_command_of_slurm_that_is_refused_is_asked_again(watched: Watched) -> None:
    project, site = watched.project, watched.site
    refused = [subprocess.CompletedProcess((), 1, "", "squeue: error: Invalid user") for _ in range(3)]
    site.answers = lambda program: refused.pop() if program == "squeue" and refused else None
    site.then = site.start_all

    watched.measure(lambda: toy.start(project, 1))

    assert strict_audit(project, only_run(project).run_id).ready
    assert not refused


def test_a_refusal_that_cannot_be_written_is_written_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    project, site = watched.project, watched.site
    refusal = subprocess.CompletedProcess((), 1, "", "sbatch: error: invalid partition")
    site.answers = lambda program: refusal if program == "sbatch" else None
    full = [OSError(28, "No space left on device") for _ in range(3)]

    def on_a_full_disk(one: Job, result: AttemptResult) -> None:
        if full:
            raise full.pop()
        seal(one, result)

    monkeypatch.setattr(job, "seal", on_a_full_disk)
    watched.measure(lambda: toy.start(project, 1))

    run = only_run(project)
    assert [one.facts["code"] for one in events.read(run.events, "halted")] == ["EXECUTOR_UNAVAILABLE"]
    assert not full and len([*events.read(run.events, "launched")]) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_that_talks_to_slurm_ends_the_run_instead_of_letting_it_wait(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_self: SlurmExecutor, *_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(SlurmExecutor, "_seen", breaks)

    watched.measure(lambda: toy.start(watched.project, 1))

    now = status(watched.project, only_run(watched.project).run_id)
    assert now.state == "failed" and "the thread that talks to Slurm has ended" in now.reason


@pytest.mark.rule("GPU-14")
def test_the_first_job_says_what_it_waits_for_and_is_refused_when_no_node_comes_back(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, site = watched.project, watched.site
    monkeypatch.setattr(first_job, "Slurm", lambda: Slurm(run=site.run))
    monkeypatch.setattr(first_job, "_ASK_EVERY", 1)
    why: list[str] = []

    def wait(_seconds: float, reason: str) -> None:
        why.append(reason)
        if reason.endswith("n1 is drained, n2 is drained"):
            monkeypatch.setattr(no_node, "LIMIT_S", 0.0)
        elif "Resources" in reason:
            site.states["n1"] = "drained"

    watched.measure(
        lambda: toy.start(project, 1), lambda run, plan: first_job.prechecked(run, plan, SlurmSettings(), wait)
    )

    now = status(project, only_run(project).run_id)
    assert "the first job waits for a node: PENDING (Resources)" in why
    assert now.state == "halted" and "no node could take the job: n1 is drained, n2 is drained" in now.reason
    assert site.queued == {}
