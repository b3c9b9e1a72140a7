"""Values that a test hands over by name: ``tune_record("metric", value)``, or pytest's own ``record_property``."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

RECORD_FILE = "tune_record.json"
"""Where the guard plugin leaves them, below basetemp: one key a name."""
_CALLS = frozenset({"tune_record", "record_property"})


def made_names(tree: ast.Module) -> Mapping[str, str]:
    """The same for names that are made at run time (f-strings): a pattern of the name -> the code of the value."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=[ast.JoinedStr(values=parts), value, *_]):
                pass
            case _:
                continue
        if ast.unparse(function).rpartition(".")[2] in _CALLS:
            texts = (re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".+" for one in parts)
            found["".join(texts)] = ast.unparse(value)
    return found


def recorded(tree: ast.Module) -> Mapping[str, str]:
    """Name -> the code of the value that is recorded under it; the last one of a name counts."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), value, *_]):
                pass
            case _:
                continue
        if ast.unparse(function).rpartition(".")[2] in _CALLS:
            found[name] = ast.unparse(value)
    return found
