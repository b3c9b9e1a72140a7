"""The edit: a threshold's number is replaced in the bytes of its file, and nothing else changes.

A literal is found by symbol and dict path in the syntax tree, never by its text or its line (rules APL-15, APL-16).
After the edit the result is proved: it compiles, and its tree equals the old one except at exactly the planned
leaves. Values are written as the plan gives them, without rounding, scale or slack (rules APL-14, APL-25).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from tune_mcp.actions import Step, call
from tune_mcp.apply.filling import Filling, fill
from tune_mcp.discover.constants import ModuleConstants, NumberLiteral, parse_module
from tune_mcp.discover.source_tree import SourceTree, number_in, number_of, read_tree
from tune_mcp.errors import Code, Refusal

_TOKEN = re.compile(r"[0-9A-Za-z_.+-]+")


@dataclass(frozen=True)
class Edit:
    """One planned change. ``source`` and ``concurrency`` as in the apply plan.

    ``old_value`` None: there is no value yet, its place is filled. ``old_token`` None means that the spelling was not
    recorded. ``new_text`` is the verbatim text of a person's
    custom value (rule APL-13); it must spell ``new_value``.
    """

    source: str
    concurrency: int | None
    old_token: str | None
    old_value: int | float | None
    new_value: int | float
    new_text: str | None = None


@dataclass(frozen=True)
class Replacement:
    """A literal of the old bytes, and the text and exact value that stand there in the new ones."""

    literal: NumberLiteral
    text: str
    value: int | float


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

    Raises ``Refusal``: THRESHOLD_UNKNOWN where a literal may not be edited, THRESHOLD_CHANGED where another value
    stands there than the plan saw (rule APL-24), INVALID_ARGUMENT for two edits of one literal, DECISION_INVALID
    for a custom text that is no number, INVALID_CONFIG for a file that is not valid Python.
    """
    module = parse_module(data, path)
    _check_compiles(data, path)
    planned: dict[int, Replacement] = {}
    for edit in edits:
        if edit.old_value is None:
            continue
        literal = module.find(edit.source, edit.concurrency)
        if literal.start in planned:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                literal_rule(literal),
                f"two edits would change the same literal, {edit.source} at {path}:{literal.line}",
                "let only one metric set it (config ignored_constants or paths), then run discover",
                {"source": edit.source, "file": path, "line": literal.line},
            )
        planned[literal.start] = _replacement(path, edit, literal)
    new = data
    for start in sorted(planned, reverse=True):
        item = planned[start]
        new = new[:start] + item.text.encode("ascii") + new[item.literal.end :]
    prove(data, new, path, tuple(planned[start] for start in sorted(planned)))
    module = parse_module(new, path)
    return fill(new, path, [_filling(module, edit) for edit in edits if edit.old_value is None])


def _filling(module: ModuleConstants, edit: Edit) -> Filling:
    blank = module.blank(edit.source, edit.concurrency)
    if blank is None:
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            "APL-24",
            f"{edit.source} in {module.path} had no value when the plan was made, and there is no such place now",
            Step(call("apply_plan"), " again and decide on its new numbers"),
            {"source": edit.source, "file": module.path},
        )
    return Filling(edit.source, blank, _first_text(edit))


def _first_text(edit: Edit) -> str:
    """The text of a first value: a person's own, an int as it is, else a float's repr."""
    if edit.new_text is not None:
        return _custom_text(edit)
    return number_text(edit.new_value, "0" if isinstance(edit.new_value, int) else "0.0")


def literal_rule(literal: NumberLiteral) -> str:
    """The rule that says how this literal is edited: APL-15 for a bare number, APL-16 for a nested one."""
    return "APL-15" if literal.subkey is None else "APL-16"


def _replacement(path: str, edit: Edit, literal: NumberLiteral) -> Replacement:
    same_spelling = edit.old_token is None or edit.old_token == literal.token
    if literal.value != edit.old_value or not same_spelling:
        expected = edit.old_token if edit.old_token is not None else repr(edit.old_value)
        raise Refusal(
            Code.THRESHOLD_CHANGED,
            ("APL-24", literal_rule(literal)),
            f"{edit.source} at {path}:{literal.line} is {literal.token} now, the plan saw {expected}",
            Step(call("apply_plan"), " again and decide on its new numbers"),
            {"source": edit.source, "file": path, "line": literal.line, "found": literal.token, "planned": expected},
        )
    text = number_text(edit.new_value, literal.token) if edit.new_text is None else _custom_text(edit)
    value = number_in(text)
    if value is None or value != edit.new_value:
        raise RuntimeError(f"{text!r} does not spell {edit.new_value!r}")
    if edit.new_value == literal.value:
        return Replacement(literal, literal.token, literal.value)
    return Replacement(literal, text, value)


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


def prove(old: bytes, new: bytes, path: str, planned: Sequence[Replacement]) -> None:
    """Check that ``new`` is ``old`` with exactly ``planned`` replaced, by meaning and by bytes.

    ``planned`` is ordered by position. Raises ``RuntimeError`` when it is not: a bug.
    """
    compile(new, path, "exec", dont_inherit=True)
    before, after = read_tree(old, path), read_tree(new, path)
    shift, done = 0, 0
    moved: dict[tuple[int, int], tuple[tuple[int, int], int | float]] = {}
    for item in planned:
        start, end = item.literal.start, item.literal.end
        if new[done + shift : start + shift] != old[done:start]:
            raise RuntimeError(f"{path}: bytes before offset {start} changed")
        place = (start + shift, start + shift + len(item.text))
        moved[(start, end)] = (place, item.value)
        shift, done = place[1] - end, end
    if new[done + shift :] != old[done:]:
        raise RuntimeError(f"{path}: bytes behind offset {done} changed")
    _compare(before, after, moved)
    module = parse_module(new, path)
    for item in planned:
        where = (item.literal.concurrency, item.literal.subkey)
        constant = module.constant(item.literal.symbol)
        literals = constant.literals if constant and constant.problem is None else ()
        found = [(entry.token, entry.value) for entry in literals if (entry.concurrency, entry.subkey) == where]
        if found != [(item.text, item.value)]:
            raise RuntimeError(f"{path}: {item.literal.symbol} does not read as {item.text} after the edit")


def _compare(
    before: SourceTree,
    after: SourceTree,
    moved: Mapping[tuple[int, int], tuple[tuple[int, int], int | float]],
) -> None:
    """Walk both trees side by side; ``moved`` maps a planned leaf's old span to its new span and value."""
    met: set[tuple[int, int]] = set()
    todo: list[tuple[object, object]] = [(before.tree, after.tree)]
    while todo:
        old, new = todo.pop()
        if isinstance(old, (ast.Constant, ast.UnaryOp)) and isinstance(new, (ast.Constant, ast.UnaryOp)):
            span = before.span(old)
            if span in moved:
                place, value = moved[span]
                found = number_of(new)
                if after.span(new) != place or type(found) is not type(value) or found != value:
                    raise RuntimeError(f"{before.path}:{old.lineno}: {value!r} is not the value in the file now")
                met.add(span)
                continue
        if type(old) is not type(new):
            raise RuntimeError(f"{before.path}: a {type(old).__name__} became a {type(new).__name__}")
        if isinstance(old, ast.JoinedStr) and isinstance(new, ast.JoinedStr):
            # Positions inside an f-string are not reliable before Python 3.12, so it is compared as a whole.
            same = ast.dump(old) == ast.dump(new)
        elif isinstance(old, ast.AST) and isinstance(new, ast.AST):
            same = old._fields == new._fields
            todo += [(getattr(old, name, None), getattr(new, name, None)) for name in old._fields]
        elif isinstance(old, list):
            ours, theirs = cast("list[object]", old), cast("list[object]", new)
            same = len(ours) == len(theirs)
            todo += zip(ours, theirs, strict=False)
        else:
            # repr tells 0.0 from -0.0; a huge int has none, but is exact under ==.
            same = repr(old) == repr(new) if isinstance(old, (float, complex)) else old == new
        if not same:
            raise RuntimeError(f"{before.path}: something changed that is not in the plan")
    if met != set(moved):
        raise RuntimeError(f"{before.path}: {len(moved) - len(met)} planned literals were not found in the file")
