"""Harm modules that keep enforced rules one line at a time and see if a test notices: ``python tests/mutate.py``.

Each mutant is one changed condition, number, call or statement. It is tried against the tests nearest to its module,
then against those marked with a rule that the module keeps. What no test notices is printed with its line; the seed
decides which mutants are drawn. The module is changed in place and always put back.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from register import ROOT, marks

from tune_mcp.rules import How, register

NEAREST = {
    "apply/plan.py": "calibration/test_applying.py",
    "calibration/deciding.py": "calibration/test_applying.py",
    "calibration/evidence.py": "calibration/test_gates.py",
    "calibration/planning.py": "calibration/test_preparing.py",
    "calibration/purging.py": "calibration/test_running.py",
    "calibration/watching.py": "calibration/test_polling.py",
    "observe/observation.py": "observe/test_audit.py",
    "session/state.py": "supervise/test_loop.py",
    "supervise/guard_record.py": "supervise/test_guard.py",
}
"""Where the tests that notice soonest are not the mirror of the module."""
FLIPPED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SLOW = ("tests/e2e", "tests/faults", "tests/browser", "tests/clients", "tests/server")
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A module with one harm done to it."""

    module: str
    line: int
    harm: str
    source: str


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every single harm to a module."""
    tree = ast.parse(source)
    for parent in list(ast.walk(tree)):
        for field, value in list(ast.iter_fields(parent)):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            for node in value if isinstance(value, list) else [value]:
                if not isinstance(node, ast.AST):
                    continue
                for harm, other in harms(node):
                    setattr(
                        parent, field, [other if one is node else one for one in value] if value is not node else other
                    )
                    harmed = ast.unparse(ast.fix_missing_locations(tree))
                    setattr(parent, field, value)
                    yield Mutant(module, getattr(node, "lineno", 0), harm, harmed)


def harms(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What can be done to one node: a sentence, and what stands in its place."""
    text = next(iter(ast.unparse(node).splitlines()), "")
    match node:
        case ast.Compare(left, [op], others) if type(op) in FLIPPED:
            other = ast.Compare(left, [FLIPPED[type(op)]()], others)
            yield f"{text} became {ast.unparse(other)}", other
        case ast.BoolOp(op, values):
            for index, value in enumerate(values):
                rest = values[:index] + values[index + 1 :]
                yield f"{text} lost {ast.unparse(value)}", rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(ast.Not(), operand):
            yield f"{text} lost its not", operand
        case ast.If(_, body, orelse):
            yield f"{text} never", ast.If(ast.Constant(False), body, orelse)
        case ast.IfExp(_, _, orelse):
            yield f"{text} never", orelse
        case ast.comprehension(target, over, [condition, *_]):
            yield f"comprehension lost if {ast.unparse(condition)}", ast.comprehension(target, over, [], 0)
        case ast.Constant(bool() as value):
            yield f"{value} became {not value}", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield f"{value} became {value + 1}", ast.Constant(value + 1)
        case ast.Name(name) if name in SWAPPED:
            yield f"{name} became {SWAPPED[name]}", ast.Name(SWAPPED[name], ast.Load())
        case ast.Raise() | ast.Expr(ast.Call()):
            yield f"{text} dropped", ast.Pass()
        case _:
            return


def policy_modules() -> list[str]:
    """The modules that keep an enforced rule, and those with a nearest test named here."""
    places = {rule.where for rule in register().values() if rule.how is How.ENFORCED and rule.where.endswith(".py")}
    return sorted({place.removeprefix("tune_mcp/") for place in places} | set(NEAREST))


def nearest_to(module: str) -> str:
    """The mirror of the module below tests/ (a room within a room stands in the file's name), else its room."""
    *rooms, name = module.split("/")
    room, inner = "/".join(["tests", *rooms[:1]]), "_".join([*rooms[1:], name])
    named = [f"tests/{NEAREST[module]}"] if module in NEAREST else [f"{room}/test_{inner}", f"{room}/test_{name}"]
    return next((test for test in named if (ROOT / test).is_file()), room)


def tests_of(module: str) -> Iterator[list[str]]:
    """The nearest tests of a module, then those marked with a rule that it keeps, one call of pytest each."""
    nearest = [nearest_to(module)]
    yield nearest
    kept = {rule for rule, found in register().items() if found.where == f"tune_mcp/{module}"}
    marked = {mark.test for mark in marks() if mark.rule in kept}
    yield sorted(test for test in marked if not test.startswith((*nearest, *SLOW)))


def noticed(mutant: Mutant, seconds: float, *, marked: bool) -> bool | None:
    """Whether a call of pytest failed under the harm; None when one took too long to say."""
    path = ROOT / "tune_mcp" / mutant.module
    before = path.read_bytes()
    try:
        path.write_text(mutant.source)
        for tests in filter(None, islice(tests_of(mutant.module), None if marked else 1)):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", *tests]
            ran = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                if ran.wait(seconds):
                    return True
            except subprocess.TimeoutExpired:
                return None
            finally:
                if ran.poll() is None:
                    os.killpg(ran.pid, signal.SIGTERM)
                    ran.wait()
        return False
    finally:
        path.write_bytes(before)


def main() -> int:
    """Draw, harm, test, tell. Exit code 1 when a mutant survived."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("modules", nargs="*", help="as tune_mcp/observe/audit.py, or with :LINE")
    arguments.add_argument("--sample", type=int, default=4, help="mutants a module")
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--minutes", type=float, default=25, help="start no mutant after that")
    arguments.add_argument("--seconds", type=float, default=60, help="of one call of pytest")
    arguments.add_argument("--nearest", action="store_true", help="leave out the tests that are only marked")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the module is put back
    modules = [name.removeprefix("tune_mcp/") for name in given.modules] or policy_modules()
    draw = random.Random(given.seed)
    drawn = []
    for place in modules:
        module, _, line = place.partition(":")
        found = list(mutants(module, (ROOT / "tune_mcp" / module).read_text()))
        found = [mutant for mutant in found if line in ("", str(mutant.line))]
        drawn += draw.sample(found, min(given.sample, len(found)))
    draw.shuffle(drawn)
    print(f"seed {given.seed}: {len(drawn)} mutants of {len(modules)} places", flush=True)
    for module in sorted({mutant.module for mutant in drawn}):
        unharmed = Mutant(module, 0, "nothing", (ROOT / "tune_mcp" / module).read_text())
        if noticed(unharmed, 10 * given.seconds, marked=not given.nearest) is not False:
            raise SystemExit(f"the tests of {module} fail, or never end, as it is")
    until = time.monotonic() + given.minutes * 60
    tally: Counter[str] = Counter()
    for mutant in drawn:
        if time.monotonic() > until:
            break
        verdict = {True: "noticed", False: "survived", None: "took too long"}[
            noticed(mutant, given.seconds, marked=not given.nearest)
        ]
        tally[verdict] += 1
        if verdict != "noticed":
            print(f"{verdict}: tune_mcp/{mutant.module}:{mutant.line}: {mutant.harm}", flush=True)
    print(f"{dict(tally)}, {len(drawn) - tally.total()} not tried", flush=True)
    return 1 if tally["survived"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
