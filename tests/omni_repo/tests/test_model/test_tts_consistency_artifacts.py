"""Compares what two other jobs left; measures nothing, and fails where there is nothing to compare."""


def test_consistency():
    raise AssertionError("no artifacts")
