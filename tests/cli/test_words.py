"""A terminal gets its own commands, never a tool's name; the next step fits the state of the run."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import toy

import tune_mcp
from tune_mcp.actions import Step, ToClient, Tool, call, spoken
from tune_mcp.cli.install import CLIENTS
from tune_mcp.cli.main import main, parser
from tune_mcp.cli.words import Words
from tune_mcp.errors import Code, Refusal
from tune_mcp.verbs import questions
from tune_mcp.verbs.apply_plan import apply_plan, proposal_for
from tune_mcp.verbs.precheck import precheck
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status
from tune_mcp.words import number_of

TOOLS = [tool for tool in get_args(Tool) if "_" in tool]
FULL: dict[str, dict[str, object]] = {
    "discover": {"model": "toy"},
    "start_run": {"model": "toy", "stages": "@all", "repeats": 5, "label": "x y"},
    "resume_run": {"run_id": "r1", "purge": [{"stage": "s", "repeat": 2, "reason": "a b"}]},
    "status": {"run_id": "r1", "wait_s": 45},
    "apply": {"run_id": "r1", "plan_id": "0" * 16, "mode": "smart"},
}


def words(*argv: str) -> Words:
    return Words(parser().parse_args(argv))


def command(text: str) -> list[str]:
    found = re.fullmatch(r"run `(.+)`", text)
    assert found is not None, text
    return shlex.split(found[1])


@pytest.mark.parametrize("tool", get_args(Tool))
@pytest.mark.parametrize("full", [True, False])
def test_every_action_is_said_as_a_command_that_the_terminal_understands(tool: Tool, full: bool) -> None:
    said = words("report", "r1", "--repo", "/some where").command(call(tool, **(FULL.get(tool, {}) if full else {})))

    program, *rest = command(said)
    assert program == "tune-mcp"
    assert parser().parse_args(rest).repo.as_posix() == "/some where"


def test_a_call_about_a_run_fills_in_that_run_and_a_named_one_wins() -> None:
    here = words("audit", "r1")
    assert command(here.command(call("resume_run"))) == ["tune-mcp", "resume", "r1"]
    assert command(here.command(call("resume_run", run_id="r2"))) == ["tune-mcp", "resume", "r2"]
    assert command(words("catalog").command(call("resume_run"))) == ["tune-mcp", "resume", "RUN"]


def test_a_step_speaks_to_a_client_as_a_string_and_keeps_its_actions_through_a_refusal_and_another_step() -> None:
    inner = Step(call("report", run_id="r1"), ToClient(", tell the user its path"), ", then ", call("apply_plan"))
    refusal = Refusal(Code.NOT_REPORTED, "APL-01", "no report", Step("first ", inner))

    assert refusal.text().endswith(
        "Next: first call report with run_id=r1, tell the user its path, then call apply_plan."
    )
    assert spoken(refusal.next, lambda action: action.tool.upper()) == "first REPORT, then APPLY_PLAN"
    assert (
        words("plan", "r1")
        .refusal(refusal)
        .text()
        .endswith("Next: first run `tune-mcp report r1`, then run `tune-mcp plan r1`.")
    )


def test_no_reply_or_refusal_at_a_terminal_names_a_tool(tune: Any, project: Project) -> None:
    run = toy.finished_run(project)
    nobody = "20200101T000000Z_nobody"
    calls = [
        ("catalog",), ("catalog", toy.MODEL), ("discover", toy.MODEL), ("precheck", toy.MODEL), ("status",),
        ("status", run.run_id), ("audit", run.run_id), ("plan", run.run_id), ("apply", run.run_id, "--mode", "smart"),
        ("report", run.run_id), ("plan", run.run_id), ("apply", run.run_id, "--mode", "report"),
        ("stop", run.run_id, "--reason", "over"), ("tail", run.run_id, "--once"), ("status", nobody),
        ("run", "nothing", "--detach"), ("resume", nobody),
    ]  # fmt: skip
    for words in calls:
        done = tune(*words)
        text = done.out + done.err
        assert "Next:" in text or words[0] == "audit", words
        assert not [tool for tool in TOOLS if tool in text], (words, text)


def test_no_text_of_the_code_names_a_call_that_a_terminal_cannot_say_in_its_own_words() -> None:
    """A call in a plain string reaches a terminal as it is; ``Step`` and ``call`` are for that."""
    package = Path(tune_mcp.__file__).parent
    tools = re.compile(rf"\bcall ({'|'.join(get_args(Tool))})\b")
    found = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sorted(package.rglob("*.py"))
        if "server" not in path.relative_to(package).parts
        for tree in [ast.parse(path.read_text())]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and tools.search(node.value)
        if node.value not in _docstrings(tree)
    ]
    assert not found


def test_no_text_leaves_it_to_the_reader_whether_it_is_one_or_many() -> None:
    package = Path(tune_mcp.__file__).parent
    found = [path.name for path in sorted(package.rglob("*.py")) if re.search(r"[A-Za-z]\(s\)[^)]", path.read_text())]
    assert not found
    assert (number_of(1, "file"), number_of(0, "file"), number_of(2, "file")) == ("1 file", "0 files", "2 files")


def _docstrings(tree: ast.Module) -> set[object]:
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {value.value for value in statements if isinstance(value, ast.Constant)}


PROGRAMS = r"tune-mcp|git|cd|python3?|\S+/python3?|uv|pip|chmod|mv|mkdir|kill|export|printf|ssh"
COMMAND = re.compile(rf"`([^`\n]+)`|(?:^|[\s:(])((?:{PROGRAMS}) (?:[^\n.;,)]|[.;,)](?!\s|$))+)", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Every piece of the text that a shell could be given."""
    return [one[0] or one[1] for one in COMMAND.findall(text)]


@pytest.fixture
def awkward(tmp_path: Path) -> Project:
    """A toy in a folder that a shell would not take as it is."""
    tight = toy.toy_source().replace('"throughput_qps": 1.0, "latency_mean_s": 9.0', toy.TIGHT)
    return toy.make_toy(tmp_path / """-it's my répo "$HOME" & co""", test_source=tight)


def test_every_command_in_every_text_quotes_the_repositorys_path(
    awkward: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = str(awkward.repo_root)
    told: list[str] = []

    def tune(*words: str) -> str:
        with contextlib.suppress(SystemExit):
            main([*words, "--repo", repo])
        said = capsys.readouterr()
        told.append(said.out + said.err)
        return told[-1]

    (awkward.repo_root / "-n stray.txt").write_text("")
    with toy.supervised_here():
        started = start_run(awkward, toy.MODEL, ("ALL",), 2)
    run = started.run_id
    told += [started.text(), precheck(awkward, toy.MODEL).text(), status(awkward, run).text()]
    tune("apply", run, "--mode", "full")
    report(awkward, run)
    plan = apply_plan(awkward, run)
    told += [
        plan.text(),
        str(questions.missing(awkward, run, proposal_for(awkward, run, None).plan.rows)),
    ]
    for words in (
        ("catalog",), ("catalog", toy.MODEL), ("discover", toy.MODEL), ("precheck", toy.MODEL), ("status",),
        ("precheck", toy.MODEL, "--venv-python", f"{repo}/.venv/bin/python"), ("status", run), ("audit", run),
        ("tail", run, "--once"), ("report", run), ("plan", run), ("apply", run, "--mode", "smart"), ("doctor",),
        ("apply", run, "--mode", "smart", "--otherwise", "apply"), ("apply", run, "--undo", plan.plan_id),
        ("stop", run, "--reason", "over"), ("resume", run), ("init", "--model", "new"),
        ("init", "--model", toy.MODEL),
        *(("install", client.name, "--dry-run") for client in CLIENTS),
    ):  # fmt: skip
        tune(*words)
    (awkward.repo_root / toy.TEST_FILE).write_text("# not the one that discover read\n")
    for words in (("run", toy.MODEL, "--detach"), ("precheck", toy.MODEL), ("catalog", toy.MODEL), ("plan", run)):
        tune(*words)

    shown = (repo, shlex.quote(repo)[:-1])
    found = [command for text in told for command in commands(text) if any(path in command for path in shown)]
    assert len(found) > 20
    for command in found:
        assert any(repo in word for word in shlex.split(command)), command


@pytest.mark.rule("RPT-05")
def test_the_next_step_of_a_complete_run_follows_what_was_done_with_it(tune: Any, project: Project) -> None:
    run = toy.finished_run(project)
    assert status(project, run.run_id).next == f"call report with run_id={run.run_id}"
    assert "resume" not in tune("stop", run.run_id, "--reason", "over").out

    report(project, run.run_id)
    assert status(project, run.run_id).next == f"call apply_plan with run_id={run.run_id}"

    done = tune("apply", run.run_id, "--mode", "full", "--otherwise", "apply")
    assert done.code == 0, done.err
    after = status(project, run.run_id).next
    assert after.startswith("the thresholds of this run are written") and "strict_audit" not in after
    assert f"`tune-mcp plan {run.run_id} --repo " in tune("status", run.run_id).out
