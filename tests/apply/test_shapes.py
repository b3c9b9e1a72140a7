"""Every literal shape as data: edited exactly to 7 (everything else byte for byte), or refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tune_mcp.apply.literals import Edit, rewrite
from tune_mcp.discover.constants import parse_module
from tune_mcp.errors import Refusal

PATH = "tests/test_asr.py"


@dataclass(frozen=True)
class Shape:
    """``text`` holds the threshold ``source``; « » mark the token that becomes 7, ``refused`` says why it may not."""

    name: str
    text: str
    source: str = "X"
    concurrency: int | None = None
    refused: str | None = None


EDITED = (
    Shape("float", "X = «0.81»\n"),
    Shape("int", "X = «4»\n"),
    Shape("zero", "X = «0»\n"),
    Shape("negative", "X = «-0.3»\n"),
    Shape("plus sign", "X = «+0.3»\n"),
    Shape("sign and space", "X = «- 0.3»\n"),
    Shape("parenthesised", "X = («0.3»)\n"),
    Shape("twice parenthesised", "X = (( «0.3» ))\n"),
    Shape("parenthesised over lines with comments", "X = (  # 0.3\n    «0.3»  # 0.3\n)\n"),
    Shape("scientific", "X = «1e-3»\n"),
    Shape("scientific, capital", "X = «2.5E+2»\n"),
    Shape("underscores", "X = «12_000»\nY = 1_000\n"),
    Shape("float with underscores", "X = «1_000.5_0»\n"),
    Shape("no leading zero", "X = «.25»\n"),
    Shape("trailing dot", "X = «5.»\n"),
    Shape("trailing zeros", "X = «151.500»\nY = 0.70\n"),
    Shape("hexadecimal", "X = «0x1F»\n"),
    Shape("annotated", "X: float = «0.3»\n"),
    Shape("annotated float | None", "X: float | None = «0.3»\n"),
    Shape("int under a float annotation", "X: float = «2»\n"),
    Shape("Final", "from typing import Final\nX: Final[float] = «0.3»\n"),
    Shape("Final without brackets", "from typing import Final\nX: Final = «0.3»\n"),
    Shape("type comment", "X = «0.3»  # type: float\n"),
    Shape("declared before", "X: float\nX = «0.3»\n"),
    Shape("trailing comment with the number", "X = «0.3»  # was 0.3, X = 0.3\n"),
    Shape("several statements on a line", "A = 0.3; X = «0.3»; B = 0.3\n"),
    Shape("line continuation", "X = \\\n    «0.3»\n"),
    Shape("tabs", "X\t=\t«0.3»\t# t\n"),
    Shape("form feed before", "\x0cX = «0.3»\n"),
    Shape("form feed between", "A = 1\n\x0c\nX = «0.3»\n"),
    Shape("no space", "X=«0.3»"),
    Shape("no newline at the end", "A = 1\nX = «0.3»"),
    Shape("CRLF", "A = 0.3\r\nX = «0.3»\r\nB = 0.3\r\n"),
    Shape("lone CR", "A = 0.3\rX = «0.3»\rB = 0.3\r"),
    Shape("mixed line ends", "A = 0.3\r\nX = «0.3»\nB = 0.3\r"),
    Shape("BOM", "\ufeffX = «0.3»\n"),
    Shape("UTF-8 cookie", "# -*- coding: utf-8 -*-\nX = «0.3»\n"),
    Shape("vim cookie and BOM", "\ufeff# vim: set fileencoding=utf-8 :\nX = «0.3»\n"),
    Shape("two-byte letters before on the line", "É = 'ß'; X = «0.3»  # é\n"),
    Shape("four-byte letters before on the line", "A = '🎙🎙'; X = «0.3»\n"),
    Shape("a name of four-byte letters", "A = '\u2028\x85'; X = «0.3»\n"),
    Shape("name with underscore", "_X = «0.3»\nX = 0.3\n", "_X"),
    Shape("longer and shorter names", "X_2 = 0.3\nX = «0.3»\nXX = 0.3\n"),
    Shape("also in a docstring", '"""X = 0.3\n"""\nX = «0.3»\n'),
    Shape("also in a comment", "# X = 0.3\nX = «0.3»\n"),
    Shape("also a class attribute", "class A:\n    X = 0.3\nX = «0.3»\n"),
    Shape("also a local", "def f():\n    X = 0.3\n    return X\nX = «0.3»\n"),
    Shape("also a parameter", "def f(X=0.3):\n    return X\nX = «0.3»\n"),
    Shape("also a keyword", "f = dict(X=0.3)\nX = «0.3»\n"),
    Shape("also a comprehension variable", "A = [X for X in (1, 2)]\nX = «0.3»\n"),
    Shape("read in an f-string", "X = «0.3»\nA = f'{X:.3f} {0.3} X = 0.3'\n"),
    Shape("read by a derived threshold", "X = «0.3»\nX_THRESHOLD = X * 0.9\n"),
    Shape("exported", "__all__ = ['X']\nX = «0.3»\n"),
    Shape("nested", "_X = {8: {'a': «0.3», 'b': 0.3}}\n", "_X['a']", 8),
    Shape("nested, one key, no concurrency", "_X = {8: {'a': «0.3»}}\n", "_X['a']"),
    Shape("nested, five keys", "_X = {1: {'a': 1}, 4: {'a': 1}, 8: {'a': «1»}, 16: {'a': 1}}\n", "_X['a']", 8),
    Shape("nested over lines", "_X = {\n    8: {  # 8: {'a': 9}\n        'a': «0.3»,\n    },\n}\n", "_X['a']", 8),
    Shape("nested, commented old value", "_X = {8: {\n    # 'a': 0.4,\n    'a': «0.3»,\n}}\n", "_X['a']", 8),
    Shape("nested, Name key", "C = 8\n_X = {C: {'a': «0.3»}}\n", "_X['a']", 8),
    Shape("nested, annotated", "_X: dict[int, dict[str, float]] = {8: {'a': «0.3»}}\n", "_X['a']", 8),
    Shape("nested, sign", "_X = {8: {'a': «-0.3»}}\n", "_X['a']", 8),
    Shape("nested, joined string key", "_X = {8: {'a' 'b': «0.3»}}\n", "_X['ab']", 8),
    Shape("nested, brace in a string", "_X = {8: {'}': 1, 'a': «0.3»}}\n", "_X['a']", 8),
    Shape("nested, source names the concurrency", "_X = {4: {'a': 1}, 8: {'a': «1»}}\n", "_X[8]['a']"),
)
REFUSED = (
    Shape("missing", "Y = 0.3\n", refused="no such symbol"),
    Shape("only in a docstring", '"""X = 0.3"""\n', refused="no such symbol"),
    Shape("only a class attribute", "class A:\n    X = 0.3\n", refused="no such symbol"),
    Shape("imported", "from a import X\n", refused="an import from a"),
    Shape("imported as", "import a as X\n", refused="an import"),
    Shape("assigned twice", "X = 0.3\nX = 0.4\n", refused="assigned 2 times"),
    Shape("assigned twice on a line", "X = 0.3; X = 0.4\n", refused="assigned 2 times"),
    Shape("under if", "if A:\n    X = 0.3\n", refused="under a condition"),
    Shape("under if and else", "if A:\n    X = 0.3\nelse:\n    X = 0.4\n", refused="under a condition"),
    Shape("and again under if", "X = 0.3\nif A:\n    X = 0.4\n", refused="assigned 2 times"),
    Shape("under try", "try:\n    X = 0.3\nfinally:\n    pass\n", refused="under a condition"),
    Shape("under while", "while A:\n    X = 0.3\n", refused="under a condition"),
    Shape("under with", "with a:\n    X = 0.3\n", refused="under a condition"),
    Shape("under match", "match a:\n    case 1:\n        X = 0.3\n", refused="under a condition"),
    Shape("augmented", "X = 0.3\nX *= 2\n", refused="an augmented assignment"),
    Shape("walrus", "X = 0.3\nprint(X := 0.4)\n", refused="an assignment expression"),
    Shape("walrus in a comprehension", "X = 0.3\nA = [X := b for b in c]\n", refused="an assignment expression"),
    Shape("deleted", "X = 0.3\ndel X\n", refused="a del statement"),
    Shape("global in a function", "X = 0.3\ndef f():\n    global X\n    X = 1\n", refused="declared global"),
    Shape("for target", "X = 0.3\nfor X in a:\n    pass\n", refused="a for statement"),
    Shape("with target", "X = 0.3\nwith a as X:\n    pass\n", refused="a with statement"),
    Shape("except target", "X = 0.3\ntry:\n    f()\nexcept E as X:\n    pass\n", refused="an except clause"),
    Shape("match target", "X = 0.3\nmatch a:\n    case X:\n        pass\n", refused="a match pattern"),
    Shape("also a function", "X = 0.3\ndef X():\n    pass\n", refused="a function definition"),
    Shape("also a class", "X = 0.3\nclass X:\n    pass\n", refused="a class definition"),
    Shape("star import behind", "X = 0.3\nfrom a import *\n", refused="star import"),
    Shape("two targets", "X = Y = 0.3\n", refused="several targets"),
    Shape("tuple targets", "X, Y = 0.3, 0.4\n", refused="several targets"),
    Shape("star target", "*X, Y = 0.3, 0.4\n", refused="several targets"),
    Shape("sum", "X = 0.3 + 0\n", refused="derived by an expression"),
    Shape("product with a name", "X = REF * 0.9\n", refused="derived by an expression"),
    Shape("call", "X = round(0.3, 1)\n", refused="derived by an expression"),
    Shape("float of a string", "X = float('0.3')\n", refused="derived by an expression"),
    Shape("another name", "Y = 0.3\nX = Y\n", refused="derived by an expression"),
    Shape("conditional", "X = 0.3 if A else 0.4\n", refused="derived by an expression"),
    Shape("continuation before the sign", "X \\\n = \\\n -1 if False else 2\n", refused="derived by an expression"),
    Shape("two signs", "X = --0.3\n", refused="derived by an expression"),
    Shape("bit complement", "X = ~3\n", refused="derived by an expression"),
    Shape("f-string", "X = f'{0.3}'\n", refused="derived by an expression"),
    Shape("string", "X = '0.3'\n", refused="a string"),
    Shape("None", "X: float | None = None\n", refused="None"),
    Shape("bool", "X = True\n", refused="not a number"),
    Shape("complex", "X = 3j\n", refused="not a number"),
    Shape("ellipsis", "X = ...\n", refused="not a number"),
    Shape("infinite", "X = 1e999\n", refused="not a number"),
    Shape("tuple", "X = (0.3,)\n", refused="not a number"),
    Shape("list", "X = [0.3]\n", refused="not a number"),
    Shape("annotation alone", "X: float\n", refused="no such symbol"),
    Shape("comment inside the number", "X = (-  # why\n 0.3)\n", refused="a comment stands inside"),
    Shape("dict without a key in the source", "X = {8: {'a': 1}}\n", refused="the source must name a key"),
    Shape("key on a bare number", "X = 0.3\n", "X['a']", refused="a bare number"),
    Shape("changed in place", "_X = {8: {'a': 1}}\n_X[8]['a'] = 2\n", "_X['a']", 8, "changed in place"),
    Shape("updated", "_X = {8: {'a': 1}}\n_X.update(b)\n", "_X['a']", 8, "changed in place"),
    Shape("doubled key", "_X = {8: {'a': 1, 'a': 1}}\n", "_X['a']", 8, "duplicate key"),
    Shape("doubled concurrency", "_X = {8: {'a': 1}, 8: {'a': 1}}\n", "_X['a']", 8, "duplicate key"),
    Shape("doubled through a Name", "C = 8\n_X = {C: {'a': 1}, 8: {'a': 1}}\n", "_X['a']", 8, "duplicate key"),
    Shape("imported Name key", "from a import C\n_X = {C: {'a': 1}}\n", "_X['a']", 8, "cannot be resolved"),
    Shape("spread outside", "_X = {8: {'a': 1}, **b}\n", "_X['a']", 8, "spread"),
    Shape("spread inside", "_X = {8: {'a': 1, **b}}\n", "_X['a']", 8, "not a plain string"),
    Shape("comprehension", "_X = {8: {k: 1 for k in 'a'}}\n", "_X['a']", 8, "not a number"),
    Shape("comprehension inside", "_X = {4: {'a': 1}, 8: {k: 1 for k in 'a'}}\n", "_X['a']", 8, "derived"),
    Shape("dict call", "_X = dict(a=«1»)\n", "_X['a']", 8),
    Shape("flat dict", "_X = {'a': «1», 'b': 2}\n", "_X['a']", None),
    Shape("flat dict by load", "_X = {8: «1», 16: 2}\n", "_X[8]", None),
    Shape("dict by model", "_X = {'m': {'a': «1»}, 'n': {'a': 2}}\n", "_X['m']['a']", None),
    Shape("dict by a pair", "_X = {('m', 8): «-1», ('m', 9): 2}\n", "_X['m', 8]", None),
    Shape("class attribute", "class A:\n    X = «1»  # a\nclass B(A):\n    X = 2\n", "A.X", None),
    Shape("attribute of an inner class", "class A:\n    class B:\n        X: int = «1»\n", "A.B.X", None),
    Shape("dict of a class", "class A:\n    X = {'a': «1»}\n", "A.X['a']", None),
    Shape("field by keyword", "X = Limits(a=«1», b=2)\n", "X.a", None),
    Shape("field by position", "class L(NamedTuple):\n    a: int\n    b: int\nX = L(2, «1»)\n", "X.b", None),
    Shape("field of an entry", "X = {'m': Limits(a=«1»)}\n", "X['m'].a", None),
    Shape("class attribute set again", "class A:\n    X = 1\nA.X = 2\n", "A.X", None, "set anew on line 3"),
    Shape(
        "class attribute set by self",
        "class A:\n    X = 1\n    def f(self):\n        self.X = 2\n",
        "A.X",
        None,
        "set anew",
    ),
    Shape("class attribute twice", "class A:\n    X = 1\n    X = 2\n", "A.X", None, "assigned 2 times"),
    Shape("class attribute patched", "class A:\n    X = 1\nsetattr(A, 'X', 2)\n", "A.X", None, "set anew"),
    Shape("entry set again", "X = {'a': 1}\nX['a'] = 2\n", "X['a']", None, "changed in place"),
    Shape("key written twice", "X = {'a': 1, 'a': 2}\n", "X['a']", None, "written twice"),
    Shape("field of a function's result", "X = limits(a=1)\n", "X.a", None, "no such symbol"),
    Shape("merged", "_X = {8: {'a': 1}} | b\n", "_X['a']", 8, "derived"),
    Shape("expression inside", "_X = {8: {'a': 0.5 * 2}}\n", "_X['a']", 8, "derived"),
    Shape("None inside", "_X = {8: {'a': None}}\n", "_X['a']", 8, "None"),
    Shape("string concurrency", "_X = {'8': {'a': 1}}\n", "_X['a']", 8, "not a number"),
    Shape("float concurrency", "_X = {8.0: {'a': 1}}\n", "_X['a']", 8, "not a number"),
    Shape("bool concurrency", "_X = {True: {'a': 1}}\n", "_X['a']", 1, "not a number"),
    Shape("other concurrency", "_X = {4: {'a': 1}}\n", "_X['a']", 8, "no concurrency key 8"),
    Shape("several, none known", "_X = {4: {'a': 1}, 8: {'a': 1}}\n", "_X['a']", None, "2 concurrency keys"),
    Shape("other key", "_X = {8: {'b': 1}}\n", "_X['a']", 8, "no key 'a'"),
    Shape("bytes that are not UTF-8 by cookie", "# coding: latin-1\nX = 0.3\n", refused="latin|iso-8859-1"),
    Shape("no Python", "X = = 0.3\n", refused="does not parse"),
    Shape("compiles not", "X = 0.3\nreturn X\n", refused="does not compile"),
)
ALL = (*EDITED, *REFUSED)


def test_the_table_is_long_and_no_shape_stands_twice() -> None:
    assert len(ALL) >= 130
    assert len({shape.text for shape in ALL}) == len(ALL)
    assert len({shape.name for shape in ALL}) == len(ALL)


@pytest.mark.rule("APL-15", "APL-16", "APL-17")
@pytest.mark.parametrize("shape", ALL, ids=lambda shape: shape.name)
def test_a_shape_is_edited_exactly_or_refused_by_name(shape: Shape) -> None:
    before = shape.text.replace("«", "").replace("»", "").encode()
    if shape.refused is not None:
        with pytest.raises(Refusal, match=shape.refused):
            rewrite(before, PATH, [Edit(shape.source, shape.concurrency, None, 0.3, 7)])
        return
    start, rest = shape.text.split("«")
    old, end = rest.split("»")
    literal = parse_module(before, PATH).find(shape.source, shape.concurrency)
    assert literal.token == old

    after = rewrite(before, PATH, [Edit(shape.source, shape.concurrency, old, literal.value, 7)])

    assert after in (f"{start}7{end}".encode(), f"{start}7.0{end}".encode())
    assert type(parse_module(after, PATH).find(shape.source, shape.concurrency).value) is type(literal.value)
