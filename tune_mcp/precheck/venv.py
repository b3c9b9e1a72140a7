"""The project's interpreter: it exists, it starts, its pytest can be recorded; its versions are recorded (SCP-02)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject
from tune_mcp.precheck.venv_probe import DEADLINE_S, ProbeFailure, ask

_REPORTED = ("pytest", "sglang", "sglang-omni", "torch", "transformers", "flashinfer-python", "onnxruntime", "numpy")
MINIMUM: Mapping[str, str] = MappingProxyType({"python": "3.8", "pytest": "7.0"})
"""The oldest that the guard plugin is known to work under."""


@dataclass(frozen=True)
class VenvFacts:
    """What the interpreter reported of itself; ``problem`` when it did not answer, ``late`` when that was for time.

    ``versions`` are those that are reported; ``packages`` maps every canonical name to its version. ``markers`` is the
    environment in which its requirement markers are judged, ``requires`` what each installed distribution declares,
    ``scripts`` maps a console script to the distribution that brings it.
    """

    problem: str = ""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    pytest_plugins: tuple[str, ...] = ()
    freeze_sha256: str | None = None
    packages: dict[str, str] = field(default_factory=dict[str, str])
    markers: Mapping[str, str] = field(default_factory=dict[str, str])
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    scripts: Mapping[str, str] = field(default_factory=dict[str, str])
    late: bool = False


def canonical(name: str) -> str:
    """A package's name as the index writes it: ``Foo._bar`` is ``foo-bar``."""
    return canonicalize_name(name)


def read_venv(subject: Subject) -> VenvFacts:
    """What the interpreter of the subject reports of itself."""
    return packages_of(subject.venv_python) if subject.venv_python else VenvFacts(problem="no interpreter")


def packages_of(python: Path) -> VenvFacts:
    """Ask the interpreter for its packages, without importing any of them."""
    try:
        answer = ask(python)
    except TimeoutError:
        return VenvFacts(problem=f"did not answer within {DEADLINE_S:g} s", late=True)
    except (OSError, ProbeFailure) as error:
        return VenvFacts(problem=f"does not run: {error}")
    named: dict[str, str] = {}
    requires: dict[str, tuple[str, ...]] = {}
    for entry in answer.packages:  # in the order of sys.path: the first is the one that is imported
        name = canonical(entry.name)
        if name not in named:
            named[name], requires[name] = entry.version, entry.requires
    versions = {"python": answer.python} | {name: named[name] for name in _REPORTED if name in named}
    return VenvFacts(
        "", versions, answer.plugins, answer.freeze_sha256(), named, answer.markers, requires, dict(answer.scripts)
    )


def checks(subject: Subject, facts: VenvFacts) -> Iterator[Check]:
    """``venv.python`` and ``venv.pytest``."""
    if subject.venv_python is None:
        looked = ", ".join(subject.venv_candidates) or "nothing is configured"
        yield Check(id="venv.python", status="missing", detail=f"none of these exists: {looked}", fix=make(subject))
        return
    where = f"{subject.venv_python} (from {subject.venv_source})"
    if facts.problem:
        yield Check(
            id="venv.python",
            status="unknown" if facts.late else "mismatch",
            detail=f"{where}: {facts.problem}",
            fix=f"{shlex.quote(str(subject.venv_python))} --version",
        )
        return
    python = facts.versions["python"]
    if older("python", python):
        detail = f"{where}, Python {python}: the plugin that records a run needs {MINIMUM['python']} or newer"
        yield Check(id="venv.python", status="mismatch", detail=detail, fix=make(subject))
    else:
        yield Check(id="venv.python", status="ok", detail=f"{where}, Python {python}")
    yield _pytest(subject, facts)


def _pytest(subject: Subject, facts: VenvFacts) -> Check:
    """Where pytest is declared, the sync of the checkout brings it; elsewhere it goes by its name (ENV-08)."""
    python = shlex.quote(str(subject.venv_python))
    declared = (subject.repo_root / "pyproject.toml").is_file()
    found = facts.packages.get("pytest", facts.versions.get("pytest"))
    if found is None:
        fix = sync(subject) if declared else f"{python} -m pip install {_wanted()}"
        return Check(id="venv.pytest", status="missing", detail="the interpreter has no pytest", fix=fix)
    if older("pytest", found):
        detail = f"pytest {found}: the plugin that records a run needs {MINIMUM['pytest']} or newer"
        declare = f"declare {_wanted()} in {subject.repo_root}/pyproject.toml, then {sync(subject)}"
        fix = declare if declared else f"{python} -m pip install {_wanted()}"
        return Check(id="venv.pytest", status="mismatch", detail=detail, fix=fix)
    return Check(id="venv.pytest", status="ok", detail=f"pytest {found} ({MINIMUM['pytest']} or newer is needed)")


def _wanted() -> str:
    return shlex.quote(f"pytest>={MINIMUM['pytest']}")


def older(name: str, version: str) -> bool:
    """Whether a version is below the minimum; one that nobody can order is not."""
    try:
        return Version(version) < Version(MINIMUM[name])
    except InvalidVersion:
        return False


def make(subject: Subject) -> str:
    """Make the interpreter that is not there, beside whatever is: a slice is never wiped for it (ENV-06, ENV-09)."""
    first = subject.venv_candidates[0] if subject.venv_candidates else ".venv/bin/python"
    folder, python = shlex.quote(first.removesuffix("/bin/python")), shlex.quote(first)
    if not (subject.repo_root / "pyproject.toml").is_file():
        return f"python3 -m venv {folder}"
    root = shlex.quote(str(subject.repo_root))
    return f"cd {root} && uv venv {folder} && uv pip install --python {python} -e {_itself(subject)}"


def sync(subject: Subject) -> str:
    """Bring the interpreter's packages to what the checkout asks for, without a rebuild (ENV-03)."""
    python = subject.venv_python
    activate = shlex.quote(str(python.parent / "activate")) if python else ""
    return f"cd {shlex.quote(str(subject.repo_root))} && source {activate} && uv pip install -e {_itself(subject)}"


def _itself(subject: Subject) -> str:
    extras = ",".join(subject.needs.extras)
    return shlex.quote(f".[{extras}]") if extras else "."
