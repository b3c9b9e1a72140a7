"""Every attempt belongs to the machine that the run measures on, or it does not count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import loop
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.strict_audit import strict_audit


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


def rewrite(run: RunDir, **facts: object) -> None:
    """environment.json as another machine would have written it, with its digest in the ledger."""
    from tune_mcp.files import dump_json, sha256_bytes
    from tune_mcp.run_dir import utc_now

    data = dump_json({**json.loads(run.environment.read_text()), **facts})
    events.append(run, "environment", utc_now(), "rewritten", sha256=sha256_bytes(data))
    run.environment.write_bytes(data)


def halt_of(run: RunDir) -> state.Halt:
    record = state.conclude(run).record
    assert record and record.halt, toy.told(run)
    return record.halt


@pytest.mark.rule("SCP-02")
def test_every_attempt_records_the_machine(project: Project) -> None:
    run = toy.finished_run(project, 1, toy.real_pytest)

    (path,) = run.path.rglob("run1_a1/result.json")
    found = AttemptResult.model_validate_json(path.read_bytes())
    assert found.environment and found.incomparable == ""
    assert found.environment.cpu_model == json.loads(run.environment.read_text())["cpu_model"]
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("SCP-02", "SCP-01")
@pytest.mark.parametrize("when", ["before", "during"])
def test_an_attempt_on_another_machine_is_not_counted_and_halts(project: Project, when: str) -> None:
    def attempt(job: Job) -> AttemptResult | None:
        if when == "before":
            rewrite(job.run, cpu_model="another")
            return toy.real_pytest(job)
        source = project.repo_root / toy.TEST_FILE
        assert source.is_file()
        toy.hold(project, 1)
        from threading import Thread

        def change() -> None:
            toy.wait_for(lambda: toy.launches(project, 1), what="pytest")
            rewrite(job.run, kernel="another")
            toy.let_go(project, 1)

        thread = Thread(target=change)
        thread.start()
        result = toy.real_pytest(job)
        thread.join(timeout=60)
        return result

    run = toy.finished_run(project, 2, attempt)

    halt = halt_of(run)
    assert (halt.code, halt.rule, halt.repeat) == ("HOST_NOT_COMPARABLE", "SCP-02", 1)
    assert "another" in halt.message
    assert not list(run.path.glob("toy_*/run*.json")) and len(list(run.purged.iterdir())) == 1
    assert len(toy.launches(project, 1)) == (0 if when == "before" else 1)


@pytest.mark.rule("SCP-02", "RES-11")
def test_a_resume_on_another_machine_halts_before_anything_is_launched(project: Project) -> None:
    run = toy.finished_run(project, 2, lambda job: None if job.repeat == 2 else toy.measured(job))
    kept = run.observation("toy_speed", 1).read_bytes()
    rewrite(run, cpu_model="the first machine")
    toy.rewrite_observation(run, "toy_speed", 1, lambda o: None)
    _own_again(run)

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert halt_of(run).code == "HOST_NOT_COMPARABLE" and "the first machine" in halt_of(run).message
    assert (
        executor.jobs == []
        and json.loads(kept)["metrics"] == json.loads(run.observation("toy_speed", 1).read_text())["metrics"]
    )


def _spoiled(run: RunDir, how: str) -> bytes:
    """environment.json as it was, after it was deleted or changed."""
    kept = run.environment.read_bytes()
    run.environment.unlink() if how == "deleted" else run.environment.write_text(how)
    return kept


@pytest.mark.rule("SCP-02", "RES-11")
@pytest.mark.parametrize("how", ["deleted", "{}", "\n"])
def test_a_lost_or_changed_record_of_the_machine_is_written_again_from_the_ledger_and_the_run_goes_on(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    run = toy.finished_run(project, 2, lambda job: None if job.repeat == 2 else toy.measured(job))
    kept = _spoiled(run, how)

    with toy.supervised_here(toy.measured):
        resume_run(project, run.run_id)

    assert run.environment.read_bytes() == kept
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("SCP-02", "RES-11")
@pytest.mark.parametrize("how", ["deleted", "{}"])
def test_a_record_of_the_machine_that_nothing_vouches_for_resumes_nothing_and_says_what_to_do(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    run = toy.finished_run(project, 2, lambda job: None if job.repeat == 2 else toy.measured(job))
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    run.events.write_text("".join(json.dumps({**line, "machine": None}) + "\n" for line in lines))
    _spoiled(run, how)

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)

    assert (halt_of(run).code, executor.jobs) == ("HOST_NOT_COMPARABLE", [])
    assert "environment.json is gone, or is not what the supervisor wrote" in halt_of(run).message
    assert halt_of(run).next.startswith("put the file back as it was")


def _own_again(run: RunDir) -> None:
    """Make every artifact look as if it had been measured on the machine that environment.json names."""
    from tune_mcp.files import dump_json, sha256_bytes, sha256_file
    from tune_mcp.run_dir import utc_now

    for path in run.path.glob("toy_*/run*.json"):
        value = {**json.loads(path.read_text()), "environment_sha256": sha256_file(run.environment)}
        data = dump_json(value)
        stage, repeat = path.parent.name, int(path.stem.removeprefix("run"))
        events.append(run, "recorded", utc_now(), "again", stage=stage, repeat=repeat, sha256=sha256_bytes(data))
        path.write_bytes(data)


@pytest.mark.rule("SCP-02", "RES-11")
def test_while_nothing_strict_was_measured_the_machine_may_be_changed(project: Project) -> None:
    run = toy.finished_run(project, 1, lambda job: None)
    rewrite(run, venv_freeze_sha256="f" * 64)

    with toy.supervised_here():
        resume_run(project, run.run_id)

    assert strict_audit(project, run.run_id).ready
    assert json.loads(run.environment.read_text())["venv_freeze_sha256"] is None


@pytest.mark.rule("SCP-02", "STR-21")
def test_artifacts_of_another_machine_are_no_evidence(project: Project) -> None:
    run = toy.finished_run(project, 2)
    rewrite(run, cpu_model="another")

    text = strict_audit(project, run.run_id)
    assert "✓" not in text.text() and "another machine" in text.stages[0].reasons["run1"]
    for call in (report, apply_plan):
        with pytest.raises(Refusal, match=r"^HOST_NOT_COMPARABLE \[SCP-02\]"):
            call(project, run.run_id)


@pytest.mark.rule("SES-10", "STR-14", "SCP-02")
@pytest.mark.parametrize("change", [lambda o: None, lambda o: o.update(run_id="RUN")], ids=["as it is", "renamed"])
def test_an_artifact_of_another_run_that_was_copied_in_is_foreign(
    project: Project, change: Callable[[dict[str, Any]], object]
) -> None:
    other, run = toy.finished_run(project, 2), toy.finished_run(project, 2)
    shutil.copyfile(other.observation("toy_speed", 1), run.observation("toy_speed", 1))
    toy.rewrite_observation(run, "toy_speed", 1, change)
    if json.loads(run.observation("toy_speed", 1).read_text())["run_id"] == "RUN":
        toy.rewrite_observation(run, "toy_speed", 1, lambda o: o.update(run_id=run.run_id))

    assert "toy_speed: ✗✓" in strict_audit(project, run.run_id).text()
    with pytest.raises(Refusal, match=r"^FOREIGN_ARTIFACT"):
        report(project, run.run_id)
