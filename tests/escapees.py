"""Processes that a CI test leaves behind in every way that is known, for tests that must find the last one of them.

``toy_with_escapees`` is the toy whose fixture starts them in repeat 1 (each once per launch); ``escaped`` reads their
pids; ``decoy`` starts a stranger with the very same command line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import toy

from tune_mcp.verbs.project import Project

SERVER = '''"""A server that says who it is and stays: escapee.py HOW PIDS_FILE."""

import ctypes
import signal
import sys

how, pids = sys.argv[1:]
if how == "deaf":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
me = open("/proc/self/stat").read().rpartition(")")[2].split()
if how == "retitled":  # what setproctitle does: arguments and environment are overwritten
    begin, end = int(me[45]), int(me[48])
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, b"VLLM::EngineCor", 15)
    ctypes.CDLL(None).prctl(15, b"VLLM::EngineCor", 0, 0, 0)
pid = open("/proc/self/stat").read().split()[0]
open(pids, "a").write(how + " " + pid + "\\n")
while True:
    signal.pause()
'''
STARTS = """
def escape():
    import concurrent.futures, multiprocessing, subprocess, sys
    server, pids = str(STATE / "escapee.py"), str(STATE / "pids")
    def argv(how):
        return [sys.executable, "-S", server, how, pids]
    for how in @PLAIN@:
        subprocess.Popen(argv(how), start_new_session=True)
    subprocess.Popen(argv("bare"), env={}, start_new_session=True)
    again = f"import subprocess; subprocess.Popen({argv('daemon')!r}, start_new_session=True)"
    subprocess.run([sys.executable, "-S", "-c", again])
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    worker = pool.submit(os.getpid).result()
    (STATE / "pids").open("a").write(f"spawned {worker}\\n")
    escape.pool = pool  # it lives as long as pytest
    end = time.monotonic() + 60
    while len((STATE / "pids").read_text().splitlines()) < len(@PLAIN@) + 3 and time.monotonic() < end:
        time.sleep(0.01)


"""


def toy_with_escapees(folder: Path, plain: Sequence[str] = ("setsid", "retitled")) -> Project:
    """The toy, whose repeat 1 starts one escapee of each kind; a ``deaf`` one costs the whole SIGTERM rung."""
    starts = STARTS.replace("@PLAIN@", repr(tuple(plain)))
    source = toy.toy_source().replace("def held(k):\n", f"{starts}def held(k):\n    if k == 1:\n        escape()\n")
    project = toy.make_toy(folder, test_source=source)
    (toy.state_folder(project) / "escapee.py").write_text(SERVER)
    (toy.state_folder(project) / "pids").touch()
    return project


def escaped(project: Project) -> dict[str, int]:
    """Kind -> pid of the last launch's escapees."""
    lines = (toy.state_folder(project) / "pids").read_text().splitlines()
    return {how: int(pid) for how, pid in (line.split() for line in lines)}


def end_all(project: Project) -> None:
    """End what lives on after a test that failed: every process of tune-mcp that runs in the toy's repository."""
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(project.repo_root):
            process.kill()


def decoy(project: Project) -> subprocess.Popen[bytes]:
    """A stranger with the command line of the ``setsid`` escapee."""
    argv = [sys.executable, "-S", str(toy.state_folder(project) / "escapee.py"), "setsid", "/dev/null"]
    return subprocess.Popen(argv, start_new_session=True)


def alive(pids: Iterable[int]) -> list[int]:
    """Those that live; a zombie does not."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
