"""Whatever options a repository gives pytest, a repeat is one whole pass over the file, or it is not strict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import state
from tune_mcp.supervise import guard_record, loop
from tune_mcp.supervise.job import AttemptResult, Job
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

FAILING = toy.toy_source().replace("TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.99")
"""The first of the two tests fails its threshold, so that whatever stops early leaves the second one out."""


def ini(addopts: str = "", more: str = "") -> dict[str, str]:
    return {"pytest.ini": f"[pytest]\naddopts = {addopts}\n{more}\n"}


def conftest(text: str) -> dict[str, str]:
    return {"tests/conftest.py": f"import os\nimport pytest\n\n\n{text}\n"}


def attempted(project: Project) -> tuple[RunDir, AttemptResult | None]:
    """One repeat with a real pytest; what the runner sealed."""
    results: list[AttemptResult | None] = []

    def attempt(job: Job) -> AttemptResult | None:
        results.append(toy.real_pytest(job))
        return results[-1]

    run = toy.finished_run(project, 1, attempt)
    return run, results[-1]


def test_a_recorded_number_that_no_float_holds_is_none_and_spoils_nothing_else(tmp_path: Path) -> None:
    records = conftest(
        "@pytest.fixture(autouse=True)\ndef records(record_property, request):\n"
        "    record_property(f'seed_{request.node.name}', 10 ** 400)\n"
        "    record_property(f'share_{request.node.name}', 0.5)"
    )

    run, result = attempted(toy.make_toy(tmp_path / "toy", files=records))

    assert result and not result.guard.shortfall(), toy.told(run)
    (found,) = run.path.glob("_pytest/*/basetemp_run1/tune_record.json")
    assert json.loads(found.read_text()) == {
        "seed_test_accuracy": None,
        "share_test_accuracy": 0.5,
        "seed_test_speed": None,
        "share_test_speed": 0.5,
    }


@pytest.mark.rule("XPY-01", "XPY-02", "XPY-06", "RTY-04", "MET-01")
@pytest.mark.parametrize(
    "files",
    [
        ini("--maxfail=1 -k accuracy -m slow", "markers = slow"),
        ini("--sw --sw-skip --lf --ff --nf"),
        ini(
            "-p no:tune_guard --basetemp=/nonexistent", "tmp_path_retention_policy = none\ntmp_path_retention_count = 0"
        ),
        {"pyproject.toml": '[tool.pytest.ini_options]\naddopts = "-x --sw"\n'},
        conftest("def pytest_configure(config):\n    config.option.maxfail = 1"),
        conftest("def pytest_collection_modifyitems(config):\n    config.option.maxfail = 1"),
        conftest(
            conftest(
                "os.environ['PYTEST_ADDOPTS'] = '-x'\n\n\n"
                "def pytest_sessionstart(session):\n    session.config.option.maxfail = 1"
            ),
        ),
    ],
    ids=["filters", "--sw", "folders", "pyproject", "configure", "modifyitems", "sessionstart"],
)
def test_what_would_cut_the_file_short_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=FAILING, files=files)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")

    run, result = attempted(project)

    assert result is not None and len(result.guard.executed) == 2, toy.told(run)
    assert (result.pytest_rc, len(result.guard.failed)) == (1, 1)
    assert strict_audit(project, run.run_id).ready
    assert len(toy.launches(project, 1)) == 1, "a failed threshold is an observation, never a reason to try again"


@pytest.mark.rule("XPY-01", "XPY-06", "GAP-08", "STR-17", "HLT-04")
@pytest.mark.parametrize(
    ("files", "why"),
    [
        (ini("--deselect tests/test_toy_ci.py::test_speed"), "deselected: tests/test_toy_ci.py::test_speed"),
        (conftest("def pytest_collection_modifyitems(items):\n    del items[1:]"), "deselected"),
        (conftest("def pytest_runtest_teardown(item):\n    item.session.shouldstop = 'enough'"), "(enough)"),
        (
            conftest("def pytest_runtest_setup(item):\n    item.config.option.maxfail = 1"),
            "(stopping after 1 failures)",
        ),
        (conftest("def pytest_runtest_teardown(item):\n    raise KeyboardInterrupt"), "did not run"),
        (conftest("def pytest_runtest_teardown(item):\n    pytest.exit('done', returncode=0)"), "did not run"),
        (
            conftest("raise RuntimeError('broken conftest')"),
            "/tests/conftest.py': RuntimeError: broken conftest",
        ),
        (conftest("import no_such_module"), "/conftest.py': ModuleNotFoundError: No module named 'no_such_module'"),
        (conftest("def ("), "SyntaxError: invalid syntax"),
        (ini("--no-such-option"), "never loaded tune-mcp's recording plugin: unrecognized arguments: --no-such-option"),
        (ini("-p no_such_plugin"), "No module named 'no_such_plugin'"),
    ],
    ids=[
        "--deselect", "items deleted", "shouldstop", "late maxfail", "interrupt", "exit 0", "broken conftest",
        "import in conftest", "syntax of conftest", "unknown option", "unknown plugin",
    ],
)  # fmt: skip
def test_what_cannot_be_taken_back_halts_and_is_named(tmp_path: Path, files: dict[str, str], why: str) -> None:
    project = toy.make_toy(tmp_path / "repo", test_source=FAILING, files=files)

    run, _ = attempted(project)

    assert_halted(project, run, why)


@pytest.mark.rule("SCP-04", "XPY-06")
def test_numbers_beside_which_another_file_ran_halt_and_the_file_is_named(tmp_path: Path) -> None:
    config = toy.CONFIG | {"pytest_extra_args": {"test_toy_ci.py": ["tests"]}}
    files = {"tests/test_other.py": "def test_other():\n    pass\n"}
    project = toy.make_toy(tmp_path / "repo", config=config, files=files)

    run, _ = attempted(project)

    assert_halted(project, run, "tests of another file ran, tests/test_other.py")


def assert_halted(project: Project, run: RunDir, why: str) -> None:
    now = status(project, run.run_id)
    assert (now.state, why in now.reason) == ("halted", True), toy.told(run)
    assert "✓" not in strict_audit(project, run.run_id).text(), "no truncated repeat is ever strict"


@pytest.mark.rule("XPY-01", "XPY-06", "STR-17", "HLT-01")
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("def test_speed(", "@pytest.mark.skip\ndef test_speed(", "skipped: tests/test_toy_ci.py::test_speed"),
        ('    assert results["speed"]["thr', '    pytest.skip(\'no\')\n    assert results["speed"]["thr', "skipped"),
        ("import pytest\n", "import pytest\npytest.skip('no GPU', allow_module_level=True)\n", "collection failed"),
        ("import pytest\n", "import pytest\nimport no_such_module\n", "collection failed"),
        ('"throughput_qps": throughput,', '"throughput": throughput,', "near: throughput"),
    ],
    ids=["skip", "skip inside", "module skip", "import error", "key"],
)
def test_a_test_file_that_yields_less_than_planned_halts_and_says_what_is_missing(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    source = toy.toy_source()
    assert old in source
    project = toy.make_toy(tmp_path / "repo", test_source=source.replace(old, new, 1))

    run, _ = attempted(project)

    assert_halted(project, run, why)
    assert len(list((run.path / "_pytest/test_toy_ci/attempts").iterdir())) == 1, "a broken plan is not tried again"


@pytest.mark.rule("XPY-05", "RTY-03", "RES-08", "RTY-06")
def test_a_pytest_that_dies_is_tried_again_and_never_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 2)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    source = toy.toy_source().replace(
        "def test_speed(results):\n", "def test_speed(results):\n    os.kill(os.getpid(), 9)\n"
    )
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    run, _ = attempted(project)

    now = status(project, run.run_id)
    assert (now.state, now.strict_ready, len(toy.launches(project, 1))) == ("exhausted", "0/2", 2)
    assert all(gap.cell == "✗" and "signal 9" in gap.reason for gap in now.missing), now.missing
    assert state.conclude(run).state.at_rest


TIMED_OUT = "import threading; t = threading.Timer(0.1, os._exit, (1,)); t.daemon = True; t.start(); time.sleep(30)"
"""What pytest-timeout's thread method does when the time is over."""


@pytest.mark.rule("XPY-06")
@pytest.mark.parametrize(
    ("ending", "why"),
    [
        ("os._exit(0)", "in the middle of its session; twice"),
        (TIMED_OUT, "broke off without ending its session; twice"),
    ],
)
def test_a_test_that_ends_the_process_without_a_word_costs_two_launches_and_halts(
    tmp_path: Path, ending: str, why: str
) -> None:
    source = toy.toy_source().replace("def test_speed(results):\n", f"def test_speed(results):\n    {ending}\n")
    project = toy.make_toy(tmp_path / "repo", test_source=source)

    run, _ = attempted(project)

    assert_halted(project, run, why)
    assert len(toy.launches(project, 1)) == 2


def lines(path: Path, *events: dict[str, object] | str) -> Path:
    path.write_text("".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events))
    return path


START = {"event": "start", "worker": False, "collect_only": False}
FINISH = {"event": "finish", "exitstatus": 0, "shouldstop": "", "shouldfail": ""}


def collected(*ids: str) -> dict[str, object]:
    return {"event": "collected", "ids": list(ids), "dropped": []}


def test_a_record_without_a_start_is_that_of_a_pytest_that_never_started(tmp_path: Path) -> None:
    found = guard_record.read(lines(tmp_path / "guard.jsonl", collected("a"), FINISH))

    assert (found.started, found.finished, found.collected) == (False, True, ("a",))
    assert found.shortfall()


def phases(name: str, **outcomes: str) -> list[dict[str, object]]:
    """What the guard writes of a test whose phases end like this: ``phases("a", setup="passed", call="failed")``."""
    found: list[dict[str, object]] = []
    for when, outcome in outcomes.items():
        found.append({"event": "ran", "id": name, "when": when, "function": when == "call"})
        found += [{"event": "called", "id": name}] if when == "call" else []
        found.append({"event": "report", "id": name, "when": when, "outcome": outcome, "xfail": False})
    return found


def passed(name: str, **outcomes: str) -> list[dict[str, object]]:
    return phases(name, **{"setup": "passed", "call": "passed", "teardown": "passed"} | outcomes)


def test_a_record_that_is_missing_empty_or_garbled_is_never_a_whole_pass(tmp_path: Path) -> None:
    assert guard_record.read(tmp_path / "nothing").shortfall()
    assert guard_record.read(lines(tmp_path / "empty")).shortfall()
    assert guard_record.read(lines(tmp_path / "bad", "garbage", "[]", "null", '{"event": "start"')).shortfall()


@pytest.mark.rule("XPY-06")
@pytest.mark.parametrize("kept", range(16))
def test_a_record_that_was_cut_off_anywhere_is_never_a_whole_pass(tmp_path: Path, kept: int) -> None:
    whole = [START, collected("a", "b"), *passed("a"), *passed("b"), FINISH]
    assert guard_record.read(lines(tmp_path / "whole", *whole)).shortfall() == ""

    assert guard_record.read(lines(tmp_path / "cut", *whole[:kept], '{"event": "rep')).shortfall()


@pytest.mark.rule("XPY-06")
@pytest.mark.parametrize(
    "lost", [line for line in passed("a") if line["event"] != "report"], ids=["setup", "call", "body", "teardown"]
)
def test_a_phase_that_was_reported_but_never_ran_is_not_one(tmp_path: Path, lost: dict[str, object]) -> None:
    record = [START, collected("a"), *(line for line in passed("a") if line != lost), FINISH]

    assert "a" in guard_record.read(lines(tmp_path / "r", *record)).shortfall()


def test_a_red_teardown_is_a_failure_of_a_test_that_ran_and_a_red_setup_is_told_apart(tmp_path: Path) -> None:
    both = collected("a", "b")
    torn = lines(tmp_path / "t", START, both, *passed("a"), *passed("b", teardown="failed"), FINISH)
    never = phases("a", setup="failed", teardown="passed")
    unborn = lines(tmp_path / "s", START, both, *never, *passed("b"), FINISH)

    found = guard_record.read(torn)
    assert (found.failed, found.executed, found.shortfall()) == (("b",), ("a", "b"), "")
    found = guard_record.read(unborn)
    assert (found.shortfall(), [one.nodeid for one in found.failures_in("setup")]) == ("", ["a"])


@pytest.mark.parametrize("when", ["setup", "call"])
def test_an_expected_failure_says_nothing_because_nobody_looks_at_its_cause(tmp_path: Path, when: str) -> None:
    reports = [{**line, "xfail": line.get("outcome") == "skipped"} for line in passed("a", **{when: "skipped"})]

    found = guard_record.read(lines(tmp_path / "r", START, collected("a"), *reports, FINISH))

    assert "(xfail)" in found.shortfall() and found.xfailed == ("a",)


def test_workers_reruns_and_tests_that_nobody_collected_are_told(tmp_path: Path) -> None:
    twice = [*passed("a", call="failed"), *passed("a")]
    silent = [line for line in twice[7:] if line["event"] != "report"]
    rerun = guard_record.read(lines(tmp_path / "r", START, collected("a"), *twice, FINISH))
    quiet = guard_record.read(lines(tmp_path / "q", START, collected("a"), *silent, *passed("a"), FINISH))
    other = guard_record.read(lines(tmp_path / "o", START, collected("a"), *passed("a"), *passed("b"), FINISH))
    worker = guard_record.read(lines(tmp_path / "w", {**START, "worker": True}, collected("a"), *passed("a"), FINISH))

    assert "more than once" in rerun.shortfall() and rerun.repeated == ("a",)
    assert "more than once" in quiet.shortfall(), "a run without a report is one"
    assert other.shortfall() == "tests ran that were not collected: b"
    assert "xdist" in worker.shortfall()


@pytest.mark.rule("SCP-04")
@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("tests/test_toy_ci.py", False),
        ("test_toy_ci.py", True),
        ("repo/tests/test_toy_ci.py", True),
        ("tests/b/test_toy_ci.py", True),
        ("../tests/test_toy_ci.py", True),
    ],
)
def test_the_planned_file_is_known_by_its_whole_path(file: str, other: bool) -> None:
    found = guard_record.GuardSummary(collected=("tests/test_toy_ci.py::test_a", f"{file}::test_b"))

    assert found.elsewhere("tests/test_toy_ci.py") == (file if other else "")


WHYS = """
import helper
import pytest


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.fixture
def server():
    raise ConnectionError("worker exited\\nbefore becoming healthy")


@pytest.fixture
def sticky():
    yield
    raise TimeoutError("the server does not stop")


def test_bound():
    limit = 0.9
    assert 0.5 >= limit


def test_helper():
    helper.check(0.5 >= 0.9)


def test_server(server):
    pass


def test_sticky(sticky):
    pass


def test_told():
    pytest.fail("\\ud800 is no text")


def test_odd():
    raise Odd


@pytest.mark.xfail(strict=True, reason="the server drops samples")
def test_strict():
    pass


def test_well():
    pass
"""


def test_why_a_phase_failed_is_on_record_with_exception_first_line_and_line_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_TRIES", 1)  # else it is launched again and again
    monkeypatch.setattr(loop, "MAX_PASSES", 1)
    helper = "def check(right):\n    assert right, 'a limit is not met'\n"
    project = toy.make_toy(tmp_path / "repo", test_source=toy.toy_source() + WHYS, files={"helper.py": helper})

    _, result = attempted(project)

    assert result is not None
    found = {one.nodeid.partition("::")[2]: one for one in result.guard.failures}
    whys = {name: (one.when, one.exception, one.assertion, one.message) for name, one in found.items()}
    assert whys == {
        "test_bound": ("call", "AssertionError", True, "assert 0.5 >= 0.9"),
        "test_helper": ("call", "AssertionError", True, "a limit is not met"),
        "test_server": ("setup", "ConnectionError", False, "worker exited"),
        "test_sticky": ("teardown", "TimeoutError", False, "the server does not stop"),
        "test_told": ("call", "Failed", True, "\\ud800 is no text"),
        "test_odd": ("call", "test_toy_ci.Odd", False, "(its message cannot be read: RuntimeError)"),
        "test_strict": ("call", "", False, "[XPASS(strict)] the server drops samples"),
    }
    lines = (project.repo_root / toy.TEST_FILE).read_text().splitlines()
    assert lines[found["test_bound"].test_line - 1].strip() == "assert 0.5 >= limit"
    assert lines[found["test_helper"].test_line - 1].strip() == "helper.check(0.5 >= 0.9)"
    assert {name.partition("::")[2] for name in result.guard.called} == {
        *found,
        "test_accuracy",
        "test_speed",
        "test_well",
    } - {"test_server"}


def test_a_plugin_that_reports_late_does_not_hide_that_a_test_tears_down(tmp_path: Path) -> None:
    """pytest-rerunfailures runs all three phases of a test before it reports the first."""

    def so_far(*events: dict[str, object]) -> tuple[str, bool]:
        path = lines(tmp_path / "guard.jsonl", START, collected("a", "b"), *events)
        return guard_record.phase(path), guard_record.all_called(path)

    def late(name: str) -> list[dict[str, object]]:
        return sorted(passed(name), key=lambda line: line["event"] == "report")

    first, second = late("a"), [line for line in late("b") if line["event"] != "report"]
    assert so_far(first[0]) == ("start", False)
    assert so_far(*first[:2]) == ("work", False)
    assert so_far(*first[:4]) == ("teardown", False)
    assert so_far(*first) == ("work", False)
    assert so_far(*first, *second[:1]) == ("work", False)
    assert so_far(*first, *second) == ("teardown", True)
