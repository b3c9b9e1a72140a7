"""Small-step evaluation of Python expressions in which some values are known only by a run."""

from __future__ import annotations

import ast
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tune_mcp.discover.assertions.containers import Containers
from tune_mcp.discover.assertions.formula import (
    OPERATORS,
    Apply,
    Choice,
    Expr,
    Opaque,
    Origin,
    Present,
    Value,
    choose,
    each_side,
    every,
    negated,
    some,
)
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Approx,
    Function,
    Items,
    Library,
    Scope,
    Table,
    beyond,
    stored,
    tainted,
)
from tune_mcp.discover.assertions.values import count, is_condition

BINARY: dict[type[ast.operator], Callable[..., object]] = {
    ast.Add: OPERATORS["add"], ast.Sub: OPERATORS["sub"], ast.Mult: OPERATORS["mul"], ast.Div: OPERATORS["truediv"],
    ast.FloorDiv: OPERATORS["floordiv"], ast.Mod: OPERATORS["mod"], ast.Pow: OPERATORS["pow"],
    ast.BitOr: OPERATORS["or_"], ast.BitAnd: OPERATORS["and_"], ast.BitXor: OPERATORS["xor"],
    ast.LShift: OPERATORS["lshift"], ast.RShift: OPERATORS["rshift"],
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[..., object]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Callable[..., object]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip


def joined(*texts: object) -> str:
    """The text of an f-string."""
    return "".join(map(str, texts))


def _near(left: object, right: object) -> bool:
    """Stand in for ``pytest.approx``; it is only ever known that it holds from both sides."""
    return left == right


class Expressions(Containers):
    """Evaluates expressions."""

    @abstractmethod
    def lookup(self, scope: Scope, name: str) -> Value:
        """What a name means, MISSING for a name that nothing binds."""

    @abstractmethod
    def bind(self, target: ast.expr, value: Value, scope: Scope, *, fresh: bool = False) -> None:
        """Assign to a target."""

    @abstractmethod
    def swallowing(self, text: str) -> AbstractContextManager[None]:
        """Run code whose exceptions do not leave the test."""

    @abstractmethod
    def defaults(self, arguments: ast.arguments, scope: Scope) -> dict[str, Value]:
        """The defaults of a function's parameters."""

    @abstractmethod
    def literal(self, node: ast.expr) -> Value:
        """The number that is asked for, as an unknown."""

    def eval(self, node: ast.expr, scope: Scope) -> Value:
        """The value of an expression."""
        self.step()
        if node is self.target.node:
            return self.literal(node)
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                found = self.within(self.lookup(scope, name))
                self.touched = self.touched or (self.testing and tainted(found))
                return self.setting(name) if found is MISSING else found
            case ast.Attribute(value=inner, attr=name):
                found = self.attribute(self.eval(inner, scope), name)
                self.touched = self.touched or (self.testing and tainted(found))
                return found
            case ast.Subscript(value=inner, slice=index):
                return self.item(self.eval(inner, scope), self.index(index, scope), node)
            case ast.Call():
                return self._call(node, scope)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(BINARY.get(type(op)), self.eval(left, scope), self.eval(right, scope), node)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return negated(self.truth(self.eval(operand, scope)))
            case ast.UnaryOp(op=op, operand=operand):
                return self.pure(_UNARY[type(op)], ast.unparse(op), [self.eval(operand, scope)])
            case ast.BoolOp(op=op, values=values):
                return self._boolean(isinstance(op, ast.And), values, scope)
            case ast.Compare():
                return self._compare(node, scope)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                condition = self.truth(self.eval(test, scope))
                if not isinstance(condition, Expr):
                    return self.eval(body if condition else orelse, scope)
                with self.under(condition):
                    then = self.eval(body, scope)
                with self.under(negated(condition)):
                    other = self.eval(orelse, scope)
                return choose(condition, then, other)
            case ast.Await(value=inner) | ast.Starred(value=inner):
                return self.eval(inner, scope)
            case ast.NamedExpr(target=target, value=inner):
                value = self.eval(inner, scope)
                stored(scope.names, target.id, value, beyond(self.guards, scope.created))
                return value
            case _:
                return self._display(node, scope)

    def _display(self, node: ast.expr, scope: Scope) -> Value:
        match node:
            case ast.Tuple(elts=elements):
                return tuple(self.elements(elements, scope)[0])
            case ast.List(elts=elements) | ast.Set(elts=elements):
                values, whole = self.elements(elements, scope)
                return Items([(True, one) for one in values], self.now()) if whole else self.unknown("a list", values)
            case ast.Dict():
                return self._table(node, scope)
            case ast.Lambda(args=arguments):
                return Function(node, scope, self.defaults(arguments, scope))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                inner = Scope(scope.module, scope, self.now())
                items: list[tuple[Value, Value]] = []
                size = len(self.guards)
                for _ in self._generate(node.generators, inner):
                    items.append((every(self.guards[size:]), self.eval(node.elt, inner)))
                return Items(items, self.now())
            case ast.DictComp():
                inner = Scope(scope.module, scope, self.now())
                table = Table({}, self.now())
                for _ in self._generate(node.generators, inner):
                    self.put(table, self.eval(node.key, inner), self.eval(node.value, inner))
                return table
            case ast.JoinedStr(values=values):
                return self.pure(joined, "a text", [self.eval(one, scope) for one in values])
            case ast.FormattedValue(value=inner, format_spec=spec):
                form = self.eval(spec, scope) if spec is not None else ""
                return self.pure(format, "a text", [self.eval(inner, scope), form])
            case _:
                return self.unknown(ast.unparse(node)[:40])

    def _generate(self, generators: list[ast.comprehension], scope: Scope) -> Iterator[None]:
        """Bind each combination of a comprehension in turn; its conditions are in force while it is bound."""
        first, *others = generators
        for condition, element in self.iterate(self.eval(first.iter, scope)):
            with self.under(condition):
                self.bind(first.target, element, scope, fresh=True)
                size = len(self.guards)
                passed = True
                for test in first.ifs:
                    wanted = self.truth(self.eval(test, scope))
                    passed = passed and (isinstance(wanted, Expr) or bool(wanted))
                    self.guards += [wanted] if isinstance(wanted, Expr) else []
                if passed and others:
                    yield from self._generate(others, scope)
                elif passed:
                    yield
                del self.guards[size:]

    def elements(self, nodes: list[ast.expr], scope: Scope) -> tuple[list[Value], bool]:
        """The values of a display or of arguments, and whether all starred ones are known."""
        found: list[Value] = []
        whole = True
        for node in nodes:
            value = self.eval(node, scope)
            if not isinstance(node, ast.Starred):
                found.append(value)
                continue
            inner = self.known_items(value)
            whole = whole and inner is not None
            found += inner if inner is not None else [value]
        return found, whole

    def _table(self, node: ast.Dict, scope: Scope) -> Value:
        table = Table({}, self.now())
        for key, value in zip(node.keys, node.values, strict=True):
            found = self.eval(value, scope)
            if key is not None:
                self.put(table, self.eval(key, scope), found)
            elif isinstance(found, Table):
                table.take(found)
            elif len(node.keys) == 1:
                return found
            else:
                whole = self.unknown("a dict", [table, found, *(self.eval(one, scope) for one in node.values)])
                whole.mark(self.place(node))
                return whole
        return table

    def index(self, node: ast.expr, scope: Scope) -> Value:
        """The index of a subscript; a slice is unknown."""
        if isinstance(node, ast.Slice):
            bounds = [self.eval(one, scope) if one else None for one in (node.lower, node.upper, node.step)]
            if all(one is None or isinstance(one, int) for one in bounds):
                return slice(*bounds)
            return self.unknown("a slice", bounds)
        return self.eval(node, scope)

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        kept = [one.value for one in node.keywords if one.arg == "return_exceptions"]
        if kept and not (isinstance(kept[0], ast.Constant) and not kept[0].value):
            with self.swallowing(ast.unparse(node)[:40]):
                return self._called(node, scope)
        return self._called(node, scope)

    def _called(self, node: ast.Call, scope: Scope) -> Value:
        function = self.eval(node.func, scope)
        args, whole = self.elements(node.args, scope)
        keywords: dict[str, Value] = {}
        for keyword in node.keywords:
            value = self.eval(keyword.value, scope)
            if keyword.arg is not None:
                keywords[keyword.arg] = value
            elif isinstance(value, Table) and all(isinstance(key, str) for key in value.entries):
                keywords.update({str(key): one for key, one in value.entries.items()})
            else:
                whole = False
                args = [*args, value]
        if not whole and not isinstance(function, (Opaque, Library)):
            return self.unknown(ast.unparse(node.func)[:40], [*args, *keywords.values()])
        return self.call(function, args, keywords, node)

    def _boolean(self, is_and: bool, nodes: list[ast.expr], scope: Scope) -> Value:
        value = self.eval(nodes[0], scope)
        if len(nodes) == 1:
            return value
        condition = self.truth(value)
        if not isinstance(condition, Expr):
            return self._boolean(is_and, nodes[1:], scope) if bool(condition) is is_and else value
        with self.under(condition if is_and else negated(condition)):
            other = self._boolean(is_and, nodes[1:], scope)
        if is_condition(value) and is_condition(other):
            return every([value, other]) if is_and else some([value, other])
        if is_condition(value):
            return choose(condition, other, False) if is_and else choose(condition, True, other)
        return choose(condition, other, value) if is_and else choose(condition, value, other)

    def _compare(self, node: ast.Compare, scope: Scope) -> Value:
        left = self.eval(node.left, scope)
        found: list[Value] = []
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.eval(comparator, scope)
            found.append(self.compared(op, left, right, node))
            left = right
        return every(found) if len(found) > 1 else found[0]

    def compared(self, op: ast.cmpop, left: Value, right: Value, node: ast.AST) -> Value:
        """One comparison of two values."""
        left, right = self.plain(left), self.plain(right)
        match op:
            case ast.Is() | ast.Eq() if right is None:
                return self._is_none(left, node)
            case ast.IsNot() | ast.NotEq() if right is None:
                return negated(self._is_none(left, node))
            case ast.Is() | ast.Eq() if isinstance(right, bool) and is_condition(left):
                return left if right else negated(left)
            case ast.IsNot() | ast.NotEq() if isinstance(right, bool) and is_condition(left):
                return negated(left) if right else left
            case ast.Is():
                return self.pure(operator.is_, "is", [left, right])
            case ast.IsNot():
                return negated(self.pure(operator.is_, "is", [left, right]))
            case ast.In():
                return self.contains(right, left, node)
            case ast.NotIn():
                return negated(self.contains(right, left, node))
            case _:
                found = self._ordered(_COMPARE[type(op)], left, right)
                self.decides(found)
                if isinstance(found, Apply) and found.ref:
                    found.place = self.place(node)
                return found

    def _ordered(self, function: Callable[..., object], left: Value, right: Value) -> Value:
        if isinstance(left, Choice) and function in (operator.eq, operator.ne) and not isinstance(right, Expr):
            return each_side(left, lambda one: self._ordered(function, one, right))
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Approx):
                return self._approx(function, other, one.value)
        if isinstance(left, Apply) and left.function is count and not isinstance(right, Expr):
            empty = [(operator.eq, 0), (operator.le, 0), (operator.lt, 1)]
            filled = [(operator.ne, 0), (operator.gt, 0), (operator.ge, 1)]
            if any(function is known and right == number for known, number in empty):
                return negated(some(left.args))
            if any(function is known and right == number for known, number in filled):
                return some(left.args)
        if isinstance(left, Items) and isinstance(right, Items) and not right.items:
            empty = negated(some(condition for condition, _ in left.items))
            return empty if function is operator.eq else negated(empty)
        return self.pure(function, function.__name__, [left, right])

    def _approx(self, function: Callable[..., object], other: Value, value: Value) -> Value:
        same = self.pure(_near, "approx", [other, value])
        if function is operator.eq or function is operator.ne:
            return same if function is operator.eq else negated(same)
        return self.unknown("pytest.approx in an ordered comparison", [other, value])

    def _is_none(self, value: Value, node: ast.AST) -> Value:
        match value:
            case Choice():
                return each_side(value, lambda one: self._is_none(one, node))
            case Opaque(origin=Origin.SETTING):
                return Apply(operator.is_, "is", (value, None))
            case Opaque():
                return Present(value, f"{value.name} is None", likely=False)
            case _:
                return value is None
