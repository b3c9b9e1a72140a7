"""The stop ladder ends every process below us, whatever session it took and signal it ignores, and no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

LADDER = """
import json, subprocess, sys, time
import psutil
from tune_mcp.supervise.processes import Grace, StopLadder, become_subreaper, default_signals, descendants
become_subreaper()
default_signals()  # whoever runs the tests in the background of a shell has them ignore an interrupt
said = []
ladder = StopLadder(said.append, Grace(interrupt_s=float(sys.argv[3]), terminate_s=0.3, kill_s=20), tick_s=0.01)
main = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True, stdout=subprocess.PIPE, text=True)
pids = [int(main.stdout.readline()) for _ in range(int(sys.argv[2]))]
ladder.interrupt(main)
named = ladder.drain(main)
facts = {"pids": pids, "said": said, "named": named, "sent": ladder.sent}
print(json.dumps({**facts, "rc": main.wait(5), "left": len(descendants())}))
"""
# One write a line: with PYTHONUNBUFFERED a print makes two, and those of several processes mix.
SLEEP = "os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)"
DEAF = f"import os, signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; {SLEEP}"


def ladder(program: str, pids: int, interrupt_s: float = 0.3) -> dict[str, object]:
    """Start ``program`` below a subreaper, wait for its pids, walk the ladder."""
    words = [sys.executable, "-c", LADDER, program, str(pids), str(interrupt_s)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.rule("GPU-20")
def test_a_process_that_hears_the_interrupt_is_not_killed() -> None:
    found = ladder(f"import os, time\ntry:\n    {SLEEP}\nexcept KeyboardInterrupt:\n    os._exit(2)", 1, 20)

    assert (found["rc"], found["named"], found["left"]) == (2, [], 0)
    assert len(found["said"]) == 1 and found["said"][0].startswith("SIGINT to pytest")
    assert found["sent"] == ["SIGINT"]


@pytest.mark.rule("GPU-20", "GPU-16")
def test_a_tree_that_is_deaf_to_everything_is_killed_and_named() -> None:
    child = f"subprocess.Popen([sys.executable, '-c', {DEAF!r}], start_new_session=True)"
    orphan = f"import subprocess, sys; {child}"
    program = f"import subprocess, sys; {child}; subprocess.run([sys.executable, '-c', {orphan!r}]); {DEAF}"

    found = ladder(program, 3)

    assert (found["rc"], found["left"], len(found["named"])) == (-9, 0, 3)
    assert [text.split()[0] for text in found["said"]] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert found["sent"] == ["SIGINT", "SIGTERM", "SIGKILL"], "what the main process got, so that it is known as ours"
    assert not any(psutil.pid_exists(pid) for pid in found["pids"])


@pytest.mark.rule("GPU-20")
def test_a_process_that_starts_another_when_it_is_told_to_end_is_outrun() -> None:
    again = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)"
    program = (
        "import os, signal, subprocess, sys, time\n"
        f"def heir(*_):\n    {again}\n    os._exit(0)\n"
        "signal.signal(15, heir); signal.signal(2, signal.SIG_IGN)\n" + SLEEP
    )

    assert ladder(program, 1)["left"] == 0


def test_zombies_are_neither_alive_nor_left(tmp_path: Path) -> None:
    program = (
        "import sys; from tune_mcp.supervise.processes import become_subreaper, descendants, reap\n"
        "import subprocess, psutil, time\n"
        "become_subreaper()\n"
        "subprocess.run([sys.executable, '-c', 'import os; os.fork() or os._exit(0)'])\n"
        "child = subprocess.Popen([sys.executable, '-c', ''])\n"
        "end = time.monotonic() + 20\n"
        "def states(): return [p.status() for p in psutil.Process().children()]\n"
        "while states().count('zombie') < 2 and time.monotonic() < end: time.sleep(0.01)\n"
        "assert descendants() == [] and states().count('zombie') == 2, states()\n"
        "reap({child.pid})\n"
        "assert states() == ['zombie'] and child.wait() == 0 and states() == []\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_signals_that_the_caller_ignored_or_blocked_are_heard_again() -> None:
    program = (
        "import os, signal; from tune_mcp.supervise.processes import default_signals\n"
        "for s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [2, 15])\n"
        "default_signals()\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(), signal.getsignal(15) is signal.SIG_DFL)\n"
        "try:\n    os.kill(os.getpid(), 2)\n    print('deaf')\nexcept KeyboardInterrupt:\n    print('heard')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["True", "True", "heard"]
