"""Plain statements: what they bind, and the constant that is asked for where its file binds it."""

from __future__ import annotations

import ast
from abc import abstractmethod

from tune_mcp.discover.assertions.branches import COMPOUND, Branches, Frame
from tune_mcp.discover.assertions.expressions import BINARY
from tune_mcp.discover.assertions.formula import (
    REFERENCE,
    Choice,
    Opaque,
    Origin,
    Value,
    is_number,
    negated,
    some,
)
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Class,
    Function,
    Instance,
    Items,
    Lazy,
    Module,
    Scope,
    Table,
    beyond,
    stored,
    tainted,
)
from tune_mcp.discover.source_tree import number_of


class Statements(Branches):
    """Runs statements; functions, classes and imports come from the class below."""

    @abstractmethod
    def make_class(self, node: ast.ClassDef, scope: Scope) -> Class:
        """The class that a statement defines."""

    def block(self, body: list[ast.stmt], scope: Scope) -> bool:
        """Run statements; True when none after them would run."""
        frame = self.frames[-1]
        for statement in body:
            over = some([frame.over(), self.thrown()])
            if over is True:
                return True
            self.at = statement
            with self.under(negated(self.here(over))):
                if self.statement(statement, scope, frame):
                    return True
        return frame.over() is True

    def statement(self, node: ast.stmt, scope: Scope, frame: Frame) -> bool:
        """Run one statement; True when none after it would run."""
        match node:
            case ast.Expr(value=ast.Yield(value=value)):
                frame.yields.append((self.since(scope), self.eval(value, scope) if value else None))
            case ast.Expr(value=value):
                self.eval(value, scope)
            case ast.Assign(targets=targets, value=value):
                found = self.eval(value, scope)
                for target in targets:
                    self.bind(target, found, scope)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.bind(target, self.eval(value, scope), scope)
            case ast.AugAssign(target=target, op=op, value=value):
                self._augmented(target, op, value, scope)
            case ast.Assert(test=test):
                self.fails(negated(self.truth(self.eval(test, scope))), node)
            case ast.Return(value=value):
                condition = self.since(scope)
                result = self.eval(value, scope) if value else None
                frame.results.append(
                    (condition, self.keeps(f"return {ast.unparse(value)[:40]}", result) if value else None)
                )
                frame.done = some([frame.done, condition])
                return True
            case ast.Raise():
                self.raises(node, scope, frame)
                return True
            case _ if isinstance(node, COMPOUND):
                return self.compound(node, scope, frame)
            case ast.Continue() | ast.Break():
                if frame.ended:
                    which = -1 if isinstance(node, ast.Continue) else -2
                    frame.ended[which] = some([frame.ended[which], self.since(scope)])
                return True
            case _:
                self.definition(node, scope)
        return False

    def definition(self, node: ast.stmt, scope: Scope) -> None:
        """Run a statement that only binds names: definitions and imports."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                value: Value = Function(node, scope, self.defaults(node.args, scope))
                self.bind(ast.Name(id=node.name, ctx=ast.Store()), value, scope)
            case ast.ClassDef():
                kind: Value = self.make_class(node, scope)
                for decorator in reversed(node.decorator_list):
                    if isinstance(found := self.eval(decorator, scope), Function):
                        kind = self.call(found, [kind], {}, decorator)
                self.bind(ast.Name(id=node.name, ctx=ast.Store()), kind, scope)
            case ast.Import(names=names):
                for alias in names:
                    first = alias.name.partition(".")[0]
                    wanted = alias.name if alias.asname else first
                    scope.names[alias.asname or first] = self.imported(scope.module.path, wanted)
            case ast.ImportFrom(module=module, names=names, level=level):
                for alias in names:
                    lazy = Lazy(scope.module.path, module or "", level, alias.name)
                    if alias.name != "*":
                        stored(scope.names, alias.asname or alias.name, lazy, self.since(scope))
                    elif isinstance(origin := self.imported(scope.module.path, module or "", level), Module):
                        names = origin.scope.names
                        listed = self.known_items(names.get("__all__"))
                        wanted = [name for name in names if not name.startswith("_")] if listed is None else listed
                        scope.names.update({name: names[name] for name in map(str, wanted) if name in names})
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                for name in names:
                    scope.outer[name] = self._home(scope, name, is_global=isinstance(node, ast.Global))
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.eval(child, scope)

    def _delete(self, target: ast.expr, scope: Scope) -> None:
        """``del``: an entry of a dict is gone, or perhaps so where a condition is in force."""
        if isinstance(target, ast.Name):
            scope.names.pop(target.id, None)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            owner = self.eval(target.value, scope)
            key = self.index(target.slice, scope) if isinstance(target, ast.Subscript) else target.attr
            for one in self._alternatives(owner):
                if (
                    isinstance(one, Table)
                    and one is owner
                    and key in one.entries
                    and beyond(self.guards, one.created) is True
                ):
                    del one.entries[key]
                elif isinstance(one, Opaque):
                    one.change(self.place(target), key)
                    self.touches([one])
                else:
                    self.spoil(one, ast.unparse(target))

    def _unpack(self, elements: list[ast.expr], value: Value) -> list[Value]:
        """What each target of an unpacking gets; a starred one the list of those between."""
        known = self.in_order(value)
        star = next((number for number, one in enumerate(elements) if isinstance(one, ast.Starred)), None)
        if star is None:
            plain = known if known is not None and len(known) == len(elements) else None
            return plain or [self.item(value, number, one) for number, one in enumerate(elements)]
        behind = len(elements) - star - 1
        if known is None or len(known) < star + behind:
            ends = [*range(star), None, *range(-behind, 0)]
            parts = zip(ends, elements, strict=True)
            return [self.unknown("…", [value]) if one is None else self.item(value, one, node) for one, node in parts]
        middle = known[star : len(known) - behind]
        return [*known[:star], Items([(True, one) for one in middle], self.now()), *known[len(known) - behind :]]

    def _home(self, scope: Scope, name: str, *, is_global: bool) -> Scope:
        if is_global:
            return scope.module.scope
        one = scope.parent
        while one is not None and name not in one.names:
            one = one.parent
        return one or scope

    def bind(self, target: ast.expr, value: Value, scope: Scope, *, fresh: bool = False) -> None:
        """Assign to a target where the conditions in force hold."""
        match target:
            case ast.Name(id=name):
                home = scope.outer.get(name, scope)
                value = self._injected(name, value if fresh else self.keeps(name, value), home)
                if home.parent is None:
                    self.pins(home.names.get(name), value)
                stored(home.names, name, value, True if fresh else beyond(self.guards, home.created))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                for element, part in zip(elements, self._unpack(elements, value), strict=True):
                    self.bind(element.value if isinstance(element, ast.Starred) else element, part, scope, fresh=fresh)
            case ast.Subscript(value=inner, slice=index):
                owner = self.eval(inner, scope)
                for one in self._alternatives(owner):
                    if isinstance(one, Table):
                        key = self.index(index, scope)
                        level = self.level(one) if isinstance(key, Opaque) else None
                        self.put(one, key if level is None else level, value)
                    elif isinstance(one, Items):
                        self.spoil(one, ast.unparse(target), [value])
                    elif isinstance(one, Opaque):
                        one.change(self.place(target), self.index(index, scope))
                        self.touches([one])
            case ast.Attribute(value=inner, attr=name):
                owner = self.eval(inner, scope)
                for one in self._alternatives(owner):
                    if isinstance(one, Opaque):
                        one.change(self.place(target), name)
                        self.touches([one])
                    elif isinstance(one, Instance | Class | Module):
                        self.set_attribute(one, name, value)
                        if not isinstance(one, Instance) and one is not scope.module and tainted(value):
                            self.lost = self.lost or ast.unparse(target)
            case _:
                self.eval(target, scope)

    def _alternatives(self, value: Value) -> list[Value]:
        return (
            [*self._alternatives(value.then), *self._alternatives(value.other)]
            if isinstance(value, Choice)
            else [value]
        )

    def _augmented(self, target: ast.expr, op: ast.operator, value: ast.expr, scope: Scope) -> None:
        old = self.eval(target, scope)
        new = self.eval(value, scope)
        if isinstance(old, Items) and isinstance(op, ast.Add):
            self.extend(old, new)
        else:
            node = ast.BinOp(left=target, op=op, right=value)
            self.bind(target, self.binary(BINARY.get(type(op)), old, new, node), scope)

    def _injected(self, name: str, value: Value, home: Scope) -> Value:
        """The constant that is asked for becomes an unknown where its file binds it."""
        wanted = self.target
        if wanted.node is not None:
            return value
        if home.parent is not None or home.module.path != wanted.file or name != wanted.symbol:
            return value
        if self.frames[-1].scope is not home:  # a function that sets it anew
            return value
        if wanted.subkey is None and self.found:
            return value
        if wanted.subkey is None:
            return self._reference(value)
        table = value
        if isinstance(table, Table) and wanted.subkey not in table.entries:
            only = next(iter(table.entries)) if len(table.entries) == 1 else None
            level = wanted.concurrency if wanted.concurrency is not None else only
            table = table.entries.get(level, MISSING)
        if isinstance(table, Table) and wanted.subkey in table.entries:
            known = self._reference(table.entries[wanted.subkey])
            where = self.anew.get(f"[{wanted.subkey}]")
            other = Opaque(f"{wanted.subkey}, which {where} sets", Origin.SETTING, ref=True) if where else known
            table.entries[wanted.subkey] = other
        return value

    def literal(self, node: ast.expr) -> Value:
        """The number that is asked for, as an unknown."""
        return self._reference(number_of(node))

    def _reference(self, present: Value) -> Value:
        """The constant in the place of its present value."""
        self.found = True
        self.present = float(present) if is_number(present) else None
        return REFERENCE
