"""The project's interpreter: it exists, it starts, it has pytest; its versions are recorded (SCP-02, note E92)."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tune_mcp.contract.precheck import Check
from tune_mcp.files import digest
from tune_mcp.precheck.subject import Subject

_DEADLINE_S = 20.0
_REPORTED = ("pytest", "sglang", "sglang-omni", "torch", "transformers", "flashinfer-python", "onnxruntime", "numpy")
_QUESTION = """
import importlib.metadata as m, json, platform, sys
packages = sorted({(d.metadata["Name"] or "?", d.version) for d in m.distributions()})
plugins = sorted({e.name for e in m.entry_points(group="pytest11")})
print(json.dumps({"python": platform.python_version(), "packages": packages, "plugins": plugins,
                  "prefix": sys.prefix}))
"""


@dataclass(frozen=True)
class VenvFacts:
    """What the interpreter said of itself; ``problem`` when it did not answer.

    ``versions`` are those that are reported; ``packages`` maps every canonical name to its version.
    """

    problem: str = ""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    pytest_plugins: tuple[str, ...] = ()
    freeze_sha256: str | None = None
    packages: dict[str, str] = field(default_factory=dict[str, str])


def canonical(name: str) -> str:
    """A package's name as the index writes it: ``Foo._bar`` is ``foo-bar``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_venv(subject: Subject) -> VenvFacts:
    """What the interpreter of the subject says of itself."""
    return packages_of(subject.venv_python) if subject.venv_python else VenvFacts(problem="no interpreter")


def packages_of(python: Path) -> VenvFacts:
    """Ask the interpreter for its packages, without importing any of them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _QUESTION],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=env,
            timeout=_DEADLINE_S,
            check=False,
            text=True,
        )
        value = cast("dict[str, object]", json.loads(done.stdout))
        packages = cast("list[list[str]]", value["packages"])
        plugins = cast("list[str]", value["plugins"])
    except subprocess.TimeoutExpired:
        return VenvFacts(problem=f"did not answer within {_DEADLINE_S:g} s")
    except (OSError, ValueError, KeyError) as error:
        return VenvFacts(problem=f"does not run: {error}")
    named = {canonical(name): version for name, version in packages}
    versions = {"python": str(value["python"])} | {name: named[name] for name in _REPORTED if name in named}
    return VenvFacts("", versions, tuple(plugins), digest(packages), named)


def checks(subject: Subject, facts: VenvFacts) -> Iterator[Check]:
    """``venv.python`` and ``venv.pytest``."""
    if subject.venv_python is None:
        looked = ", ".join(subject.venv_candidates) or "nothing is configured"
        yield Check(id="venv.python", status="missing", detail=f"none of these exists: {looked}", fix=make(subject))
        return
    where = f"{subject.venv_python} (from {subject.venv_source})"
    if facts.problem:
        late = "within" in facts.problem
        yield Check(
            id="venv.python",
            status="unknown" if late else "mismatch",
            detail=f"{where}: {facts.problem}",
            fix=f"{subject.venv_python} --version",
        )
        return
    yield Check(id="venv.python", status="ok", detail=f"{where}, Python {facts.versions['python']}")
    if "pytest" not in facts.versions:
        # Where nothing is pinned nothing says which pytest; elsewhere no package is installed by its name (ENV-08).
        pinned = (subject.repo_root / "pyproject.toml").is_file()
        fix = sync(subject) if pinned else f"{subject.venv_python} -m pip install pytest"
        yield Check(id="venv.pytest", status="missing", detail="the interpreter has no pytest", fix=fix)
    else:
        yield Check(id="venv.pytest", status="ok", detail=f"pytest {facts.versions['pytest']}")


def make(subject: Subject) -> str:
    """Make the interpreter that is not there, beside whatever is: a slice is never wiped for it (ENV-06, ENV-09)."""
    first = subject.venv_candidates[0] if subject.venv_candidates else ".venv/bin/python"
    folder, python = shlex.quote(first.removesuffix("/bin/python")), shlex.quote(first)
    if not (subject.repo_root / "pyproject.toml").is_file():
        return f"python3 -m venv {folder}"
    root = shlex.quote(str(subject.repo_root))
    return f"cd {root} && uv venv {folder} && uv pip install --python {python} -e ."


def sync(subject: Subject) -> str:
    """Bring the interpreter's packages to what the checkout asks for, without a rebuild (ENV-03)."""
    python = subject.venv_python
    activate = shlex.quote(str(python.parent / "activate")) if python else ""
    return f"cd {shlex.quote(str(subject.repo_root))} && source {activate} && uv pip install -e ."
