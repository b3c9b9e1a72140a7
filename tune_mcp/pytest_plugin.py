"""The pytest plugin of the wheel: the fixture ``tune_record``, for tests that write no result file.

It is pytest's own ``record_property`` with its arguments checked, so a test that uses it runs the same without any
calibration. In a calibration the guard plugin, which has the same fixture, keeps what was recorded.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable

import pytest


@pytest.fixture
def tune_record(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """``tune_record("metric", value)``: hand over a measured number before it is asserted. Raises TypeError."""

    def record(metric: str, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"tune_record({metric!r}, ...) takes a number, not {type(value).__name__}")
        record_property(metric, value)

    return record
