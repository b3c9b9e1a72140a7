"""Each verb is its tool: the same facts, as text or typed, and an exit code a script can rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.cli.main import main
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status

pytestmark = pytest.mark.usefixtures("warm")

DONE, NOT_READY, REFUSED, BUG = 0, 1, 2, 3
NOBODY = "20200101T000000Z_nobody"
CONTRACT = [
    "serve", "demo", "catalog", "discover", "precheck", "run", "resume", "stop", "status", "audit", "tail", "watch",
    "report", "plan", "apply", "install", "doctor",
]  # fmt: skip


def test_help_names_every_verb_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [verb for verb in CONTRACT if f"\n    {verb} " not in text] == []


@pytest.mark.parametrize("verb", CONTRACT)
def test_every_verb_accepts_the_common_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in ("--repo", "--host", "--config", "--venv-python", "--json"):
        assert option in text


@pytest.mark.parametrize(
    "words", [["nope"], [], ["status", "--colour"], ["report"], ["run"], ["apply", NOBODY, "--mode", "yolo"]]
)
def test_wrong_usage_exits_with_two_and_says_so_on_stderr(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == REFUSED
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("INVALID_ARGUMENT: ") and len(said.err.splitlines()) == 1
    step = "name the run: tune-mcp status lists them" if words == ["report"] else "read tune-mcp"
    assert f". Next: {step}" in said.err

    with pytest.raises(SystemExit):
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["catalog", "toys"], "UNKNOWN_MODEL"),
        (["discover", "toys"], "UNKNOWN_MODEL"),
        (["precheck", "toy", "--stages", "nope"], "UNKNOWN_STAGE"),
        (["run", "toy", "--repeats", "0"], "INVALID_ARGUMENT"),
        (["resume", NOBODY], "UNKNOWN_RUN"),
        (["resume", NOBODY, "--purge", "nonsense"], "INVALID_ARGUMENT"),
        (["stop", NOBODY, "--reason", "over"], "UNKNOWN_RUN"),
        (["status", NOBODY], "UNKNOWN_RUN"),
        (["status", "../../etc"], "UNKNOWN_RUN"),
        (["status", NOBODY, "--wait", "51"], "WAIT_TOO_LONG"),
        (["status", NOBODY, "--wait", "nan"], "INVALID_ARGUMENT"),
        (["audit", NOBODY], "UNKNOWN_RUN"),
        (["tail", NOBODY], "UNKNOWN_RUN"),
        (["watch", NOBODY], "UNKNOWN_RUN"),
        (["report", NOBODY], "UNKNOWN_RUN"),
        (["plan", NOBODY], "UNKNOWN_RUN"),
        (["apply", NOBODY], "UNKNOWN_RUN"),
        (["apply", NOBODY, "--undo", "0" * 16], "UNKNOWN_RUN"),
        (["doctor", "toys"], "UNKNOWN_MODEL"),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_two(tune: Any, words: list[str], code: str) -> None:
    done = tune(*words)
    assert (done.code, done.out) == (REFUSED, "")
    assert done.err.startswith(f"{code} [") and ". Next: " in done.err

    typed = tune(*words, "--json")
    assert typed.code == REFUSED
    assert set(json.loads(typed.out)) == {"code", "rules", "message", "next", "details"}
    assert json.loads(typed.out)["code"] == code
    assert typed.err == done.err


def test_a_bug_exits_with_three_and_keeps_its_traceback(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tune_mcp.verbs.status.list_runs", broken)
    done = tune("status")

    assert (done.code, done.out) == (BUG, "")
    assert "Traceback" in done.err and "ZeroDivisionError: a bug" in done.err


def test_a_calibration_at_a_terminal_goes_from_catalog_to_apply(tune: Any, project: Project) -> None:
    assert tune("catalog").code == DONE
    assert "toy_speed" in tune("catalog", "toy").out
    assert tune("discover", "toy").code == DONE
    assert tune("precheck", "toy").code == DONE
    assert tune("doctor", "toy").code == DONE
    with toy.supervised_here():
        started = tune("run", "toy", "--repeats", "2", "--label", "mine", "--detach")
    assert started.code == DONE and started.out.startswith("Running toy: toy_accuracy,toy_speed, 2 repeats")
    (entry,) = json.loads(tune("status", "--json").out)["runs"]
    run_id = entry["run_id"]
    assert run_id.endswith("_mine")
    assert tune("status", run_id).out.startswith("STRICT 2/2 stages")
    assert tune("status", run_id).code == tune("audit", run_id).code == tune("watch", run_id).code == DONE
    assert tune("audit", run_id).out.splitlines()[-1] == "STRICT + GIT: READY"
    assert "2 passed" in tune("tail", run_id, "--once").out
    assert tune("apply", run_id, "--mode", "full").code == REFUSED
    assert tune("report", run_id).code == DONE
    before = (project.repo_root / toy.TEST_FILE).read_bytes()
    plan_id = json.loads(tune("plan", run_id, "--json").out)["plan_id"]
    assert plan_id in tune("plan", run_id).out

    applied = tune("apply", run_id, "--mode", "full", "--plan-id", plan_id)

    assert applied.code == DONE and "TOY_ACC_MIN = 0.625 (was 0.5" in applied.out
    after = (project.repo_root / toy.TEST_FILE).read_bytes()
    assert after != before
    assert tune("apply", run_id, "--mode", "full", "--plan-id", plan_id).err.startswith("STALE_PLAN [")
    assert tune("apply", run_id, "--undo", plan_id).code == DONE
    assert (project.repo_root / toy.TEST_FILE).read_bytes() == before


def test_doctor_checks_the_models_that_have_tests_here_and_names_the_others(tune: Any, project: Project) -> None:
    done = tune("doctor")
    assert done.code == DONE and "precheck toy: ok" in done.out
    assert "no test of these models is in this repository: asr, omni" in done.out
    assert "precheck asr" not in done.out

    (project.repo_root / toy.TEST_FILE).unlink()
    done = tune("doctor")
    assert done.code == NOT_READY and "Next: " in done.out and "tune-mcp init --model NAME --run" in done.out


def test_what_is_not_ready_exits_with_one(tune: Any, project: Project) -> None:
    def second_fails(job: Any) -> Any:
        return toy.measured(job) if job.repeat == 1 else None

    run = toy.finished_run(project, attempt=second_fails)
    for words in (["status", run.run_id], ["audit", run.run_id], ["watch", run.run_id]):
        assert tune(*words).code == NOT_READY, words
    assert "STRICT + GIT: READY" not in tune("audit", run.run_id).out
    assert tune("report", run.run_id).err.startswith("NOT_STRICT [")
    config = project.repo_root / ".tune/models/toy/config.yaml"
    text = json.loads(config.read_text())
    config.write_text(json.dumps({**text, "default_venv_python": ["/nowhere/python"]}))
    assert tune("precheck", "toy").code == NOT_READY
    assert tune("doctor").code == NOT_READY
    del text["metric_sources"]["test_toy_ci.py"]["paths"]["accuracy"]
    text["metric_sources"]["test_toy_ci.py"]["json_file"] = "nowhere.json"
    config.write_text(json.dumps(text))
    assert tune("discover", "toy", "--dry-run").code == NOT_READY


def test_resume_and_stop_are_the_tools_too(tune: Any, project: Project) -> None:
    run = toy.finished_run(project, attempt=lambda job: None if job.repeat == 2 else toy.measured(job))
    assert status(project, run.run_id).state == "halted"
    with toy.supervised_here():
        resumed = tune("resume", run.run_id, "--purge", "toy_speed:2:it was noisy")
    assert resumed.code == DONE
    assert tune("status", run.run_id).code == DONE
    assert tune("resume", run.run_id, "--purge", "toy_speed:2:again").err.startswith("REPEAT_IS_STRICT [")
    assert tune("stop", run.run_id, "--reason", "over").code == DONE


@pytest.mark.parametrize(
    "words",
    [["catalog"], ["catalog", "toy"], ["discover", "toy"], ["precheck", "toy"], ["status"], ["status", "RUN"],
     ["audit", "RUN"], ["tail", "RUN", "--once"], ["report", "RUN"], ["plan", "RUN"],
     ["apply", "RUN", "--mode", "report"],
     ["stop", "RUN", "--reason", "over"], ["doctor", "toy"], ["tail", "RUN"]],
)  # fmt: skip
def test_json_is_one_line_of_typed_facts(tune: Any, project: Project, words: list[str]) -> None:
    run = toy.finished_run(project)
    tune("report", run.run_id)

    done = tune(*[run.run_id if word == "RUN" else word for word in words], "--json")

    assert (done.code, done.err) == (DONE, "")
    (line,) = done.out.splitlines()
    assert json.loads(line)["next"]


# ---- apply at a terminal ----------------------------------------------------------------------------------------


@pytest.fixture
def loosening(tune: Any, project: Project) -> str:
    """A reported run that would loosen the throughput and tighten the other metrics."""
    path = project.repo_root / toy.TEST_FILE
    path.write_text(path.read_text().replace('"throughput_qps": 1.0', '"throughput_qps": 99.0'))
    tune("discover", "toy")
    toy.commit(project)
    run_id = toy.finished_run(project).run_id
    assert tune("report", run_id).code == DONE
    return run_id


def source(project: Project) -> str:
    return (project.repo_root / toy.TEST_FILE).read_text()


@pytest.mark.rule("APL-04")
def test_apply_without_a_mode_and_without_a_terminal_refuses(tune: Any, project: Project, loosening: str) -> None:
    before = source(project)
    done = tune("apply", loosening)

    assert done.code == REFUSED
    assert done.err.startswith("DECISION_MISSING [APL-04]") and "--mode report|smart|full" in done.err
    assert source(project) == before


@pytest.mark.rule("APL-05", "APL-12", "APL-13")
def test_smart_without_a_terminal_wants_every_decision_on_the_command_line(
    tune: Any, project: Project, loosening: str
) -> None:
    before = source(project)
    for words, code in (
        ([], "DECISION_MISSING"),
        (["--decide", "toy_speed/throughput_qps"], "INVALID_ARGUMENT"),
        (["--decide", "throughput_qps=keep"], "INVALID_ARGUMENT"),
        (["--decide", "toy_speed/throughput_qps=fast"], "DECISION_INVALID"),
        (["--decide", "toy_speed/throughput_qps=20"], "DECISION_INVALID"),
        (["--decide", "toy_speed/nope=keep"], "DECISION_INVALID"),
        (["--decide", "toy_speed/throughput_qps=keep", "--decide", "toy_speed/throughput_qps=8"], "DECISION_INVALID"),
        (["--plan-id", "0" * 16], "STALE_PLAN"),
    ):
        done = tune("apply", loosening, "--mode", "smart", *words)
        assert done.code == REFUSED and done.err.startswith(f"{code} ["), words
    done = tune("apply", "no_such_run", "--mode", "smart", "--decide", "throughput_qps")
    assert done.err.startswith("INVALID_ARGUMENT ["), "words are judged before anything is read"
    assert source(project) == before

    asked = tune("apply", loosening, "--mode", "smart").err
    assert "--decide toy_speed/throughput_qps=keep" in asked and "stage_key" not in asked
    assert "stage_key" not in tune("plan", loosening).out
    assert tune("apply", loosening, "--mode", "smart", "--decide", "toy_speed/throughput_qps=8.50").code == DONE
    assert '"throughput_qps": 8.50, "latency_mean_s": 0.25' in source(project)


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody at a terminal; fill the list with what is typed. An empty list is the end of the input."""
    typed: list[str] = []

    def read(_: str = "") -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("tune_mcp.cli.apply.at_terminal", lambda: True)
    return typed


@pytest.mark.rule("APL-05", "APL-12", "SCP-06")
def test_a_person_at_a_terminal_is_shown_the_plan_and_asked_for_mode_and_metric(
    tune: Any, project: Project, loosening: str, person: list[str]
) -> None:
    person += ["yolo", "smart", "8.50"]
    done = tune("apply", loosening)

    assert done.code == DONE and person == []
    assert "plan_id: " in done.out and "one of: report, smart, full" in done.out
    assert "observed per run: 12.5, 10.25" in done.out
    assert '"throughput_qps": 8.50' in source(project)


def test_enter_is_the_harmless_answer(tune: Any, project: Project, loosening: str, person: list[str]) -> None:
    before = source(project)
    person += [""]
    assert tune("apply", loosening).code == DONE
    assert source(project) == before
    person += ["smart", ""]
    assert tune("apply", loosening).code == DONE
    assert '"throughput_qps": 99.0' in source(project)


@pytest.mark.rule("SCP-06")
def test_the_end_of_the_input_is_a_no(tune: Any, project: Project, loosening: str, person: list[str]) -> None:
    before = source(project)
    for words in ([], ["smart"]):
        person[:] = words
        done = tune("apply", loosening)
        assert done.code == REFUSED and done.err.startswith("DECLINED [")
    assert source(project) == before


# ---- processes --------------------------------------------------------------------------------------------------


def process(repo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tune_mcp", *words, "--repo", str(repo)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("verb", ["status", "status RUN", "audit RUN", "tail RUN --once"])
def test_a_verb_that_reads_a_run_loads_neither_the_protocol_nor_what_writes_or_judges_tests(
    project: Project, verb: str
) -> None:
    words = [*verb.replace("RUN", toy.finished_run(project).run_id).split(), "--repo", str(project.repo_root)]
    code = (
        f"import sys; from tune_mcp.cli.main import main; code = main({words!r}); "
        "heavy = {'mcp', 'mcp_types', 'jinja2', 'rich', 'starlette', 'tomlkit', 'httpx2', 'yaml', 'packaging', "
        "'tune_mcp.apply', 'tune_mcp.discover', 'tune_mcp.report.statistics', 'tune_mcp.precheck.venv'}; "
        "print(sorted(heavy & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines()[-1] == "[] 0", done.stdout


def test_the_exit_code_of_the_process_is_that_of_the_verb(project: Project) -> None:
    assert process(project.repo_root, "catalog", "toy").returncode == DONE
    refused = process(project.repo_root, "catalog", "toys")
    assert (refused.returncode, refused.stdout) == (REFUSED, "")
    assert refused.stderr.startswith("UNKNOWN_MODEL [")


def test_a_reader_that_leaves_early_is_no_error(project: Project) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tune_mcp", "catalog", "toy", "--repo", str(project.repo_root)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == DONE
    assert "Traceback" not in done.stderr


@pytest.mark.rule("SUP-07", "SUP-08", "SUP-09", "SUP-10")
def test_watch_prints_milestones_and_tail_switches_logs_while_a_real_run_goes_on(
    project: Project, tmp_path: Path
) -> None:
    run = toy.start_and_hold(project)
    words = [sys.executable, "-u", "-m", "tune_mcp"]
    said = {verb: tmp_path / f"{verb}.txt" for verb in ("watch", "tail")}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for verb, path in said.items():
            with path.open("wb") as out:
                asked = [*words, verb, run.run_id, "--repo", str(project.repo_root)]
                processes[verb] = subprocess.Popen(asked, stdin=subprocess.DEVNULL, stdout=out)
        toy.wait_for(lambda: all(path.stat().st_size > 10 for path in said.values()), what="the first lines")
        toy.hold(project, 2)  # it lasts for less than tail takes between two looks
        toy.let_go(project, 1)
        toy.wait_for(lambda: "run 2" in said["tail"].read_text(), what="the second log")
        toy.let_go(project, 2)
        assert [process.wait(60) for process in processes.values()] == [DONE, DONE]
    finally:
        toy.let_go(project, 1)
        toy.let_go(project, 2)
        for process in processes.values():
            process.kill()
            process.wait()
    lines, tailed = said["watch"].read_text().splitlines(), said["tail"].read_text()
    kinds = [line.split()[1] for line in lines if line[:2] == "20"]
    assert kinds[0] == "planned" and kinds[-1] == "finished"
    assert any("STRICT 2/2 stages, 4/4 cells" in line for line in lines)
    assert lines[-1].startswith(f"Next: run `tune-mcp report {run.run_id}")
    assert f"==> {toy.TEST_KEY} run 2 <==" in tailed
    assert f"==> {toy.TEST_KEY} run 1 <==" in tailed
    assert "2 passed" in tailed and "[the run is finished" in tailed
