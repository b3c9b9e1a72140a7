"""Facts of a module: what is a threshold literal, where it stands in bytes, and what may never be edited."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest

from tune_mcp.discover.constants import Constant, ConstantKind, ModuleConstants, parse_module
from tune_mcp.discover.places import split_source
from tune_mcp.errors import Code, Refusal


def module(text: str | bytes) -> ModuleConstants:
    return parse_module(text if isinstance(text, bytes) else text.encode(), "tests/test_asr.py")


def only(text: str, name: str = "X") -> Constant:
    return module(text).constants[name]


def refusal(text: str, source: str = "X", concurrency: int | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        module(text).find(source, concurrency)
    assert caught.value.code is Code.THRESHOLD_UNKNOWN
    assert source in caught.value.message
    assert "tests/test_asr.py" in caught.value.message
    return caught.value


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("APL-15")
@pytest.mark.parametrize(
    ("text", "token", "value"),
    [
        ("X = 0.81", "0.81", 0.81),
        ("X = 4  # errors, was 5", "4", 4),
        ("X: float | None = 2", "2", 2),
        ("X: int | None = 3", "3", 3),
        ("X = 2.5e-2", "2.5e-2", 0.025),
        ("X = 5e-3", "5e-3", 0.005),
        ("X = 12_000", "12_000", 12000),
        ("X = .25", ".25", 0.25),
        ("X = 5.", "5.", 5.0),
        ("X = 0x1F", "0x1F", 31),
        ("X = -0.3", "-0.3", -0.3),
        ("X = - 0.3", "- 0.3", -0.3),
        ("X = +0.3", "+0.3", 0.3),
        ("X = (0.3)", "0.3", 0.3),
        ("X = (-0.3)", "-0.3", -0.3),
        ("X = ((  # why\n    0.3\n))", "0.3", 0.3),
        ("X = \\\n    0.3", "0.3", 0.3),
        ("X\t=\t0.3\t;Y = 0.3", "0.3", 0.3),
        ("Y = 0.3; X = 0.3", "0.3", 0.3),
        ("É = 'é'; X = 0.3  # é 0.3", "0.3", 0.3),
        ("X = 0.70", "0.70", 0.7),
    ],
)
def test_a_plain_number_is_read_with_its_value_and_its_exact_bytes(text: str, token: str, value: float) -> None:
    data = text.encode()
    literal = module(data).find("X", None)
    assert (literal.token, literal.value, type(literal.value)) == (token, value, type(value))
    assert data[literal.start : literal.end].decode() == token
    assert (literal.symbol, literal.concurrency, literal.subkey) == ("X", None, None)


@pytest.mark.rule("APL-15")
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("cookie", ["", "# -*- coding: utf-8 -*-\n"])
def test_positions_are_bytes_whatever_the_line_ends_the_bom_and_the_cookie(
    newline: str, bom: bytes, cookie: str
) -> None:
    text = f"{cookie}A = 0.1\n'''é\n\f'''\nÉ = 'ß'; X = 0.2 # ß\n_N = {{\n\t8: {{'ключ': 0.3}},\n}}\n".replace(
        "\n", newline
    )
    data = bom + text.encode()
    found = module(data)
    for source, concurrency, token in (("A", None, b"0.1"), ("X", None, b"0.2"), ("_N['ключ']", 8, b"0.3")):
        literal = found.find(source, concurrency)
        assert data[literal.start : literal.end] == token
        assert literal.line == data[: literal.start].decode("utf-8-sig").replace(newline, "\n").count("\n") + 1
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.rule("APL-15")
def test_docstrings_comments_and_longer_names_do_not_mislead() -> None:
    text = '"""\nX = 0.5\n"""\n# X = 0.6\nX_2 = 0.7\nY = "X = 0.8"\nX = 0.9\n'
    text += "class A:\n    X = 1.0\ndef f():\n    X = 2.0\n"
    literal = module(text).find("X", None)
    assert (literal.token, literal.line) == ("0.9", 7)


def test_a_leading_underscore_is_a_name_like_any_other() -> None:
    assert module("_X = 0.5").find("_X", None).value == 0.5


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", ConstantKind.NUMBER),
        ("None", ConstantKind.NONE),
        ("'ENV_NAME'", ConstantKind.STRING),
        ("{8: {'a': 1}}", ConstantKind.NESTED),
        ("round(REF * SLACK, 3)", ConstantKind.DERIVED),
        ("None if REF is None else REF", ConstantKind.DERIVED),
        ("0.5 * 2", ConstantKind.DERIVED),
        ("--1", ConstantKind.DERIVED),
        ("~1", ConstantKind.DERIVED),
        ("REF", ConstantKind.DERIVED),
        ("f'{1}'", ConstantKind.DERIVED),
        ("{'a': REF}", ConstantKind.OTHER),
        ("{8: (1, 2)}", ConstantKind.OTHER),
        ("{8: REF}", ConstantKind.OTHER),
        ("{'en': {'a': 1}}", ConstantKind.OTHER),
        ("{True: {'a': 1}}", ConstantKind.OTHER),
        ("{}", ConstantKind.NESTED),
        ("[1, 2]", ConstantKind.OTHER),
        ("(1, 2)", ConstantKind.OTHER),
        ("True", ConstantKind.OTHER),
        ("1j", ConstantKind.OTHER),
        ("1e999", ConstantKind.OTHER),
        ("b'1'", ConstantKind.OTHER),
    ],
)
def test_the_kind_says_what_stands_right_of_the_equals_sign(value: str, kind: ConstantKind) -> None:
    assert only(f"X = {value}").kind is kind


# -- nested dicts ----------------------------------------------------------------------------------------------------

NESTED = """\
CONC = 8
_LAG_P95: dict[int, dict[str, float]] = {
    # 4: {"mean_s": 9.9},
    4: {"mean_s": 0.9, "qps": 11},
    CONC: {
        "mean_s": 5e-3,  # was {"mean_s": 1}
        "qps": 1_000,
        "off": None,
        "half": 0.5 * 2,
    },
}
"""


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("key", "concurrency", "token"),
    [("mean_s", 4, "0.9"), ("qps", 4, "11"), ("mean_s", 8, "5e-3"), ("qps", 8, "1_000")],
)
def test_a_nested_number_is_found_by_its_exact_keys(key: str, concurrency: int, token: str) -> None:
    literal = module(NESTED).find(f"_LAG_P95['{key}']", concurrency)
    assert (literal.token, literal.concurrency, literal.subkey) == (token, concurrency, key)
    assert NESTED.encode()[literal.start : literal.end].decode() == token


@pytest.mark.rule("APL-16")
def test_without_a_concurrency_the_only_outer_key_is_taken() -> None:
    assert module("_X = {8: {'qps': 2.5}}").find("_X['qps']", None).concurrency == 8


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    "text", [NESTED, "_LAG_P95 = {4: {'mean_s': 1}, 8: {}}", "_LAG_P95 = {4: {'mean_s': 1}, 8: REF}"]
)
def test_without_a_concurrency_several_outer_keys_are_refused(text: str) -> None:
    found = refusal(text, "_LAG_P95['mean_s']")
    assert found.rules == ("APL-16",)
    assert "2 concurrency keys (4, 8)" in found.message


@pytest.mark.rule("APL-16")
def test_a_concurrency_or_key_that_is_missing_is_refused_even_when_there_is_just_one() -> None:
    assert "no concurrency key 16" in refusal("_X = {8: {'qps': 2.5}}", "_X['qps']", 16).message
    assert "no key 'rtf' under concurrency 8" in refusal("_X = {8: {'qps': 2.5}}", "_X['rtf']", 8).message


@pytest.mark.rule("APL-16")
def test_a_concurrency_inside_the_source_must_agree_with_the_one_asked_for() -> None:
    found = module(NESTED)
    assert found.find("_LAG_P95[4]['qps']", None).value == 11
    assert found.find("_LAG_P95[4]['qps']", 4).value == 11
    with pytest.raises(Refusal) as caught:
        found.find("_LAG_P95[4]['qps']", 8)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.rule("APL-17")
def test_leaves_that_are_no_numbers_are_gaps_with_a_reason_and_the_others_stay_editable() -> None:
    constant = only(NESTED, "_LAG_P95")
    assert constant.problem is None
    assert {(gap.concurrency, gap.subkey): gap.line for gap in constant.unusable} == {(8, "off"): 8, (8, "half"): 9}
    assert "None" in refusal(NESTED, "_LAG_P95['off']", 8).message
    assert "expression" in refusal(NESTED, "_LAG_P95['half']", 8).message


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{8: {'a': 1}, 8: {'a': 2}}", "duplicate key 8"),
        ("{8: {'a': 1, 'a': 2}}", "duplicate key 'a'"),
        ("{8: {'a': 1}, CONC: {'a': 2}}", "duplicate key 8"),
        ("{8: {'a': 1}, **MORE}", "spread"),
        ("{8: {'a': 1, **MORE}}", "not a plain string"),
        ("{8: {'a': 1, NAME: 2}}", "not a plain string"),
        ("{8: {'a': 1}, ELSEWHERE: {'a': 2}}", "the key ELSEWHERE cannot be resolved"),
        ("{8: {'a': 1}, TWICE: {'a': 2}}", "the key TWICE cannot be resolved"),
    ],
)
def test_a_dict_whose_keys_are_not_beyond_doubt_is_refused(value: str, reason: str) -> None:
    text = f"from cfg import ELSEWHERE\nCONC = 8\nTWICE = 1\nTWICE = 2\nX = {value}\n"
    assert reason in str(only(text).problem)
    assert reason in refusal(text, "X['a']", 8).message


def test_a_name_as_key_resolves_through_one_alias() -> None:
    assert module("BASE = 16\nCONC = BASE\n_X = {CONC: {'a': 1}}").find("_X['a']", 16).value == 1


def test_an_entry_under_an_unresolved_name_is_absent() -> None:
    constant = only("from cfg import CONC\nX = {CONC: {'a': 1}, 4: {'a': 2}}")
    assert [(literal.concurrency, literal.value) for literal in constant.literals] == [(4, 2)]


# -- what may never be edited ----------------------------------------------------------------------------------------


@pytest.mark.rule("APL-15", "APL-17")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("X = 1\nX = 2", "assigned 2 times"),
        ("X = 1\nX = 1", "assigned 2 times"),
        ("X = 1\nif A:\n    X = 2", "assigned 2 times"),
        ("if A:\n    X = 1\nelse:\n    X = 2", "defined under a condition"),
        ("try:\n    X = 1\nexcept E:\n    pass", "defined under a condition"),
        ("try:\n    pass\nfinally:\n    X = 1", "defined under a condition"),
        ("try:\n    X = 1\nexcept* E:\n    pass", "defined under a condition"),
        ("with a() as b:\n    X = 1", "defined under a condition"),
        ("for i in a:\n    X = 1", "defined under a condition"),
        ("while a:\n    X = 1", "defined under a condition"),
        ("match a:\n    case 1:\n        X = 1", "defined under a condition"),
        ("X = Y = 1", "several targets"),
        ("X, Y = 1, 2", "several targets"),
        ("[X] = [1]", "several targets"),
        ("X, *Y = 1, 2", "several targets"),
        ("*X, Y = 1, 2", "several targets"),
        ("X = 1\nX += 1", "an augmented assignment on line 2"),
        ("X = 1\ndel X", "a del statement on line 2"),
        ("X = 1\nfor X in a:\n    pass", "a for statement on line 2"),
        ("X = 1\nfor Y in a:\n    pass\nelse:\n    for (X, Z) in b: pass", "a for statement on line 5"),
        ("X = 1\nwith a as X:\n    pass", "a with statement on line 2"),
        ("X = 1\nprint(X := 2)", "an assignment expression on line 2"),
        ("X = 1\ny = [X := i for i in a]", "an assignment expression on line 2"),
        ("X = 1\ndef f(a=(X := 2)): pass", "an assignment expression on line 2"),
        ("X = 1\nfrom a.b import X", "an import from a.b on line 2"),
        ("X = 1\nfrom a import b as X", "an import from a on line 2"),
        ("X = 1\nimport X.y", "an import on line 2"),
        ("try:\n    from a import X\nexcept E:\n    pass\nX = 1", "an import from a on line 2"),
        ("X = 1\ndef X(): pass", "a function definition on line 2"),
        ("X = 1\nasync def X(): pass", "a function definition on line 2"),
        ("X = 1\nclass X: pass", "a class definition on line 2"),
        ("X = 1\ntry:\n    pass\nexcept E as X:\n    pass", "an except clause on line 4"),
        ("X = 1\nmatch a:\n    case X:\n        pass", "a match pattern on line 3"),
        ("X = 1\nmatch a:\n    case {**X}:\n        pass", "a match pattern on line 3"),
        ("X = 1\nmatch a:\n    case [*X]:\n        pass", "a match pattern on line 3"),
        ("X = 1\ndef f():\n    global X\n    X = 2", "declared global on line 3"),
        ("X = 1\nclass A:\n    global X\n    X = 2", "declared global on line 3"),
        ("X = 1\nfrom a import *", "star import on line 2"),
        ("X = 1\nglobals()['X'] = 2", "perhaps bound again by globals on line 2"),
        ("X = 1\ndef f():\n    exec(text)", "perhaps bound again by exec on line 3"),
        ("X = -(  # low\n  1)", "a comment stands inside the number"),
    ],
)
def test_a_symbol_that_is_not_bound_once_and_plainly_may_not_be_edited(text: str, reason: str) -> None:
    found = refusal(text)
    assert reason in found.message
    assert found.rules == ("APL-17",)
    assert found.details["line"] == module(text).constants["X"].line
    assert module(text).number("X") is None


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    "change",
    [
        "_X[8]['a'] = 2",
        "_X[8]['a'] += 2",
        "del _X[8]",
        "_X.update(a)",
        "_X[8].update(a=1)",
        "def f():\n    _X[8]['a'] = 2",
        "Y = _X\nY[8]['a'] = 2",
        "def f():\n    y = _X\n    y[8].update(a=2)",
    ],
)
def test_a_dict_that_is_changed_in_place_may_not_be_edited(change: str) -> None:
    assert "changed in place" in refusal(f"_X = {{8: {{'a': 1}}}}\n{change}\n", "_X['a']", 8).message


@pytest.mark.parametrize(
    "text",
    [
        "from a import *\nX = 1",
        "X: float\nX = 1",
        "X = 1\ny = [X for X in a]",
        "X = 1\ndef f(X=2):\n    X = 3\n    for X in a: pass",
        "X = 1\ny = lambda X: (X := 2)",
        "X = 1\na.X = 2",
        "X = 1\nclass A:\n    X = 2\n    def X(self): pass",
        "if X_ON:\n    Y = 1\nX = 1",
    ],
)
def test_names_of_other_scopes_do_not_spoil_a_plain_constant(text: str) -> None:
    assert module(text).find("X", None).value == 1


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    ("text", "source", "reason"),
    [
        ("X = round(REF * 0.9, 3)", "X", "expression"),
        ("X = None if REF is None else REF * 1.1", "X", "expression"),
        ("X = apply_wer_slack(REF)", "X", "expression"),
        ("X = None", "X", "None"),
        ("X = 'TUNE_X'", "X", "string"),
        ("X = [1]", "X", "not a number"),
        ("X = True", "X", "not a number"),
        ("X = 1e999", "X", "not a number"),
        ("X = {8: {'a': 1}}", "X", "must name a key"),
        ("X = 1", "X['a']", "no keys"),
        ("Y = 1", "X", "no such symbol"),
        ("assert f() < 0.5", "X", "no such symbol"),
        ("from a.b import X", "X", "an import from a.b on line 1"),
        ("class A:\n    X = 1", "X", "no such symbol"),
    ],
)
def test_what_is_not_one_number_of_this_file_is_refused_with_the_reason(text: str, source: str, reason: str) -> None:
    assert reason in refusal(text, source).message


# -- files and sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"X = ", "line 1"),
        (b"X = '\xff'", "UTF-8"),
        ("# coding: latin-1\nX = 'é'".encode("latin-1"), "encoding iso-8859-1"),
        (b"# coding: latin-1\nX = 1", "encoding iso-8859-1"),
        (b"# coding: klingon\nX = 1", "klingon"),
        (b"\xef\xbb\xbf# coding: latin-1\nX = 1", "encoding iso-8859-1"),
        (b"# c\n\nX = 1\rY = '\xe9'", "byte 16 is not UTF-8"),
        (b"X = 1\0", "null"),
        (b"X = " + b"(" * 500 + b"1" + b")" * 500, ""),
    ],
)
def test_a_file_that_is_not_python_in_utf_8_is_refused_with_its_name(data: bytes, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        module(data)
    assert caught.value.code is Code.INVALID_CONFIG
    assert "tests/test_asr.py" in caught.value.message
    assert reason in caught.value.message


def test_an_ascii_cookie_is_utf_8_enough() -> None:
    assert module(b"# coding: ascii\nX = 1").find("X", None).start == 20


@pytest.mark.parametrize(
    ("source", "parts"),
    [("NAME", ("NAME", None)), ("_X['k']", ("_X", "k")), ('_X["a b"]', ("_X", "a b")), ("_X[8]['k']", ("_X", "k"))],
)
def test_a_source_is_a_symbol_and_perhaps_a_key(source: str, parts: tuple[str, str | None]) -> None:
    assert split_source(source) == parts


@pytest.mark.parametrize(
    "source",
    [
        "",
        "1X",
        "X.y()",
        "X[8:9]",
        "X['']",
        "X[k]",
        "X['k'",
        "X['k\"]",
        "X['a'][b]",
        "X = 1",
        "X\n",
        " X",
        "if",
        "None",
        "f()",
    ],
)
def test_anything_else_is_no_source(source: str) -> None:
    with pytest.raises(Refusal) as caught:
        split_source(source)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_number_gives_plain_numbers_also_through_one_alias_and_nothing_else() -> None:
    found = module("A = 8\nB = A\nC = B\nD = None\nE = 'x'\nF = 1 + 1\nG = True\nif A:\n    H = 1\n")
    assert {name: found.number(name) for name in "ABCDEFGHZ"} == dict.fromkeys("CDEFGHZ") | {"A": 8, "B": 8}


def test_imports_are_dotted_and_taken_from_the_whole_file() -> None:
    text = "import a.b, c\nfrom d.e import f as g, h\nfrom . import i\nfrom ..j import k\n"
    text += "from l import *\ndef t():\n    import m\n"
    assert module(text).imports == {"a.b", "c", "d.e", "d.e.f", "d.e.h", ".", ".i", "..j", "..j.k", "l", "m"}


OWN = {8: {"é": -2.5, "y": +3}}  # é 2.5


def test_every_literal_of_this_very_file_is_where_it_is_said_to_be() -> None:
    data = Path(__file__).read_bytes()
    literals = module(data).constants["OWN"].literals
    assert [ast.literal_eval(data[one.start : one.end].decode()) for one in literals] == [-2.5, 3]
