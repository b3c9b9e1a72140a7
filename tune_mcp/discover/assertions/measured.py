"""What a test measures, and where it leaves it: results of arithmetic, and values that code may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tune_mcp.discover.assertions.formula import (
    Apply,
    Choice,
    EachTime,
    Expr,
    Opaque,
    Origin,
    Value,
    depends,
    leaves,
    nodes,
    rebuilt,
)
from tune_mcp.discover.assertions.left import Document, LeftBehind, values_of
from tune_mcp.discover.assertions.objects import Instance, Items, Table, as_tuple, contents, opaques_in
from tune_mcp.discover.assertions.values import Target, Values, is_condition


class Measured(Values):
    """What is known of results: which arithmetic made them, where they are left, and when they may change."""

    def __init__(self, target: Target, env: Mapping[str, str]) -> None:
        super().__init__(target, env)
        self._results: dict[int, Opaque] = {}
        """What is handed over as a result of arithmetic, by the number of its expression."""
        self._numbers: dict[int, tuple[Expr, int]] = {}
        self._alike: dict[tuple[object, ...], int] = {}
        self.left_behind = LeftBehind()
        self.moment = 0

    def measure(self, value: Value) -> None:
        """Take the numbers in ``value``, which a test writes as JSON, for results, whatever arithmetic made them.

        How a result was computed is no slack of the assertion that follows.
        """
        waiting, seen = [value], set[int]()
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if isinstance(one, Table):
                waiting += one.entries.values()
            elif isinstance(one, Items):
                waiting += (item for _, item in one.items)
            elif isinstance(one, Instance):
                waiting += one.names.values()
            elif isinstance(one, Opaque):
                one.written = True
                one.mark("")
            elif isinstance(one, Apply) and one.function is float:
                waiting += one.args
            elif isinstance(one, Apply):
                if not depends(one) and not is_condition(one) and opaques_in([one]):
                    result = Opaque(f"a result, `{one.name}`", Origin.MEASURED, written=True)
                    self._results.setdefault(self._number(one), result)
            elif isinstance(one, Choice):
                waiting += (one.then, one.other)
            elif (parts := as_tuple(one)) is not None:
                waiting += parts

    def as_measured(self, condition: Value) -> Value:
        """The condition with every result in it as one unknown."""
        return rebuilt(condition, self._result) if self._results else condition

    def _result(self, one: Expr) -> Expr:
        return self._results.get(self._number(one), one)

    def _number(self, one: Expr) -> int:
        """The same number for expressions that make the same of the same values."""
        if id(one) not in self._numbers:
            key: tuple[object, ...] = ("", id(one))
            if isinstance(one, Apply):
                args = [self._number(arg) if isinstance(arg, Expr) else (type(arg), repr(arg)) for arg in one.args]
                key = (one.function, one.name, *args)
            self._numbers[id(one)] = one, self._alike.setdefault(key, len(self._alike))
        return self._numbers[id(one)][1]

    def leaves_behind(self, value: Value, file: str = "", *, is_read: bool = False) -> Document:
        """The test hands a value over by name, or writes or reads it as JSON."""
        values: dict[tuple[str, ...], Value] = {}
        for keys, one in values_of(value):
            while isinstance(one, Apply) and one.function is float:
                one = one.args[0]
            values[keys] = self._result(one) if isinstance(one, Apply) else one
        document = Document(values, self.next_moment(), file, is_read=is_read, doubtful=self.repeated())
        self.left_behind.documents.append(document)
        return document

    def next_moment(self) -> int:
        """A number that is larger than that of every moment before."""
        self.moment += 1
        return self.moment

    def repeated(self) -> bool:
        """Whether a loop may run the present code more than once."""
        return any(isinstance(one, EachTime) for guard in self.guards for one in nodes(guard))

    def touches(self, given: Iterable[Value]) -> None:
        """Code that is not followed may change these, and what they were made from."""
        moment = self.next_moment()
        for one in given:
            for touched in {one, *one.root.parents} if isinstance(one, Opaque) else ():
                touched.touched += (moment,)
            for leaf in (leaf for inner in (one, *contents(one)) for leaf in leaves(inner).values()):
                if isinstance(leaf, Opaque):
                    self.left_behind.may_be_written(leaf.root)
