"""What a repository's tests assert of a constant: direction, strictness, slack and rounding, and which tests read it.

``AssertionReader`` evaluates test files step by step over known constants; what it does not understand is ``Unread``,
with the reason.
"""

from tune_mcp.discover.assertions.gate import BOUND, Gate, Unread, UnreadKind
from tune_mcp.discover.assertions.reader import AssertionReader

__all__ = ["BOUND", "AssertionReader", "Gate", "Unread", "UnreadKind"]
