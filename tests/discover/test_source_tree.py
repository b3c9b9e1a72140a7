"""Reading a Python file, also while another call of the server reads one."""

from __future__ import annotations

import ast
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tune_mcp.discover.source_tree import parsed_expression, read_tree


def test_two_threads_never_parse_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 counts its depth for all threads together: the second parse would break the first (SystemError)."""
    parse, together, entered = ast.parse, threading.Barrier(2, timeout=0.5), []

    def met(*words: Any, **more: Any) -> Any:
        try:
            together.wait()
            entered.append("both")
        except threading.BrokenBarrierError:
            together.reset()
        return parse(*words, **more)

    monkeypatch.setattr(ast, "parse", met)
    with ThreadPoolExecutor(2) as pool:
        module = pool.submit(read_tree, b"A_MIN = 0.5\n", "a.py")
        number = pool.submit(parsed_expression, "0.5")

    assert (len(module.result().tree.body), ast.unparse(number.result())) == (1, "0.5")
    assert entered == []
