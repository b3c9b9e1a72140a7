"""What a repository's tests assert of a constant: direction, strictness, slack and rounding, and which tests read it.

``AssertionReader`` evaluates test files step by step over known constants; what it does not understand is ``Unread``,
with the reason.
"""

from tune_mcp.discover.assertions.gate import Gate, Unread, UnreadKind
from tune_mcp.discover.assertions.reader import AssertionReader, Reading

__all__ = ["AssertionReader", "Gate", "Reading", "Unread", "UnreadKind"]
