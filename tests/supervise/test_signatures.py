"""Which line of a log names a crash; a server's chatter and a failed assertion do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.signatures import rules
from tune_mcp.supervise.watch.log_lines import failure_in


@pytest.mark.rule("WDG-01", "XPY-05")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA out of memory"),
        ("Fatal Python error: Segmentation fault", "segmentation fault"),
        ("worker process exited with code 137", "killed (137)"),
        ("Server failed to start: timeout", "server did not start"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("RuntimeError: managed worker 0 exited before becoming healthy (exit_code=1)", "server did not start"),
        ("Managed worker worker-1 did not become healthy", "server did not start"),
        ("RuntimeError: Server exited with code 1.", "server did not start"),
        ("TimeoutError: Service at http://127.0.0.1:8000 not ready within 600s", "server did not start"),
        ("router workers did not become fully routable", "server did not start"),
        ("E   RuntimeError: the toy server exited with code 3 before it was ready", "server did not start"),
        ("TimeoutError: Server failed to start within the timeout period.", "server did not start"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "server did not start"),
        ("server is not ready after 30 seconds", "server did not start"),
        ("E   RuntimeError: worker ports are already in use: [8001]", "port in use"),
        ("[Errno 98] error while attempting to bind on address ('::1', 80): address already in use", "port in use"),
        ("GPU memory was not released within 60 s", "GPU memory not released"),
        ("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", "not enough GPU memory"),
        ("ValueError: Free memory on device (1/79 GiB) is less than desired", "not enough GPU memory"),
    ],
)
def test_a_known_crash_is_named_with_its_line(tmp_path: Path, line: str, name: str) -> None:
    log = tmp_path / "run1.log"
    log.write_text(f"collected 2 items\n{line}\nteardown\n")

    assert failure_in(log, rules()) == f"{name}: {line}"


def test_the_cause_is_named_before_what_followed_from_it_and_a_process_before_pytests_report(tmp_path: Path) -> None:
    log = tmp_path / "run1.log"
    gone = "error: managed worker http://127.0.0.1:1 exited before becoming healthy (exit_code=1)"
    report = "E   RuntimeError: Server exited with code 1."
    log.write_text(f"RuntimeError: Not enough memory. Please try --mem-fraction-static\n{gone}\n{report}\n")
    assert failure_in(log, rules()).startswith("not enough GPU memory: RuntimeError: Not enough memory")

    log.write_text(f"{gone}\n{report}\n")
    assert failure_in(log, rules()) == f"server did not start: {gone}"

    log.write_text(f"{report}\n")
    assert failure_in(log, rules()) == f"server did not start: {report}"


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
        "Server exited with code 0",
        "Server exited with code -15",
        '    raise RuntimeError("Server exited with code 1")',
        '>       raise RuntimeError("worker ports are already in use")',
        "INFO waiting for the server to become healthy",
        "INFO server is not ready yet",
        "GPU memory in use: 3 GiB",
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


def test_what_failed_is_looked_at_where_the_log_has_nothing(tmp_path: Path) -> None:
    raised = ["t.py::a: RuntimeError: worker 0 exited before becoming healthy"]

    assert failure_in(tmp_path / "run1.log", rules(), raised) == f"server did not start: {raised[0]}"
    assert failure_in(tmp_path / "run1.log", rules(), ["t.py::a: ValueError: no"]) == ""
