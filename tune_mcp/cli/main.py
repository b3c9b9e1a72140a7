"""``tune-mcp <verb>``: each verb is the same function as its tool.

Exit codes: 0 done or ready, 1 not ready, 2 refused or wrong usage, 3 a bug.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tune_mcp import __version__
from tune_mcp.errors import Code, Refusal, unusable

if TYPE_CHECKING:
    from tune_mcp.contract.reply import Reply
    from tune_mcp.verbs.project import Options, Project

MODEL, RUN = "name of the model, as catalog lists it", "id of the run, as status lists it"
STAGES = "keys or aliases as catalog lists them, with commas"
DONE, NOT_READY, REFUSED, BUG = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run one verb, translate what it gives into text and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tune-mcp")
    words = Parser.words = sys.argv[1:] if argv is None else argv
    arguments = parser(next(iter(words), None)).parse_args(words)
    try:
        code: int = arguments.verb(arguments)
        sys.stdout.flush()
    except Refusal as refusal:
        return _refused(refusal, arguments)
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return NOT_READY
    except Exception as error:
        if refusal := unusable(error):
            return _refused(refusal, arguments)
        import traceback

        traceback.print_exc()
        return BUG
    return code


_PLAIN = dict(zip("✓△✗—–·→×…≤≥", ["v", "~", "x", "-", "-", "*", "->", "x", "...", "<=", ">="], strict=True))


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows that cannot show the sign itself: the cells of a matrix stay different ones."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in signs), error.end


codecs.register_error("tune-mcp", _plain)


def _refused(refusal: Refusal, arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.words import Words

    return _say(Words(arguments).refusal(refusal), typed=arguments.json)


def _say(refusal: Refusal, *, typed: bool) -> int:
    if typed:
        print(_json(json.dumps(refusal.data(), ensure_ascii=False)))
    print(refusal.text(), file=sys.stderr)
    return REFUSED


class Parser(argparse.ArgumentParser):
    """Wrong usage is a refusal like every other."""

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is; exit code 2."""
        step = f"read {self.prog} --help"
        if "required: run_id" in message:
            step = "name the run: tune-mcp status lists them"
        refusal = Refusal(Code.INVALID_ARGUMENT, (), message, step)
        self.exit(_say(refusal, typed="--json" in Parser.words))


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Every verb with its arguments; only that one's are complete when one is ``asked`` for."""
    common = Parser(add_help=False)
    common.add_argument("--repo", type=Path, help="the repository (default: TUNE_REPO_ROOT, the host profile, git)")
    common.add_argument("--host", help="host profile (default: TUNE_HOST, the hostname)")
    common.add_argument("--config", type=Path, help="a folder with models/ and hosts/ that is looked at first")
    common.add_argument("--venv-python", help="the project's interpreter")
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    top = Parser(
        prog="tune-mcp",
        description="Measure the thresholds that CI tests assert, and write the strict worst of N into the test files.",
        epilog="Start in your repository with: tune-mcp init --model NAME --run",
    )
    top.add_argument("--version", action="version", version=f"tune-mcp {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, of: str = "") -> argparse.ArgumentParser:
        """``of``: what the verb is about, RUN or MODEL."""
        parents = [common] if asked in (None, name) else []
        made = verbs.add_parser(name, parents=parents, help=text, description=text)
        made.set_defaults(verb=run)
        if of:
            made.add_argument("model" if of == MODEL else "run_id", help=of)
        return made

    one = verb("serve", _serve, "the MCP server over stdio, or over HTTP for clients on this machine")
    one.add_argument("--http", action="store_true", help="HTTP on loopback, behind a bearer token, instead of stdio")
    one.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="with --http; others need --token-file")
    one.add_argument("--port", type=int, default=8765, help="with --http; 8765 by default")
    one.add_argument("--token-file", type=Path, help="with --http: mode 0600 (default: your own, made when missing)")
    one.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST:PORT", help="with --http: a name of this host"
    )
    one = verb("demo", _demo, "calibrate a real speech workload on this CPU, from start to end")
    one.add_argument("--folder", type=Path, help="where to make its repository (default: a new temporary folder)")
    one.add_argument("--repeats", type=int, default=5, help="how often each test file runs, 5 by default")
    one = verb("catalog", _catalog, "hosts, models, and a model's stages")
    one.add_argument("model", nargs="?", help=MODEL)
    one = verb("discover", _discover, "read tests and config into stages.yaml", MODEL)
    one.add_argument("--dry-run", action="store_true", help="show, do not write")
    one.add_argument(
        "--coverage", type=Path, metavar="FILE", help="write every asserted number and who keeps it, as Markdown"
    )
    one = verb("init", _init, "write a model's config from your own tests; --run measures once to find the values")
    one.add_argument("tests", nargs="*", help="test files or folders (default: tests/)")
    one.add_argument("--model", required=True, help="name of the new model")
    one.add_argument("--run", action="store_true", help="run the tests once, and look at what they leave")
    one.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="METRIC=FILE::PATH",
        help="where a value is, below pytest's basetemp",
    )
    one.add_argument(
        "--replace",
        action="store_true",
        help="write an existing config.yaml anew; its gpus_per_test and test_outputs stay",
    )
    one.add_argument("--yes", action="store_true", help="do not ask before it writes")
    one = verb("precheck", _precheck, "is this machine ready?", MODEL)
    one.add_argument("--stages", default="ALL", help=STAGES)
    one = verb("run", _run, "start a run and watch it; Ctrl-C stops watching, not the run", MODEL)
    one.add_argument("--stages", default="ALL", help=STAGES)
    one.add_argument("--repeats", type=int, default=5, help="how often each test file runs, 5 by default")
    one.add_argument("--label", help="a word in the run's id")
    one.add_argument("--lanes", type=int, default=1, help="lanes of the host profile to use at once, 0 for all")
    one.add_argument("--detach", action="store_true", help="start it and return")
    one = verb("resume", _resume, "continue an interrupted run", RUN)
    one.add_argument(
        "--purge", action="append", default=[], metavar="STAGE:REPEAT:REASON", help="measure a repeat again"
    )
    one = verb("stop", _stop, "stop a run and keep what is complete", RUN)
    one.add_argument("--reason", required=True, help="why; kept with the run")
    one = verb("status", _status, "progress of a run; without a run, the list of runs")
    one.add_argument("run_id", nargs="?", help=RUN)
    one.add_argument("--wait", type=float, default=0, metavar="S", help="wait for a change, up to 50 seconds")
    one = verb("audit", _audit, "which repeats count, and whether all do: the strict audit", RUN)
    one = verb("tail", _tail, "follow the pytest log that is active now", RUN)
    one.add_argument("--once", action="store_true", help="print the last lines and end")
    one.add_argument("--lines", type=int, default=30, help="how many lines to begin with, 30 by default")
    one = verb("watch", _watch, "milestones, the strict matrix, progress and time left", RUN)
    one.add_argument("--page", action="store_true", help="also keep dashboard.html in the run directory, for a browser")
    one = verb("report", _report, "write report.md, report.json, report.html", RUN)
    one.add_argument("--publish", action="store_true", help="also put it into docs/calibration/, with its history line")
    one = verb("plan", _plan, "what would be written into the test files", RUN)
    one.add_argument(
        "--against", metavar="REF", help="does that commit still measure the same, and which thresholds changed there?"
    )
    one = verb("apply", _apply, "write the thresholds, asking for each that loosens", RUN)
    one.add_argument(
        "--mode", choices=["report", "smart", "full"], help="how much to write: nothing, what tightens, or all"
    )
    one.add_argument("--plan-id", help="refuse unless this is the plan that would be applied")
    one.add_argument(
        "--decide",
        action="append",
        default=[],
        metavar="STAGE/METRIC=keep|apply|NUMBER",
        help="the decision on one metric",
    )
    one.add_argument("--otherwise", choices=["keep", "apply"], help="the decision on all others")
    one.add_argument("--undo", metavar="PLAN_ID", help="restore the files as they were before that apply")
    one = verb("merge", _merge, "join partitions of one plan, measured by several runs, into one run")
    one.add_argument("runs", nargs="+", metavar="RUN", help="ids of runs, or paths of run directories")
    one.add_argument("--label", default="merged", help="a word in the new run's id")
    one = verb("doctor", _doctor, "what a run of each model of this repository lacks on this machine")
    one.add_argument("model", nargs="?", help=MODEL)
    one = verb("install", _install, "put the server into a client's configuration; shows the difference")
    one.add_argument(
        "client", help="claude-code, claude-desktop, cursor, vscode, codex, gemini, zed, opencode, copilot"
    )
    one.add_argument("--undo", action="store_true", help="remove the server from the configuration")
    one.add_argument("--dry-run", action="store_true", help="show the difference only")
    return top


def _options(arguments: argparse.Namespace) -> Options:
    from tune_mcp.verbs.project import Options

    return Options(arguments.repo, arguments.host, arguments.config, arguments.venv_python)


def _project(arguments: argparse.Namespace) -> Project:
    from tune_mcp.verbs.project import Project

    return Project.resolve(_options(arguments))


def _show(arguments: argparse.Namespace, reply: Reply, ready: bool = True) -> int:
    """Print a reply, and give the exit code."""
    from tune_mcp.cli.words import Words

    reply = Words(arguments).reply(reply)
    print(_json(reply.model_dump_json()) if arguments.json else reply.text(), flush=True)
    return DONE if ready else NOT_READY


def _json(text: str) -> str:
    """JSON for this terminal: in ASCII where it does not take UTF-8, since no sign of it may be replaced."""
    return text if (sys.stdout.encoding or "").lower().startswith("utf") else json.dumps(json.loads(text))


def _serve(arguments: argparse.Namespace) -> int:
    from tune_mcp.server.http import HttpOptions
    from tune_mcp.server.serve import serve

    http = HttpOptions(arguments.bind, arguments.port, arguments.token_file, tuple(arguments.allow_host))
    return serve(_options(arguments), http if arguments.http else None)


def _demo(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.demo import demo

    return demo(arguments.folder, arguments.repeats)


def _catalog(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.catalog import catalog

    return _show(arguments, catalog(_project(arguments), arguments.model))


def _discover(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.discover import discover

    reply = discover(_project(arguments), arguments.model, not arguments.dry_run, arguments.coverage)
    return _show(arguments, reply, bool(reply.stages and not reply.needs_config))


def _init(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.init import init_at_terminal

    how = {"run": arguments.run, "replace": arguments.replace, "yes": arguments.yes}
    reply = init_at_terminal(_project(arguments), arguments.tests, arguments.model, arguments.path, **how)
    return _show(arguments, reply, bool(reply.written and not reply.missing))


def _precheck(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.precheck import precheck

    reply = precheck(_project(arguments), arguments.model, [arguments.stages])
    return _show(arguments, reply, reply.ok)


def _doctor(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.doctor import doctor

    def say(line: str) -> None:
        if not arguments.json:
            print(line)

    return doctor(_project(arguments), arguments.model, lambda reply: _show(arguments, reply), say)


def _install(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.install import install

    return install(arguments.client, _project(arguments), undo=arguments.undo, dry_run=arguments.dry_run)


def _run(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.watch import watch
    from tune_mcp.cli.words import Words
    from tune_mcp.verbs.start_run import start_run

    project = _project(arguments)
    reply = start_run(project, arguments.model, [arguments.stages], arguments.repeats, arguments.label, arguments.lanes)
    _show(arguments, reply)
    return DONE if arguments.detach else watch(project, reply.run_id, Words(arguments).reply)


def _resume(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.resume import resume_at_terminal
    from tune_mcp.contract.resume_run import PurgeItem

    purge = [PurgeItem.parse(word) for word in arguments.purge]
    return _show(arguments, resume_at_terminal(_project(arguments), arguments.run_id, purge))


def _stop(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.stop_run import stop_run

    return _show(arguments, stop_run(_project(arguments), arguments.run_id, arguments.reason))


def _status(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.status import list_runs, status

    project = _project(arguments)
    if arguments.run_id is None:
        return _show(arguments, list_runs(project))
    reply = status(project, arguments.run_id, arguments.wait)
    return _show(arguments, reply, reply.strict_complete)


def _audit(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.strict_audit import strict_audit

    reply = strict_audit(_project(arguments), arguments.run_id)
    _show(arguments, reply)
    if not arguments.json and (len(reply.hosts) > 1 or any(one.quarantined for one in reply.hosts)):
        print("hosts:", *(f"  {one.line()}" for one in reply.hosts), sep="\n", flush=True)
    return DONE if reply.ready else NOT_READY


def _tail(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.tail import follow

    if arguments.json or arguments.once:
        from tune_mcp.verbs.tail_pytest import tail_pytest

        return _show(arguments, tail_pytest(_project(arguments), arguments.run_id, arguments.lines))
    return follow(_project(arguments), arguments.run_id, arguments.lines)


def _watch(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.watch import watch
    from tune_mcp.cli.words import Words

    return watch(_project(arguments), arguments.run_id, Words(arguments).reply, page=arguments.page)


def _report(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.report import publish, report

    project = _project(arguments)
    _show(arguments, report(project, arguments.run_id))
    if arguments.publish:
        paths = publish(project, arguments.run_id)
        print(*(f"published: {path}" for path in paths), sep="\n", file=sys.stderr if arguments.json else sys.stdout)
    return DONE


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.against is not None:
        from tune_mcp.verbs.against import against

        found = against(_project(arguments), arguments.run_id, arguments.against)
        return _show(arguments, found, found.current)
    from tune_mcp.verbs.apply_plan import apply_plan

    reply = apply_plan(_project(arguments), arguments.run_id)
    # The ready argument of the tool; a person is asked by apply, or names each with --decide.
    return _show(arguments, reply if arguments.json else reply.model_copy(update={"decisions": ()}))


def _merge(arguments: argparse.Namespace) -> int:
    from tune_mcp.verbs.merge import merge

    return _show(arguments, merge(_project(arguments), arguments.runs, arguments.label))


def _apply(arguments: argparse.Namespace) -> int:
    from tune_mcp.cli.apply import apply_at_terminal
    from tune_mcp.verbs.apply import undo

    project = _project(arguments)
    if arguments.undo:
        return _show(arguments, undo(project, arguments.run_id, arguments.undo))
    choices = (arguments.mode, arguments.plan_id, arguments.decide, arguments.otherwise)
    return _show(arguments, apply_at_terminal(project, arguments.run_id, *choices))
