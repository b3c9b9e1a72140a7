"""Mutate modules with Cosmic Ray and name what no test detects: ``make mutate [MODULE=GLOB] [MOST=N]``.

Runs in the tool's own environment. Each module is mutated in a copy of the working tree, so that an interrupted run
leaves nothing behind; the tests run with the project's interpreter. Survivors are printed as a markdown list, and the
session (SQLite) is kept for Cosmic Ray's own reports.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("modules.toml")


@dataclass(frozen=True)
class Target:
    """One module, the tests that should detect its mutations, and seconds that one run of them may take."""

    module: str
    tests: tuple[str, ...]
    seconds: int


def targets(wanted: str = "*") -> list[Target]:
    """The configured modules that fit ``wanted`` (a glob over the path, or a part of it); the first entry counts."""
    found: dict[str, Target] = {}
    for pattern, entry in tomllib.loads(CONFIG.read_text())["modules"].items():
        for path in sorted(ROOT.glob(pattern)):
            module = path.relative_to(ROOT).as_posix()
            if path.name != "__init__.py" and (fnmatch(module, wanted) or wanted in module):
                found.setdefault(module, Target(module, tuple(entry["tests"]), entry["seconds"]))
    return list(found.values())


def copy_of_the_tree(folder: Path) -> None:
    """Copy what git tracks, and what it does not ignore, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def mutate(target: Target, python: Path, session: Path, most: int | None) -> Iterator[str]:
    """Mutate one module; yields the lines of its result."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    skip = tomllib.loads(CONFIG.read_text())["operators"]["skip"]
    test = shlex.join(["nice", str(python), "-m", "pytest", "-x", "-q", *target.tests])
    quoted = ", ".join(f"'{one}'" for one in skip)
    config = (
        f'[cosmic-ray]\nmodule-path = "{target.module}"\ntimeout = {target.seconds}\nexcluded-modules = []\n'
        f"test-command = '{test}'\n[cosmic-ray.distributor]\nname = \"local\"\n"
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = [{quoted}]\n"
    )
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        tree = Path(folder)
        copy_of_the_tree(tree)
        (tree / "mutate.toml").write_text(config)
        bin_folder = Path(sys.executable).parent
        env = {**os.environ, "PYTHONPATH": folder, "PATH": f"{bin_folder}:{os.environ['PATH']}"}

        def step(*argv: str) -> None:
            subprocess.run(argv, cwd=tree, env=env, check=True, stdout=subprocess.DEVNULL)

        step("cosmic-ray", "init", "mutate.toml", str(session))
        step("cr-filter-operators", str(session), "mutate.toml")
        with use_db(session, WorkDB.Mode.open) as database:
            pending = sorted(database.pending_work_items, key=lambda item: item.job_id)
            pending.sort(key=lambda item: (item.mutations[0].start_pos, item.mutations[0].operator_name))
            left = random.Random(1).sample(pending, max(0, len(pending) - most)) if most else []
            for item in left:
                database.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED, "not in the sample"))
        step("cosmic-ray", "--verbosity", "ERROR", "baseline", "mutate.toml")
        step("cosmic-ray", "exec", "mutate.toml", str(session))
        with use_db(session, WorkDB.Mode.open) as database:
            done = [(item, result) for item, result in database.completed_work_items]
    tested = [(item, result) for item, result in done if result.worker_outcome is WorkerOutcome.NORMAL]
    alive = [(item, result) for item, result in tested if result.test_outcome is TestOutcome.SURVIVED]
    detected = len(tested) - len(alive)
    yield f"- `{target.module}`: {detected} of {len(tested)} mutations detected, {len(alive)} survive"
    for item, result in sorted(alive, key=lambda pair: pair[0].mutations[0].start_pos):
        mutation = item.mutations[0]
        changed = [line[1:].strip() for line in (result.diff or "").splitlines() if line[:1] in "+-"]
        shown = " -> ".join(f"`{line}`" for line in changed if not line.startswith(("--", "++")))
        yield f"  - {mutation.start_pos[0]}: {mutation.operator_name.removeprefix('core/')}: {shown}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Mutate the chosen modules one after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", nargs="?", default="*", help="glob or part of a path; all configured ones without it")
    parser.add_argument("--most", type=int, help="a seeded sample of at most this many mutations of each module")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="interpreter of the tests")
    parser.add_argument("--sessions", type=Path, default=ROOT / ".mutate", help="where Cosmic Ray's sessions go")
    given = parser.parse_args(arguments)
    chosen = targets(given.module)
    if not chosen:
        print(f"no configured module fits {given.module!r}; see {CONFIG.relative_to(ROOT)}")
        return 2
    given.sessions.mkdir(exist_ok=True)
    for target in chosen:
        session = given.sessions / f"{target.module.replace('/', '.')}.sqlite"
        session.unlink(missing_ok=True)
        for line in mutate(target, given.python.absolute(), session.absolute(), given.most):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
