"""One poll holds all there is to look at: strict counts first, the work, the GPUs, the end of the log, alerts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import toy

from tune_mcp.contract.reply import TEXT_LIMIT
from tune_mcp.contract.status import StatusReply
from tune_mcp.errors import Refusal
from tune_mcp.gpus import Gpu, GpuReading, Presence
from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.session.state import Alert
from tune_mcp.supervise import loop
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

ALERT = Alert(name="disk full", cause="a file system is full", remedy="free space", since="2026-04-23T05:00:00Z")


def saw(run: RunDir, *gpus: Gpu) -> None:
    """The run's last look at the GPUs."""
    state.recording(run, lambda: GpuReading(Presence.PRESENT, gpus))()


@pytest.mark.rule("POL-03", "POL-04", "STR-15", "STR-28")
def test_one_poll_holds_status_audit_gpus_and_the_end_of_the_active_log(project: Project, run: RunDir) -> None:
    run.log("test_toy_ci", 2).write_text("".join(f"line {number}\n" for number in range(100)))
    saw(run, Gpu(0, "GPU-0", "H20", 1024, 97871, 37, ()))
    with toy.at_work(run):
        now = status(project, run.run_id)
        audit = strict_audit(project, run.run_id)

    assert (now.state, now.pytest_active, now.current and now.current.phase) == ("running", True, "pytest")
    assert now.stages == tuple(line for line in audit.audit_text.splitlines() if line.startswith("toy_"))
    assert [(one.index, one.memory_used_mib, one.utilization) for one in now.gpus] == [(0, 1024, 37)]
    assert now.pytest_tail == tuple(f"line {number}" for number in range(70, 100))
    text = now.text().splitlines()
    assert text[0].startswith("STRICT 2/2 stages · 4/4 cells ✓")
    assert "| line 99" in text and any("GPU 0 1024/97871 MiB" in line for line in text)


@pytest.mark.rule("POL-04")
def test_the_end_of_a_log_of_long_lines_leaves_the_reply_small(project: Project, run: RunDir) -> None:
    run.log("test_toy_ci", 2).write_text(f"HF_TOKEN=hf_abcdefghSECRET {'x' * 5000}\n" * 50)
    with toy.at_work(run, alerts=[ALERT.model_dump()] * 50):
        now = status(project, run.run_id)
    assert 1 <= len(now.pytest_tail) <= 30 and sum(map(len, now.pytest_tail)) <= 1200
    assert "SECRET" not in now.text() and len(now.text()) <= TEXT_LIMIT


def test_a_run_at_rest_has_no_active_log_and_no_open_alert(project: Project, run: RunDir) -> None:
    record = json.loads(run.supervisor.read_text())
    run.supervisor.write_text(json.dumps({**record, "alerts": [ALERT.model_dump()], "processes": {"pytest": 1}}))
    now = status(project, run.run_id)
    assert (now.pytest_tail, now.alerts, now.processes) == ((), (), {})


@pytest.mark.rule("WDG-11", "POL-12")
def test_open_alerts_and_the_roles_of_the_processes_are_in_every_poll(project: Project, run: RunDir) -> None:
    with toy.at_work(run, alerts=[ALERT.model_dump()], processes={"compiler": 3, "pytest": 1}):
        now = status(project, run.run_id)
    assert now.alerts == ("disk full: a file system is full. To do: free space",)
    assert now.processes == {"compiler": 3, "pytest": 1}
    assert "ALERT: disk full" in now.text() and "processes: 3 compiler, 1 pytest" in now.text()


@pytest.mark.rule("POL-10", "POL-01")
@pytest.mark.parametrize(("policy", "ceiling"), [("", 120), ("agent_policy: {poll_interval_max_s: 45}", 45)])
def test_the_hosts_own_ceiling_counts_where_it_is_lower(tmp_path: Path, policy: str, ceiling: int) -> None:
    root = tmp_path / "repo"
    profile = f"name: here\nhostname: nowhere.invalid\nrepo_root: {root}\n{policy}\n"
    toy.make_toy(root, files={".tune/hosts/here.yaml": profile})
    project = Project.resolve(Options(repo=root, host="here"))
    run = toy.finished_run(project)
    log = [line for line in run.events.read_text().splitlines(True) if '"kind": "observed"' not in line]
    run.events.write_text("".join(log))  # nobody knows yet how long it takes

    with toy.at_work(run):
        now = status(project, run.run_id)
        without_host = status(toy.open_project(root), run.run_id)

    assert now.eta_s is None and now.poll_within_s == ceiling and f"at most {ceiling} s apart" in now.next
    assert without_host.poll_within_s == now.poll_within_s, "the run keeps what it was started with"


@pytest.mark.rule("STR-09", "STR-15")
def test_cells_with_numbers_but_too_few_samples_are_complete_and_never_ready(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)

    run = toy.finished_run(project, 2, lambda job: toy.measured(job, summary={"evaluated": 3}))

    now = status(project, run.run_id)
    assert (now.complete, now.ok, now.total) == (True, 4, 4)
    assert (now.strict_ready, now.strict_complete) == ("0/2", False)
    assert now.text().startswith("STRICT 0/2 stages · 0/4 cells ✓")
    for gated in (report, apply_plan):
        with pytest.raises(Refusal, match="NOT_STRICT"):
            gated(project, run.run_id)


@pytest.mark.rule("STR-12", "STR-09")
@pytest.mark.parametrize("verb", ["report", "apply_plan", "apply"])
def test_each_gated_verb_audits_by_itself_whether_anybody_asked_or_not(
    project: Project, run: RunDir, verb: str
) -> None:
    report(project, run.run_id)
    planned = apply_plan(project, run.run_id)
    toy.rewrite_observation(run, "toy_speed", 2, lambda found: found["metrics"].update(throughput_qps=None))

    with pytest.raises(Refusal, match="NOT_STRICT"):
        match verb:
            case "report":
                report(project, run.run_id)
            case "apply_plan":
                apply_plan(project, run.run_id)
            case _:
                apply(project, run.run_id, planned.plan_id, "full", otherwise="apply")


@pytest.mark.rule("STR-26")
@pytest.mark.parametrize("state", ["running", "finished", "halted", "exhausted", "stopped", "failed", "lost"])
def test_status_is_the_same_typed_record_in_every_state(project: Project, run: RunDir, state: str) -> None:
    schema = StatusReply.model_json_schema(mode="serialization")
    record = json.loads(run.supervisor.read_text())
    run.supervisor.write_text(json.dumps({**record, "state": "running" if state == "lost" else state}))
    if state == "running":
        with toy.at_work(run):
            now = status(project, run.run_id)
    else:
        now = status(project, run.run_id)

    value = json.loads(now.model_dump_json())
    jsonschema.validate(value, schema)
    assert value["state"] == state
    wanted = {"complete", "strict_ready", "strict_complete", "ok", "total", "pytest_active", "missing"}
    assert wanted <= set(value) and wanted <= set(schema["required"])
