"""Waits end early for what they wait for, and for nothing else. Each in a process of its own: signals are global."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import toy

PREFACE = "import subprocess, sys, time\nfrom tune_mcp.supervise.waiting import Orders, Wakeup\n"
CHILD = "subprocess.Popen([sys.executable, '-c', ''])"


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PREFACE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(toy.__file__).parents[1])},
    )


def said(process: subprocess.Popen[bytes], end_input: bool = True) -> str:
    assert process.stdin
    if end_input:
        process.stdin.close()
    assert process.wait(timeout=30) == 0
    assert process.stdout
    with process.stdout:
        out = process.stdout.read().decode().strip()
    process.stdin.close()
    return out


def ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout and process.stdout.readline() == b"ready\n"


def test_the_end_of_a_child_wakes_a_look_at_once() -> None:
    process = started(f"orders = Orders(); child = {CHILD}; orders.look(600); print(child.wait())")
    assert said(process, end_input=False) == "0"


def test_the_end_of_a_child_cuts_no_sleep_short() -> None:
    """A GPU that must stay free for three seconds is watched by a probe that ends within them."""
    process = started(
        "orders = Orders(); begin = time.monotonic(); child = subprocess.Popen(['true'])\n"
        "orders.wait(0.5)\nprint(child.wait(), time.monotonic() - begin >= 0.5)"
    )
    assert said(process, end_input=False) == "0 True"


def test_the_end_of_standard_input_wakes_a_sleep_and_is_an_order_to_end() -> None:
    process = started("orders = Orders(); print('ready', flush=True); orders.wait(600); print(orders())")
    ready(process)
    assert said(process) == "True"


def test_a_termination_signal_wakes_a_sleep_and_is_an_order_to_end() -> None:
    process = started("orders = Orders(); print('ready', flush=True); orders.wait(600); print(orders())")
    ready(process)
    process.send_signal(signal.SIGTERM)
    assert said(process, end_input=False) == "True"


def test_jobs_come_one_by_one_however_the_pipe_cuts_them_and_end_with_the_input() -> None:
    process = started("orders = Orders()\nwhile (job := orders.next_job()): print(repr(job), flush=True)")
    assert process.stdin and process.stdout
    for part in (b"/a\nb/jo", b"b.json\0/c", b"\0"):
        process.stdin.write(part)
        process.stdin.flush()
    assert [process.stdout.readline().decode().strip() for _ in range(2)] == ["'/a\\nb/job.json'", "'/c'"]
    assert said(process) == ""


def test_a_watched_handle_wakes_until_it_is_forgotten() -> None:
    process = started(
        "import os\nreader, writer = os.pipe(); wakeup = Wakeup(); wakeup.watch(reader); os.write(writer, b'x')\n"
        "first = wakeup.wait(600); wakeup.forget(reader); print(first == {reader}, wakeup.wait(0) == frozenset())"
    )
    assert said(process) == "True True"
