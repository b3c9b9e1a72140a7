"""Gates as the reader makes them of a real assertion, for tests of what is decided from them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tune_mcp.discover.assertions import AssertionReader, Gate

LINE = 5


@cache
def gate(assertion: str, name: str = "test_a", reference: float = 0.5) -> Gate:
    """What ``assertion`` on ``result`` says of the constant LIMIT."""
    with tempfile.TemporaryDirectory() as folder:
        text = f"LIMIT = {reference!r}\nSLACK = 0.9\n\ndef {name}(result):\n    {assertion}\n"
        (Path(folder) / "test_x.py").write_text(text)
        found = AssertionReader(Path(folder)).gate("test_x.py", "test_x.py", "LIMIT", None, {})
    assert isinstance(found, Gate), found
    return found
