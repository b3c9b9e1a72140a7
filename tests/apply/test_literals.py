"""The edit: exactly the planned numbers change, byte for byte, or nothing does."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tune_mcp.apply.literals import Edit, Planned, number_text, prove, rewrite
from tune_mcp.discover.constants import parse_module
from tune_mcp.discover.places import split_source
from tune_mcp.errors import Code, Refusal

PATH = "tests/test_asr.py"


def edit(
    source: str,
    old: float,
    new: float,
    concurrency: int | None = None,
    text: str | None = None,
    token: str | None = None,
) -> Edit:
    return Edit(source, concurrency, token, old, new, text)


def change(text: str | bytes, *edits: Edit) -> bytes:
    return rewrite(text if isinstance(text, bytes) else text.encode(), PATH, edits)


def refused(text: str | bytes, *edits: Edit) -> Refusal:
    with pytest.raises(Refusal) as caught:
        change(text, *edits)
    return caught.value


# -- spelling --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("APL-09", "APL-14")
@pytest.mark.parametrize(
    ("value", "old", "text"),
    [
        (8.0, "5", "8"),
        (8, "5", "8"),
        (7.5, "5", "7.5"),
        (8, "5.0", "8.0"),
        (8.0, "5.0", "8.0"),
        (0.7166666666666667, "0.70", "0.7166666666666667"),
        (5e-324, "0.1", "5e-324"),
        (1e22, "5", "10000000000000000000000"),
        (-3.0, "1_000", "-3"),
        (32, "0x10", "32"),
        (0.0123, "-  \n 5", "0.0123"),
    ],
)
def test_an_int_stays_an_int_where_it_can_and_a_float_is_written_in_full(value: float, old: str, text: str) -> None:
    assert number_text(value, old) == text


@pytest.mark.rule("APL-13")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, 2**53 + 1, True])
@pytest.mark.parametrize("old", ["0.5", "0.0"])
def test_a_value_that_no_float_holds_is_never_written(value: float, old: str) -> None:
    with pytest.raises(Refusal) as caught:
        number_text(value, old)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [math.nan, math.inf, True])
def test_nor_is_it_where_an_int_stood(value: float) -> None:
    assert refused("X = 5", edit("X", 5, value)).code is Code.INVALID_ARGUMENT


class NumpyLike(float):
    def __repr__(self) -> str:
        return f"float64({float(self)})"


def test_a_number_of_a_subclass_is_written_as_a_plain_number() -> None:
    assert change("X = 0.5", edit("X", 0.5, NumpyLike(0.25))) == b"X = 0.25"


# -- exact edits -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("APL-15", "APL-25")
@pytest.mark.parametrize(
    ("before", "old", "new", "after"),
    [
        ("X = 0.81\n", 0.81, 0.8, "X = 0.8\n"),
        ("X = 0.81", 0.81, 0.8, "X = 0.8"),
        ("X: float | None = 2  # was 2\n", 2, 2.5, "X: float | None = 2.5  # was 2\n"),
        ("X = 0.5 # 0.5 of 0.5\r\nY = 0.5\r\n", 0.5, 0.25, "X = 0.25 # 0.5 of 0.5\r\nY = 0.5\r\n"),
        ("\ufeffX = 0.5\n", 0.5, 0.25, "\ufeffX = 0.25\n"),
        ("\ufeff# é\r\nX = 0.5\r\n", 0.5, 0.25, "\ufeff# é\r\nX = 0.25\r\n"),
        ("É = 'ß é'; X = 0.5; Y = 0.5 # é\n", 0.5, 0.25, "É = 'ß é'; X = 0.25; Y = 0.5 # é\n"),
        ("X\t=\t0.5\t# t\n", 0.5, 0.25, "X\t=\t0.25\t# t\n"),
        ("Y=0.5;X=0.5;Z=0.5", 0.5, 0.25, "Y=0.5;X=0.25;Z=0.5"),
        ("X = (0.5)\n", 0.5, 0.25, "X = (0.25)\n"),
        ("X = (  # why\n    0.5  # this\n)\n", 0.5, -0.25, "X = (  # why\n    -0.25  # this\n)\n"),
        ("X = -0.5\n", -0.5, 0.25, "X = 0.25\n"),
        ("X = -(0.5)\n", -0.5, -0.25, "X = -0.25\n"),
        ("X = (-\n0.5)\n", -0.5, -0.25, "X = (-0.25)\n"),
        ("X = +0.5\n", 0.5, 0.25, "X = 0.25\n"),
        ("X = 1_000\n", 1000, 1200.0, "X = 1200\n"),
        ("X = 5e-3\n", 0.005, 0.006, "X = 0.006\n"),
        ("X = .25\n", 0.25, 0.5, "X = 0.5\n"),
        ("X=.25;Y=1", 0.25, 0.5, "X=0.5;Y=1"),
        ("X = 0x10\n", 16, 17, "X = 17\n"),
        ("X = \\\n  0.5\n", 0.5, 0.25, "X = \\\n  0.25\n"),
        ("X = 0.5\rY = 0.5\r", 0.5, 0.25, "X = 0.25\rY = 0.5\r"),
        ("'''X = 0.5'''\nX_2 = 0.5\nX = 0.5\n", 0.5, 0.25, "'''X = 0.5'''\nX_2 = 0.5\nX = 0.25\n"),
        (
            "X = 0.5\nassert f'{X:.3f} {0.5}'\nassert X < 0.5\n",
            0.5,
            0.25,
            "X = 0.25\nassert f'{X:.3f} {0.5}'\nassert X < 0.5\n",
        ),
        ("X = 0.5\nX_THRESHOLD = X * 0.9\n", 0.5, 0.25, "X = 0.25\nX_THRESHOLD = X * 0.9\n"),
    ],
)
def test_only_the_literal_of_the_assignment_changes(before: str, old: float, new: float, after: str) -> None:
    assert change(before, edit("X", old, new)) == after.encode()


NESTED = """\
_LAG = {
    4: {"mean_s": 0.9, "qps": 11},
    8: {"mean_s": 0.9, "qps": 11,},  # 8: {"qps": 11}
    16: {"mean_s": 0.9, "qps": 11},
    32: {"mean_s": -0.9, "qps": 11},
    64: {"mean_s": 0.9, "qps": 11}
}
"""


@pytest.mark.rule("APL-16")
def test_of_five_concurrencies_only_the_one_of_the_plan_changes() -> None:
    new = change(NESTED, edit("_LAG['qps']", 11, 12.0, 8), edit("_LAG['mean_s']", -0.9, 1.25, 32))
    assert new.decode() == NESTED.replace('"qps": 11,}', '"qps": 12,}').replace("-0.9", "1.25")


@pytest.mark.rule("APL-16")
def test_the_only_concurrency_is_taken_when_the_plan_has_none() -> None:
    assert change("_X = {8: {'a': 1,},}", edit("_X['a']", 1, 2)) == b"_X = {8: {'a': 2,},}"


@pytest.mark.rule("APL-16")
@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        "_LAG = {8: {'qps': 11, 'qps': 11}}",
        "_LAG = {4: {'qps': 11}, 4: {'qps': 11}}",
        "_LAG = {4: {'rtf': 11}}",
        "_LAG = {4: {'qps': None}}",
        "_LAG = {4: {'qps': 5.5 * 2}}",
        "_LAG = {'4': {'qps': 11}}",
        "_LAG = dict()",
    ],
)
def test_an_entry_that_is_not_beyond_doubt_is_refused(text: str) -> None:
    assert refused(text, edit("_LAG['qps']", 11, 12)).code is Code.THRESHOLD_UNKNOWN


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize("value", ["f(1)", "0.5 * 2", "None", "'1'", "REF", "1 if A else 2", "True"])
def test_what_is_no_literal_is_refused_and_never_guessed(value: str) -> None:
    assert refused(f"X = {value}\n", edit("X", 1, 2)).code is Code.THRESHOLD_UNKNOWN


def test_a_value_goes_to_the_symbol_of_its_own_preset_alone() -> None:
    text = "HIGGS_VC_WER_MAX_CORPUS = 0.02\nMOSS_VC_WER_MAX_CORPUS = 0.02\n"
    new = change(text, edit("MOSS_VC_WER_MAX_CORPUS", 0.02, 0.03))
    assert new == b"HIGGS_VC_WER_MAX_CORPUS = 0.02\nMOSS_VC_WER_MAX_CORPUS = 0.03\n"


@pytest.mark.parametrize(
    ("text", "new"), [("X = 0.70", 0.7), ("X = 1_000", 1000.0), ("X = 5", 5.0), ("X = (- 0.50)", -0.5)]
)
def test_a_value_that_is_equal_already_keeps_its_spelling(text: str, new: float) -> None:
    assert change(text, edit("X", new, new)) == text.encode()
    assert change(text, edit("X", new, new, text=f"{new:+.3f}")) == text.encode()


def test_no_edit_gives_the_same_bytes() -> None:
    assert change("X = 1\r\n") == b"X = 1\r\n"


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize(
    "planned", [edit("X", 0.4, 0.3), edit("X", 0.5, 0.3, token="0.5"), edit("X", 0.5, 0.3, token="5e-1")]
)
def test_another_value_or_spelling_than_the_plan_saw_is_refused(planned: Edit) -> None:
    found = refused("X = 0.50", planned)
    assert found.code is Code.THRESHOLD_CHANGED
    assert "0.50" in found.message


@pytest.mark.rule("APL-24")
def test_one_bad_edit_spoils_all_of_them() -> None:
    assert refused("X = 1\nY = 2\n", edit("X", 1, 3), edit("Y", 1, 3)).code is Code.THRESHOLD_CHANGED


def test_a_first_value_and_the_change_of_another_are_made_in_one_go_in_either_order() -> None:
    first = Edit("X", None, None, None, 0.25)
    for edits in ((first, edit("Y", 1, 3)), (edit("Y", 1, 3), first)):
        assert change("X = None\nY = 1\n", *edits) == b"X = 0.25\nY = 3\n"


@pytest.mark.rule("APL-24")
def test_a_first_value_for_what_has_one_meanwhile_is_refused() -> None:
    found = refused("X = 0.5\n", Edit("X", None, None, None, 0.25))
    assert found.code is Code.THRESHOLD_CHANGED
    assert "had no value when the plan was made" in found.message


@pytest.mark.parametrize(
    ("text", "source", "rule"), [("X = 1\n", "X", "APL-15"), ("_X = {8: {'a': 1}}", "_X['a']", "APL-16")]
)
def test_a_refusal_names_the_rule_of_the_literals_form(text: str, source: str, rule: str) -> None:
    assert refused(text, edit(source, 2, 3)).rules == ("APL-24", rule)


@pytest.mark.parametrize("second", [edit("_X['a']", 1, 3, 8), edit("_X['a']", 1, 2), edit("_X[8]['a']", 1, 2)])
def test_two_edits_of_one_literal_are_a_conflict_however_they_name_it(second: Edit) -> None:
    found = refused("_X = {8: {'a': 1}}", edit("_X['a']", 1, 2, 8), second)
    assert found.code is Code.INVALID_ARGUMENT
    assert "two edits" in found.message


@pytest.mark.rule("APL-13")
@pytest.mark.parametrize("text", ["12.5", "12.50", "1.25e1", "+12.5", "1_2.5"])
def test_a_custom_value_is_written_as_the_person_gave_it(text: str) -> None:
    assert change("X = 9  # é\n", edit("X", 9, 12.5, text=text)) == f"X = {text}  # é\n".encode()


@pytest.mark.rule("APL-13")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("abc", 1.0),
        ("nan", math.nan),
        ("1e999", math.inf),
        ("", 1.0),
        ("1.5", 2.5),
        ("1.5 ", 1.5),
        ("1.5\n", 1.5),
        ("1.5;import os", 1.5),
        ("1+0.5", 1.5),
        ("1.5#", 1.5),
        ("True", 1.0),
        ("\uff11", 1.0),
        ("007", 7.0),
        ("--1", 1.0),
        ("1j", 1.0),
        ("(1.5)", 1.5),
    ],
)
def test_a_custom_text_that_is_not_one_plain_number_is_refused(text: str, value: float) -> None:
    assert refused("X = 9", edit("X", 9, value, text=text)).code is Code.DECISION_INVALID


@pytest.mark.parametrize("text", ["X = 1\nif", "X = 1\nreturn X\n", "X = 1\nawait f()\n"])
def test_a_file_that_does_not_compile_is_refused_before_the_edit(text: str) -> None:
    found = refused(text, edit("X", 1, 2))
    assert found.code is Code.INVALID_CONFIG
    assert PATH in found.message


def test_the_file_s_own_future_imports_count_and_ours_do_not() -> None:
    text = "from __future__ import annotations\nX: undefined = 1\n"
    assert change(text, edit("X", 1, 2)).endswith(b"= 2\n")


# -- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        b"X = 0.25\nY = 0.5\nZ = 'a'  # c\n",
        b"X = 0.4\nY = 0.25\nZ = 'a'  # c\n",
        b"X = 0.4\nY = 0.5\nZ = 'b'  # c\n",
        b"X = 0.4\nY = 0.5\nZ = 'a'  # d\n",
        b"X = 0.4\nY = 0.5\nZ = 'a'  # c\nimport os\n",
        b"X = 4e-1\nY = 0.5\nZ = 'a'  # c\n",
        b"X = 0.5\nY = 0.5\nZ = 'a'  # c\n",
        b"import os\nX = 0.4\nY = 0.5\nZ = 'a'  # c\n",
    ],
)
def test_the_proof_rejects_any_result_but_the_planned_one(forged: bytes) -> None:
    old = b"X = 0.5\nY = 0.5\nZ = 'a'  # c\n"
    planned = [Planned("X", parse_module(old, PATH).find("X", None), "0.4")]
    prove(old, old.replace(b"0.5", b"0.4", 1), PATH, planned)
    with pytest.raises(RuntimeError):
        prove(old, forged, PATH, planned)


def test_the_proof_rejects_an_edit_of_a_comment_and_a_value_of_the_wrong_type() -> None:
    old = b"X = 0.4  # 0.5\n"
    literal = parse_module(old, PATH).find("X", None)
    astray = Planned("X", replace(literal, start=11, end=14), "0.4")
    with pytest.raises(RuntimeError, match="not in the plan"):
        prove(old, b"X = 0.4  # 0.4\n", PATH, [astray])
    with pytest.raises(RuntimeError, match=r"does not read as 1\.0"):
        prove(old, b"X = 1  # 0.5\n", PATH, [Planned("X", literal, "1.0")])


@pytest.mark.parametrize("forged", [b"\n\nX = 0.4  # b\n", b"#A\nX = 0.4  # b\n", b"#a\nX = 0.4  # c\n"])
def test_the_proof_compares_every_byte_before_between_and_behind(forged: bytes) -> None:
    old = b"#a\nX = 0.5  # b\n"
    planned = [Planned("X", parse_module(old, PATH).find("X", None), "0.4")]
    prove(old, b"#a\nX = 0.4  # b\n", PATH, planned)
    with pytest.raises(RuntimeError, match="beside the planned values"):
        prove(old, forged, PATH, planned)


def test_the_proof_of_a_first_value_rejects_a_comment_that_is_lost() -> None:
    old = b"#a\nX = None  # b\n"
    blank = parse_module(old, PATH).blank("X", None)
    assert blank is not None
    planned = [Planned("X", blank, "0.4")]
    prove(old, b"#a\nX = 0.4  # b\n", PATH, planned)
    with pytest.raises(RuntimeError):
        prove(old, b"#a\nX = 0.4\n", PATH, planned)


# -- any module ------------------------------------------------------------------------------------------------------

_finite = st.floats(allow_nan=False, allow_infinity=False)
_value = st.one_of(st.integers(-(10**9), 10**9), _finite)


@st.composite
def _spelling(draw: st.DrawFn) -> str:
    """A hand-style token: sign, underscores, exponent, hex, trailing zeros, or plain repr."""
    sign = draw(st.sampled_from(["", "", "", "-", "+", "- "]))
    number = abs(draw(_value))
    styles = [repr(number)]
    if isinstance(number, int):
        styles += [f"{number:_}", hex(number), f"{number}.", f"{number}e-3", f".{number}", f"{number}.50"]
    return sign + draw(st.sampled_from(styles))


_noise = st.sampled_from(
    [
        "",
        "# X0 = 0.5 é",
        '"""doc\nX0 = 0.5\n_N = {8: {"k0": 1}}\n"""',
        "import os; Y = 0.5; S = 'X0 = 1; ßé'",
        "def f(x=0.5):\n\tX0 = 0.5\n\treturn f'{x:.3f} {0.5}'",
        "D = round(0.5 * 2, 3)",
        "assert 0.5 < 1, 'X0'",
        "T = (0.5, [0.5], {'k0': 0.5})",
        "class A:\n\tX0 = 0.5",
    ]
)


@st.composite
def _modules(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, int | None]]]:
    parts: list[str] = []
    places: list[tuple[str, int | None]] = []
    for number in range(draw(st.integers(1, 4))):
        parts.append(draw(_noise))
        lead = draw(st.sampled_from(["", "É{n} = 'é'; ", "L{n} = 0.5;"])).format(n=number)
        tail = draw(st.sampled_from(["", "  # 0.5 é", "; R{n} = 0.5", "\t"])).format(n=number)
        if draw(st.booleans()):
            form = draw(
                st.sampled_from(
                    [
                        "X{n} = {v}",
                        "X{n}: float | None = {v}",
                        "X{n}=({v})",
                        "X{n} = \\\n  {v}",
                        "X{n} = (  # é\n {v} # 0.5\n)",
                    ]
                )
            )
            parts.append(lead + form.format(n=number, v=draw(_spelling())) + tail)
            places.append((f"X{number}", None))
        else:
            keys = draw(st.lists(st.sampled_from([1, 4, 8, 16, 32]), min_size=1, max_size=5, unique=True))
            rows: list[str] = []
            for key in keys:
                subkeys = draw(st.lists(st.sampled_from(["k0", "k1", "ключ"]), min_size=1, max_size=3, unique=True))
                comma = draw(st.sampled_from(["", ",", " , # 0.5 é\n"]))
                rows.append(f"{key}: {{{', '.join(f'{k!r}: {draw(_spelling())}' for k in subkeys)}{comma}}}")
                places += [(f"_N{number}['{k}']", key) for k in subkeys]
            parts.append(f"{lead}_N{number} = {{\n\t# 8: {{'k0': 1}}\n\t{', '.join(rows)},\n}}{tail}")
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    end = draw(st.sampled_from(["\n", ""]))
    bom = draw(st.sampled_from(["", "\ufeff"]))
    return (bom + ("\n".join(parts) + end).replace("\n", newline)).encode(), places


Leaf = tuple[str, int | None, str | None]


def _values(data: bytes) -> dict[Leaf, object]:
    """What the module's assignments hold, leaf by leaf, as Python's own ``literal_eval`` reads them."""
    found: dict[Leaf, object] = {}
    for node in ast.parse(data).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if name.startswith("_N") and isinstance(node.value, ast.Dict):
                nested = cast("dict[int, dict[str, float]]", ast.literal_eval(node.value))
                found |= {(name, key, sub): leaf for key, inner in nested.items() for sub, leaf in inner.items()}
            elif name.startswith("X"):
                found[(name, None, None)] = ast.literal_eval(node.value)
            else:
                found[(name, None, None)] = ast.dump(node.value)
    return found


@pytest.mark.rule("APL-14", "APL-15", "APL-16")
@settings(max_examples=300, deadline=None)
@given(_modules(), st.data())
@example((b"X0 = -0.0\n", [("X0", None)]), None)
def test_in_any_module_exactly_the_planned_leaves_change(
    made: tuple[bytes, list[tuple[str, int | None]]], draws: st.DataObject | None
) -> None:
    data, places = made
    module = parse_module(data, PATH)
    chosen = places if draws is None else draws.draw(st.lists(st.sampled_from(places), unique=True, max_size=6))
    edits: list[Edit] = []
    for source, concurrency in chosen:
        literal = module.find(source, concurrency)
        new = 0.25 if draws is None else draws.draw(_value)
        edits.append(Edit(source, concurrency, literal.token, literal.value, new))
    after = rewrite(data, PATH, edits)

    expected = _values(data)
    for one in edits:
        symbol, subkey = split_source(one.source)
        assert (symbol, one.concurrency, subkey) in expected
        expected[(symbol, one.concurrency, subkey)] = one.new_value
    assert _values(after) == expected

    # Byte for byte: cutting the planned tokens out of both leaves the same file.
    def rest(content: bytes) -> bytes:
        found = parse_module(content, PATH)
        spans = sorted(((at := found.find(one.source, one.concurrency)).start, at.end) for one in edits)
        for start, end in reversed(spans):
            content = content[:start] + content[end:]
        return content

    assert rest(after) == rest(data)
    back = parse_module(after, PATH)
    undone = [
        Edit(one.source, one.concurrency, None, back.find(one.source, one.concurrency).value, one.old_value)
        for one in edits
    ]
    assert _values(rewrite(after, PATH, undone)) == _values(data)
