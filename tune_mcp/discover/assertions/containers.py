"""Containers and objects: their elements, entries and attributes, as far as they are known before a run."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Iterable
from dataclasses import replace

from tune_mcp.discover.assertions.formula import (
    Choice,
    EachTime,
    Expr,
    Opaque,
    Origin,
    Present,
    Value,
    choose,
    each_side,
    every,
    negated,
)
from tune_mcp.discover.assertions.measured import Measured
from tune_mcp.discover.assertions.objects import (
    MISSING,
    Class,
    Function,
    Instance,
    Items,
    Lazy,
    Library,
    Method,
    Module,
    Table,
    as_tuple,
    beyond,
    is_plain,
    nested,
    stored,
    tainted,
)
from tune_mcp.discover.assertions.values import MAX_LENGTH, is_itself


def _shown(key: Value) -> str:
    """A key in a name. Unknown parts are not written out: they share parts, and written out may be endless."""
    return repr(key) if is_plain(key) else "…"


class Containers(Measured):
    """What can be asked of a container or an object."""

    def known_items(self, value: Value) -> list[Value] | None:
        """The elements of a known sequence."""
        if isinstance(value, Items):
            return value.known()
        if isinstance(value, Table):
            return None if value.unseen else list(value.entries)
        found = value if isinstance(value, str) else as_tuple(value)
        return None if found is None else list(found)

    def in_order(self, value: Value) -> list[Value] | None:
        """The elements of a known sequence whose order is known."""
        return None if isinstance(value, Items) and not value.ordered else self.known_items(value)

    def put(self, table: Table, key: Value, value: Value) -> None:
        """Set an entry where the conditions in force hold."""
        if isinstance(key, Hashable) and not isinstance(key, Expr):
            condition = beyond(self.guards, table.created)
            old = table.entries.get(key, MISSING)
            self.pins(old, self.keeps(f"[{_shown(key)}]", value))
            table.entries[key] = choose(condition, value, old)
        else:
            self.spoil(table, "a dict with an unknown key", [value])
            held = self.unknown("a dict with an unknown key", [key, value, table.unseen])
            # A result under its own name is a result; arithmetic over one is none.
            changed = (isinstance(one, Opaque) and one.changed for one in nested(value))
            whole = all(map(is_itself, nested(value))) and not any(changed)
            whole = whole and not (table.unseen and table.unseen.mixed)
            table.unseen = replace(held, mixed="") if whole else replace(held, mixed=f"arithmetic under {held.name}")

    def extend(self, items: Items, values: Value) -> None:
        """Add the elements of an iterable to a list where the conditions in force hold."""
        condition, found = beyond(self.guards, items.created), self.iterate(values)
        self.fits(items.items, found)
        items.items += [(every([condition, one]), value) for one, value in found]

    def spoil(self, container: Value, why: str, others: Iterable[Value] = ()) -> None:
        """Something that is not understood may have changed a container."""
        blurred = self.unknown(why, [container, *others])
        if isinstance(container, Table):
            container.entries = dict.fromkeys(container.entries, blurred)
        elif isinstance(container, Items):
            container.items = [(EachTime(), blurred)]

    def iterate(self, value: Value) -> list[tuple[Value, Value]]:
        """The elements of an iterable, each with the condition under which it comes."""
        self.step()
        value = self.plain(value)
        known = self.known_items(value)
        if known is not None:
            return [(True, one) for one in known[:MAX_LENGTH]]
        if isinstance(value, Items):
            return list(value.items)
        if isinstance(value, Choice):
            yes, no = self.iterate(value.then), self.iterate(value.other)
            return [(every([value.condition, condition]), one) for condition, one in yes] + [
                (every([negated(value.condition), condition]), one) for condition, one in no
            ]
        if isinstance(value, Opaque):
            return [(EachTime(), value.child("each", object(), f"{value.name}[…]"))]
        return [] if value is None or isinstance(value, (int, float)) else [(EachTime(), self.unknown("…", [value]))]

    def contains(self, container: Value, element: Value, node: ast.AST) -> Value:
        """``element in container``."""
        if isinstance(container, Choice):
            return each_side(container, lambda one: self.contains(one, element, node))
        if (
            isinstance(container, Opaque)
            and container.origin is not Origin.SETTING
            and not tainted((container, element))
        ):
            return Present(container, f"{ast.unparse(node)[:60]}", likely=True)
        if isinstance(container, Table) and isinstance(element, Hashable) and not isinstance(element, Expr):
            found = container.entries.get(element, MISSING)
            unseen = found is MISSING and container.unseen
            return self.unknown(ast.unparse(node)[:60], [container]) if unseen else self.there(found)
        if isinstance(container, Table) and isinstance(element, Opaque) and self.level(container) is not None:
            return True
        if isinstance(container, str) and isinstance(element, str):
            return element in container
        known = self.known_items(container)
        if known is not None and not any(isinstance(one, (Expr, Items, Table)) for one in (element, *known)):
            return element in known
        return self.unknown(ast.unparse(node)[:60], [container, element])

    # Parts of values

    def set_attribute(self, owner: Instance | Class | Module, name: str, value: Value) -> None:
        """``owner.name = value`` where the conditions in force hold."""
        if isinstance(owner, Instance):
            stored(owner.names, name, self.keeps(f".{name}", value), beyond(self.guards, owner.created))
        else:
            stored(owner.scope.names, name, value, beyond(self.guards, ()))

    def attribute(self, value: Value, name: str) -> Value:
        """``value.name``."""
        self.step()
        match value:
            case Choice():
                return each_side(value, lambda one: self.attribute(one, name))
            case Opaque():
                if name == "get":
                    return Method(value, name)
                return value.child("attribute", name, f"{value.name}.{name}")
            case Library():
                dotted = f"{value.name}.{name}"
                return self.imported(value.importer, dotted) if value.importer else Library(dotted)
            case Module():
                found = value.scope.names.get(name, MISSING)
                if found is MISSING:
                    return self.imported(value.path, f"{value.dotted}.{name}")
                return self.settled(name, self.force(found) if isinstance(found, Lazy) else found)
            case Instance():
                return value.kind if name == "__class__" else self._member(value, name)
            case Class():
                found = self._described(name, value.find(name))
                if isinstance(found, Function) and "classmethod" in found.decorators:
                    return found.bound(value)
                return self.unknown(f"{value.name}.{name}") if found is MISSING else found
            case Expr() | Function():
                return self.unknown(f"….{name}", [value])
            case _:
                return Method(value, name)

    def _member(self, value: Instance, name: str) -> Value:
        if name in value.names:
            return value.names[name]
        found = self._described(name, value.kind.find(name))
        if found is MISSING and value.kind.is_test_case():
            return Library(f"unittest.{name}")
        if found is MISSING:
            return self._computed(f"….{name}", value, value.kind.find("__getattr__"))
        if not isinstance(found, Function) or "staticmethod" in found.decorators:
            return found
        bound = found.bound(value.kind if "classmethod" in found.decorators else value)
        if any(one in ("property", "cached_property", "functools.cached_property") for one in found.decorators):
            return self.call(bound, [], {}, found.node)
        return bound

    def _described(self, name: str, found: Value) -> Value:
        """An attribute as the class has it; unknown where it is a descriptor, whose code gives the value."""
        getter = found.kind.find("__get__") if isinstance(found, Instance) else MISSING
        return found if getter is MISSING else self._computed(f"….{name}", found, getter)

    def _computed(self, name: str, value: Value, function: Value) -> Opaque:
        """What code that is not followed makes of a value: the constant may be in it when that code reads it."""
        reading = isinstance(function, Function) and self.reads(function)
        return self.unknown(name, [value, Opaque(name, Origin.SETTING, ref=True)] if reading else [value])

    def item(self, value: Value, index: Value, node: ast.AST) -> Value:
        """``value[index]``."""
        self.step()
        index = self.plain(index)
        match value:
            case Choice():
                return each_side(value, lambda one: self.item(one, index, node))
            case Opaque():
                if isinstance(index, slice):
                    return value.child("slice", ast.unparse(node), f"{value.name}[…]")
                if isinstance(index, Expr) or not isinstance(index, Hashable):
                    return self.unknown(f"{value.name}[…]", [value, index], value)
                return value.child("item", index, f"{value.name}[{_shown(index)}]")
            case Library(name="os.environ"):
                return self.call(Library("os.environ.get"), [index], {}, node)
            case Table():
                found = self.entry(value, index)
                if found is not MISSING:
                    return found
                other = self.unknown(f"{ast.unparse(node)[:40]}", [value])
                # A name that no code which is followed has put there is a result of its own.
                if isinstance(index, str):
                    other = replace(other, mixed="")
                    other.mark(value.unseen.mixed if value.unseen else "")
                return other
            case Library():
                return self.setting(value.name)
            case str() if isinstance(index, slice):
                return value[index]
            case _:
                known = self.in_order(value)
                if known is None or not isinstance(index, (int, slice)):
                    return self.unknown(f"{ast.unparse(node)[:40]}", [value, index])
                if isinstance(index, slice):
                    part = known[index]
                    return Items([(True, one) for one in part]) if isinstance(value, Items) else tuple(part)
                return known[index] if -len(known) <= index < len(known) else self.unknown("…", [value])

    def entry(self, table: Table, key: Value) -> Value:
        """The entry of a dict; an unknown whole number is taken as the load that the gate is asked for."""
        if isinstance(key, Choice):
            return each_side(key, lambda one: self.entry(table, one))
        if isinstance(key, Hashable) and not isinstance(key, Expr):
            return self._entry_value(table.entries.get(key, MISSING))
        level = self.level(table)
        if level is not None:
            return self._entry_value(table.entries[level])
        return self.unknown("an entry of a dict", [table, key])

    def _entry_value(self, found: Value) -> Value:
        """An entry that is there under a condition is taken as there: Python would raise otherwise."""
        if isinstance(found, Choice) and MISSING in (found.then, found.other):
            return self._entry_value(found.then if found.other is MISSING else found.other)
        return found

    def level(self, table: Table) -> Hashable | None:
        """The key of a table by load at which it is read, None where that is not known."""
        numbers = [key for key in table.entries if isinstance(key, int)]
        if not numbers or len(numbers) != len(table.entries):
            return None
        if self.target.concurrency in numbers:
            return self.target.concurrency
        return numbers[0] if len(numbers) == 1 else None
