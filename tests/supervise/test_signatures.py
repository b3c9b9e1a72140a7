"""Which line of a log names a crash; a server's chatter and a failed assertion do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.signatures import rules
from tune_mcp.supervise.watch.signatures import failure_in


@pytest.mark.rule("WDG-01", "XPY-05")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA out of memory"),
        ("Fatal Python error: Segmentation fault", "segmentation fault"),
        ("worker process exited with code 137", "killed (137)"),
        ("Server failed to start: timeout", "server did not start"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
    ],
)
def test_a_known_crash_is_named_with_its_line(tmp_path: Path, line: str, name: str) -> None:
    log = tmp_path / "run1.log"
    log.write_text(f"collected 2 items\n{line}\nteardown\n")

    assert failure_in(log, rules()) == f"{name}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        "ConnectionRefusedError: Connection refused (retrying /health)",
        "Address already in use, trying the next port",
        "AssertionError: server throughput below threshold",
        "E   assert 0.4 >= 0.5  # worker accuracy",
        "INFO router: healthy",
        "took 137 ms",
        "exit code 0",
        "",
    ],
)
def test_chatter_and_failed_assertions_are_no_crash(tmp_path: Path, line: str) -> None:
    log = tmp_path / "run1.log"
    log.write_text(f"{line}\n")
    assert failure_in(log, rules()) == ""


def test_a_missing_binary_or_huge_log_has_an_answer(tmp_path: Path) -> None:
    log = tmp_path / "run1.log"
    assert failure_in(log, rules()) == ""
    log.write_bytes(b"\xff\xfe" * 300_000 + b"\nCUDA out of memory\n")
    assert failure_in(log, rules()).startswith("CUDA out of memory")
    log.write_bytes(b"CUDA out of memory\n" + b"fine\n" * 100_000)
    assert failure_in(log, rules()) == "", "only the end of a log tells how it ended"
