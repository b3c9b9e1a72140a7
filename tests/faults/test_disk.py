"""A full, a read-only and an absurdly used disk: a clear error, nothing lost, and memory that stays flat."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import small_disk
import toy

from tune_mcp.errors import unusable
from tune_mcp.verbs.project import Project

_PATH = f"{Path(toy.__file__).parents[1]}:{Path(toy.__file__).parent}:{Path(small_disk.__file__).parent}"


@pytest.mark.rule("STR-17", "RES-04", "STR-22")
@pytest.mark.parametrize("scenario", ["full", "readonly"])
def test_a_disk_that_takes_nothing_more_is_told_and_nothing_is_lost(tmp_path: Path, scenario: str) -> None:
    """Bug 24 of the older script: a full disk tore plan.json. In a mount namespace of its own."""
    namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    (tmp_path / "disk").mkdir()

    done = subprocess.run(
        [*namespace, sys.executable, small_disk.__file__, scenario, str(tmp_path / "disk")],
        env={**os.environ, "PYTHONPATH": _PATH},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_cannot_be_written_is_a_refusal_with_a_remedy_and_never_a_bug(number: int) -> None:
    refusal = unusable(OSError(number, "x", "/run/plan.json"))

    assert refusal is not None and refusal.text().startswith("NOT_WRITABLE [SES-15]: /run/plan.json cannot be written")
    assert unusable(FileNotFoundError(errno.ENOENT, "x")) is None and unusable(ValueError()) is None


HUGE = """
import json, resource, sys, tracemalloc
from pathlib import Path
import toy
from tune_mcp.verbs.status import status
from tune_mcp.verbs.tail_pytest import tail_pytest
from tune_mcp.files import sha256_file
from tune_mcp.config.signatures import rules
from tune_mcp.supervise.watch import log_lines
project, run_id, log = toy.open_project(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shown = [tail_pytest(project, run_id, lines=500), tail_pytest(project, run_id, grep="no such line")]
for _ in range(20):
    shown.append(tail_pytest(project, run_id, cursor=shown[-1].cursor))
found = log_lines.failure_in(log, rules())
text = status(project, run_id).text()
digest = sha256_file(log)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"kib": after - before, "longest": max(len(page.text()) for page in shown), "found": found,
    "lines": [len(page.log_lines) for page in shown], "status": len(text), "digest": digest}))
"""


def zeros(log: Path) -> str:
    """A quarter of a GiB of nothing, then an end."""
    with log.open("wb") as stream:
        stream.truncate(2**28)
        stream.seek(0, 2)
        stream.write(b"\n\ncuda: CUDA out of memory\nlast line\n")
    return "out of memory"


def one_line(log: Path) -> str:
    """A line of 100 MB, then an end."""
    with log.open("wb") as stream:
        stream.write(b"first\n")
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
        stream.write(b"\nSegmentation fault\nlast line\n")
    return "segmentation fault"


def open_line(log: Path) -> str:
    """The same without an end."""
    one_line(log)
    with log.open("r+b") as stream:
        stream.truncate(75_000_000)
    return ""


def garbage(log: Path) -> str:
    """Every byte there is, carriage returns, escapes, half an UTF-8 sign."""
    log.write_bytes(bytes(range(256)) * 4000 + b"\r\x1b[31mred\xf0\x9f" * 5000 + b"\nNo space left on device\xff\n")
    return "disk full"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo")


@pytest.mark.rule("POL-07", "WDG-01")
@pytest.mark.parametrize("make", [zeros, one_line, open_line, garbage], ids=lambda make: make.__name__)
def test_a_log_of_any_size_and_content_is_read_with_the_same_memory(
    project: Project, make: Callable[[Path], str]
) -> None:
    run = toy.finished_run(project, 1)
    log = run.log(toy.TEST_KEY, 1)
    signature = make(log)

    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(project.repo_root), run.run_id, str(log)],
        env={**os.environ, "PYTHONPATH": _PATH},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    found = json.loads(done.stdout)
    assert found["kib"] < 40_000, found
    assert found["longest"] <= 8000 and found["status"] <= 8000, found
    assert signature in found["found"] and bool(found["found"]) is bool(signature)
    assert found["lines"][0] > 0
    log.unlink()
