"""A pytest plugin that runs inside the project's own Python: it records what happened and keeps pytest going.

pytest's exit code proves nothing (an early stop and a failed assertion both give 1), so this plugin writes down what
was collected, what ran, what each phase reported and how the session ended, one JSON line at a time, as it happens.
Phases are counted where the work is done (an item's ``setup``, ``runtest`` and ``teardown``, and the test function's
own body), because a plugin that runs a test again, or not at all, need not report it.
It also takes back what could cut a file short: ``-x``/``--maxfail`` from an ini file, the environment or a conftest,
and ``--stepwise`` (rules XPY-01, XPY-06). At the end it lists beside itself, in ``loaded.json``, which files this
session imported, took settings from and read. Standard library only; copied beside the run as ``tune_guard.py``.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import numbers
import os
import sys
import threading
import time
import types
import unittest
from collections.abc import Callable, Generator
from typing import Any

import pytest

_RECORD = os.environ.get("TUNE_GUARD_RECORD")
_SEARCHED = tuple(sys.path)
_HERE = os.path.join(os.getcwd(), "")
_OPENED: dict[str, bool] = {}
"""Data files that this process opened below its first folder, and settings anywhere: path to whether for writing."""
_OPENED_LIMIT = 4000
_RECORDED: dict[str, Any] = {}
"""What tests have handed over by name; a list where two of them, or one twice, used one name."""
_SESSION: list[pytest.Config] = []


def _open_seen(event: str, args: tuple[Any, ...]) -> None:
    """Called for every audited event, so it decides at once; what it raised would fail the test's own ``open``."""
    if event != "open" or len(args) != 3:
        return
    path, _, flags = args
    if type(path) is not str or type(flags) is not int or len(_OPENED) >= _OPENED_LIMIT:
        return
    if not path.startswith("/"):
        try:
            path = os.path.join(os.getcwd(), path)
        except OSError:
            return
    if path.endswith(".pyc") or not (path.startswith(_HERE) or "/.env" in path) or "-packages/" in path:
        return
    _OPENED[path] = _OPENED.get(path, False) or bool(flags & (os.O_WRONLY | os.O_RDWR))


if _RECORD:
    sys.addaudithook(_open_seen)


def _write(event: str, **facts: object) -> None:
    if not _RECORD:
        return
    line = json.dumps({"event": event, "t": time.time(), "pid": os.getpid(), **facts}) + "\n"
    handle = os.open(_RECORD, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _keep_going(config: pytest.Config) -> None:
    config.option.maxfail = 0
    for name in ("stepwise", "stepwise_skip", "lf", "failedfirst", "newfirst"):
        if getattr(config.option, name, False):
            _write("neutralised", option=name)
            setattr(config.option, name, False)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Say who we are and take early exits back before any other plugin reads them."""
    _keep_going(config)
    _SESSION.append(config)
    _write(
        "start",
        pytest=pytest.__version__,
        worker=hasattr(config, "workerinput"),
        collect_only=bool(config.option.collectonly),
        setup_only=bool(getattr(config.option, "setuponly", False) or getattr(config.option, "setupplan", False)),
    )


# The old form of a wrapper: a pluggy before 1.2 knows no other.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, Any, None]:
    """Compare the tests before and after every other plugin and conftest had its say."""
    before = [item.nodeid for item in items]
    yield
    after = [item.nodeid for item in items]
    kept = set(after)
    _write("collected", ids=after, dropped=[name for name in before if name not in kept])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Take early exits back again, which a conftest may have set during collection, and watch every item."""
    _keep_going(session.config)
    for item in session.items:
        _watch(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Count an item that a plugin made after the collection, too."""
    _watch(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Count an item whose whole protocol a plugin replaces, too."""
    _watch(item)


def _watch(item: pytest.Item) -> None:
    """Write a line whenever the item's set-up, call or teardown begins, whoever asks for it."""
    if "_tune_watched" in vars(item):
        return
    vars(item)["_tune_watched"] = True
    for method, when in (("setup", "setup"), ("runtest", "call"), ("teardown", "teardown")):
        setattr(item, method, _counted(item, when, getattr(item, method)))


def _counted(item: pytest.Item, when: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def phase(*args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        function = when == "call" and isinstance(item, pytest.Function)
        _write("ran", id=item.nodeid, when=when, function=function)
        return _with_proof(item, method) if function else method(*args, **named)

    return phase


def _with_proof(item: Any, runtest: Callable[[], Any]) -> Any:
    """Run the item with a test function that says when it is called; afterwards it has its own again."""
    __tracebackhide__ = True
    original = item.obj
    item.obj = proof = _telling(item.nodeid, original)
    case = getattr(original, "__self__", None)
    by_name = isinstance(case, unittest.TestCase)
    if by_name:  # it looks its method up by name, not through the item
        setattr(case, item.name, proof)
    try:
        return runtest()
    finally:
        item.obj = original
        if by_name:
            vars(case).pop(item.name, None)


def _telling(name: str, function: Any) -> Any:
    """The function, or bound method, of the same kind and signature, that writes a line when its body begins."""
    inner = getattr(function, "__func__", function)

    async def awaited(*args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        _write("called", id=name)
        return await inner(*args, **named)

    def called(*args: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        _write("called", id=name)
        return inner(*args, **named)

    wrapped = functools.update_wrapper(awaited if inspect.iscoroutinefunction(inner) else called, inner)
    return wrapped if inner is function else types.MethodType(wrapped, function.__self__)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a module that does not import or is skipped: a broken plan, not a failed repeat."""
    if report.failed or report.skipped:
        _write("collect_" + report.outcome, id=report.nodeid, text=str(report.longrepr)[-2000:])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each phase of each test, and why a strict xfail failed: no exception says so."""
    if report.failed and isinstance(report.longrepr, str):
        why = (report.longrepr.splitlines() or [""])[0][:500]
        place = {"exception": "", "assertion": False, "test_line": 0}
        _write("failure", id=report.nodeid, when=report.when, message=why, **place)
    _write(
        "report",
        id=report.nodeid,
        when=report.when,
        outcome=report.outcome,
        xfail=hasattr(report, "wasxfail"),
        duration=report.duration,
    )
    if report.when == "call":
        _keep_recorded(report)


@pytest.fixture
def tune_record(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """``tune_record("metric", value)``: hand over a measured number before it is asserted."""

    def record(metric: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"tune_record({metric!r}, ...) takes a number, not {type(value).__name__}")
        record_property(metric, value)

    return record


def _keep_recorded(report: pytest.TestReport) -> None:
    """Write the numbers among a test's properties below basetemp, where results are looked for."""
    given = ((str(name), value) for name, value in report.user_properties if not isinstance(value, bool))
    found = [(name, value) for name, value in given if isinstance(value, numbers.Real)]
    factory = getattr(_SESSION[-1], "_tmp_path_factory", None) if _SESSION else None
    if not found or factory is None:
        return
    for name, value in found:
        try:
            number = int(value) if isinstance(value, numbers.Integral) else float(value)
            number = number if math.isfinite(number) else None
        except OverflowError:  # no float can hold it
            number = None
        if name in _RECORDED:
            before = _RECORDED[name]
            _RECORDED[name] = [*(before if isinstance(before, list) else [before]), number]
        else:
            _RECORDED[name] = number
    path = os.path.join(str(factory.getbasetemp()), "tune_record.json")
    with open(path + ".part", "w") as out:
        json.dump(_RECORDED, out)
    os.replace(path + ".part", path)


def pytest_exception_interact(
    node: pytest.Item | pytest.Collector,
    call: pytest.CallInfo[object],
    report: pytest.CollectReport | pytest.TestReport,
) -> None:
    """Why a phase failed: the exception, the first line of its message, the line of the test's file."""
    found = call.excinfo
    if found is None or not isinstance(report, pytest.TestReport):
        return
    own = [entry.lineno + 1 for entry in found.traceback if str(entry.path) == str(node.path)]
    _write(
        "failure",
        id=report.nodeid,
        when=report.when,
        exception=_type_name(found.type),
        assertion=isinstance(found.value, (AssertionError, pytest.fail.Exception)),
        message=_first_line(found.value),
        test_line=own[-1] if own else 0,
    )


def _type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _first_line(value: BaseException) -> str:
    """The first line of an exception's message; its own ``__str__`` may fail, and fails no session."""
    try:
        lines = [line.strip() for line in str(value).splitlines()]
    except Exception as error:
        return f"(its message cannot be read: {type(error).__name__})"
    return next((line for line in lines if line), "")[:500].encode(errors="backslashreplace").decode()


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Somebody's Ctrl-C, or ``pytest.exit``: the exit code alone does not tell them from a broken collection."""
    _write("interrupted", by=excinfo.typename)


def _file_of(module: object) -> str:
    """Where a module or plugin was loaded from; asked of its namespace, because a lazy module imports when asked."""
    try:
        path = vars(module).get("__file__")
    except TypeError:
        return ""
    return os.path.abspath(path) if isinstance(path, str) else ""


def _write_loaded(config: pytest.Config) -> None:
    ini = getattr(config, "inipath", None)
    modules = [*list(sys.modules.values()), *config.pluginmanager.get_plugins()]
    found = {
        "interpreter": [sys.executable, sys.prefix, sys.base_prefix, sys.version, str(sys.flags)],
        "search_path": _SEARCHED,
        "settings": [str(ini)] if ini else [],
        "modules": sorted({path for path in map(_file_of, modules) if path}),
        "read": sorted(path for path, written in list(_OPENED.items()) if not written),
    }
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "loaded.json"), "w") as out:
        json.dump(found, out)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The last line; without it the session did not end by itself."""
    if _RECORD:
        try:
            _write_loaded(session.config)
        except Exception as error:  # a list that is missing is noticed by who reads it
            _write("not_listed", error=repr(error))
    _write(
        "finish",
        exitstatus=int(exitstatus),
        shouldstop=str(session.shouldstop or ""),
        shouldfail=str(session.shouldfail or ""),
    )


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_unconfigure() -> Generator[None, None, None]:
    """After every other plugin: the session is over, and all that pytest has to do is to exit.

    It is the record's last change: a result that is written later was not written by this session.
    """
    yield
    main = threading.main_thread()
    waiting = [thread.name for thread in threading.enumerate() if thread is not main and not thread.daemon]
    _write("exiting", threads=waiting)
