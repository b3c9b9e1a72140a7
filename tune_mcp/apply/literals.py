"""The edit: a threshold's number is replaced in the bytes of its file, and nothing else changes.

A literal is found by symbol and dict path in the syntax tree, never by its text or its line (rules APL-15, APL-16).
After the edit the result is proved: it compiles, and its tree equals the old one except at exactly the planned
leaves. Values are written as the plan gives them, without rounding, scale or slack (rules APL-14, APL-25).
"""

from __future__ import annotations

import io
import math
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

from tune_mcp.actions import Step, call
from tune_mcp.apply.filling import fill
from tune_mcp.discover.blanked import is_absent, same_but_for
from tune_mcp.discover.blanks import Blank
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral, parse_module
from tune_mcp.discover.source_tree import number_in
from tune_mcp.errors import Code, Refusal

_TOKEN = re.compile(r"[0-9A-Za-z_.+-]+")


@dataclass(frozen=True)
class Edit:
    """One planned change. ``source`` and ``concurrency`` as in the apply plan.

    ``old_value`` None: there is no value yet, its place is filled. ``old_token`` None means that the spelling was not
    recorded. ``new_text`` is the verbatim text of a person's custom value (rule APL-13); it must spell ``new_value``.
    """

    source: str
    concurrency: int | None
    old_token: str | None
    old_value: int | float | None
    new_value: int | float
    new_text: str | None = None


Place = NumberLiteral | Blank
"""Where the value of a threshold is, or where its first one comes."""


@dataclass(frozen=True)
class Planned:
    """A threshold by its source, its place in the old bytes, and the text that stands there in the new ones."""

    source: str
    place: Place
    text: str


def number_text(value: int | float, old_token: str) -> str:
    """Python text of ``value``: an int where the old literal is an int and the value integral, else a float's repr.

    Raises ``Refusal`` INVALID_ARGUMENT for a value that is not a finite number, or that a float cannot hold.
    """
    try:
        exact = not isinstance(value, bool) and math.isfinite(value) and float(value) == value
    except OverflowError:
        exact = False
    if isinstance(number_in(old_token), int) and not isinstance(value, bool):
        if isinstance(value, int):
            return repr(int(value))
        if exact and value.is_integer():
            return repr(int(value))
    if not exact:
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "APL-13",
            f"{value!r} cannot be written as a threshold: it is not a finite number that a float holds exactly",
            "give a finite number",
            {"value": repr(value)},
        )
    return repr(float(value))


def rewrite(data: bytes, path: str, edits: Sequence[Edit]) -> bytes:
    """The bytes of ``path`` with all ``edits`` made; a value that is equal already keeps its spelling.

    Raises ``Refusal``: THRESHOLD_UNKNOWN where a literal may not be edited or the layout of a dict leaves no place that
    is beyond doubt, THRESHOLD_CHANGED where another value stands there than the plan saw (rule APL-24),
    INVALID_ARGUMENT for two edits of one literal, DECISION_INVALID for a custom text that is no number, INVALID_CONFIG
    for a file that is not valid Python.
    """
    module = parse_module(data, path)
    _check_compiles(data, path)
    planned: dict[int, Planned] = {}
    for edit in edits:
        if edit.old_value is None:
            continue
        literal = module.find(edit.source, edit.concurrency)
        if literal.start in planned:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                _rule(literal),
                f"two edits would change the same literal, {edit.source} at {path}:{literal.line}",
                "let only one metric set it (config ignored_constants or paths), then run discover",
                {"source": edit.source, "file": path, "line": literal.line},
            )
        planned[literal.start] = Planned(edit.source, literal, _replaced(path, edit, literal))
    new = data
    for start in sorted(planned, reverse=True):
        item = planned[start]
        new = new[:start] + item.text.encode("ascii") + new[item.place.end :]
    prove(data, new, path, tuple(planned.values()))
    module = parse_module(new, path)
    first = [_first(module, edit) for edit in edits if edit.old_value is None]
    if not first:
        return new
    filled = fill(new, path, [(blank, text) for _, blank, text in first])
    prove(new, filled, path, [Planned(*one) for one in first])
    return filled


def _first(module: ModuleConstants, edit: Edit) -> tuple[str, Blank, str]:
    """Source, place and text of a first value: a person's own text, an int as it is, else a float's repr."""
    blank = module.blank(edit.source, edit.concurrency)
    if blank is None:
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            "APL-24",
            f"{edit.source} in {module.path} had no value when the plan was made, and there is no such place now",
            Step(call("apply_plan"), " again and decide on its new numbers"),
            {"source": edit.source, "file": module.path},
        )
    if edit.new_text is not None:
        return edit.source, blank, _custom_text(edit)
    return edit.source, blank, number_text(edit.new_value, "0" if isinstance(edit.new_value, int) else "0.0")


def _rule(literal: NumberLiteral) -> str:
    """The rule that says how this literal is edited: APL-15 for a bare number, APL-16 for a nested one."""
    return "APL-15" if literal.subkey is None else "APL-16"


def _replaced(path: str, edit: Edit, literal: NumberLiteral) -> str:
    """The text that comes in the place of a literal."""
    same_spelling = edit.old_token is None or edit.old_token == literal.token
    if literal.value != edit.old_value or not same_spelling:
        expected = edit.old_token if edit.old_token is not None else repr(edit.old_value)
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            ("APL-24", _rule(literal)),
            f"{edit.source} at {path}:{literal.line} is {literal.token} now, the plan saw {expected}",
            Step(call("apply_plan"), " again and decide on its new numbers"),
            {"source": edit.source, "file": path, "line": literal.line, "found": literal.token, "planned": expected},
        )
    text = number_text(edit.new_value, literal.token) if edit.new_text is None else _custom_text(edit)
    if number_in(text) != edit.new_value:
        raise RuntimeError(f"{text!r} does not spell {edit.new_value!r}")
    return literal.token if edit.new_value == literal.value else text


def _custom_text(edit: Edit) -> str:
    text = edit.new_text or ""
    value = number_in(text) if _TOKEN.fullmatch(text) else None
    if value is None or isinstance(edit.new_value, bool) or value != edit.new_value:
        raise Refusal(
            Code.DECISION_INVALID,
            "APL-13",
            f"the custom value {text!r} for {edit.source} does not spell the finite number {edit.new_value!r}",
            "give a plain number such as 12.5",
            {"source": edit.source, "value": text},
        )
    return text


def _check_compiles(data: bytes, path: str) -> None:
    try:
        compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Refusal(
            Code.INVALID_CONFIG,
            "DSC-13",
            f"{path} does not compile: {error}",
            "fix the file, then run discover",
            {"file": path},
        ) from error


def prove(old: bytes, new: bytes, path: str, planned: Sequence[Planned]) -> None:
    """Check that ``new`` is ``old`` with exactly ``planned`` written, by meaning and by bytes.

    A new entry moves the bytes around it; then every comment must still be there. Raises ``RuntimeError``: a bug.
    """
    compile(new, path, "exec", dont_inherit=True)
    module = parse_module(new, path)
    pairs = [(one.place, module.find(one.source, one.place.concurrency)) for one in planned]
    for one, (_, literal) in zip(planned, pairs, strict=True):
        if literal.token != one.text:
            raise RuntimeError(f"{path}: {one.source} does not read as {one.text} after the edit")
    if not same_but_for(old, new, path, pairs):
        raise RuntimeError(f"{path}: something changed that is not in the plan")
    if any(is_absent(one.place) for one in planned):
        same = _comments(old) == _comments(new)
    else:
        same = _outside(old, [was for was, _ in pairs]) == _outside(new, [now for _, now in pairs])
    if not same:
        raise RuntimeError(f"{path}: text changed beside the planned values")


def _outside(data: bytes, places: Sequence[Place]) -> list[bytes]:
    """The bytes between the places, in order."""
    ordered = sorted(places, key=lambda place: place.start)
    starts, ends = [0, *(place.end for place in ordered)], [*(place.start for place in ordered), len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def _comments(data: bytes) -> list[str]:
    tokens = tokenize.tokenize(io.BytesIO(data).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]
