"""The fixture ``tune_record`` for runs of pytest without tune-mcp: pytest's own record of a test's properties."""

import pytest


@pytest.fixture
def tune_record(record_property):
    return record_property
