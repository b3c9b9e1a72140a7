"""The project's interpreter: it exists and starts, its pytest can be recorded, its packages are known.

One question is put to it, in one process with one deadline. It may print, close or replace its output before that, so
the answer goes into a file of its own, and so does what it prints, whose end is shown where there is no answer. Neither
file can grow without limit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, ValidationError

from tune_mcp.contract.precheck import Check, check
from tune_mcp.files import digest
from tune_mcp.precheck.subject import Subject, quoted

DEADLINE_S = 20.0
_LARGEST_FILE = 32 * 2**20
_KEPT = 2000
_QUESTION = r"""
import json, os, platform, sys
try:
    import importlib.metadata as m
except ImportError:
    m = None
try:
    def text(value):
        return value if isinstance(value, str) else ""
    def names(found, group):
        return found.select(group=group) if hasattr(found, "select") else found.get(group, ())
    packages, scripts, plugins = [], {}, []
    for d in (m.distributions() if m else ()):
        try:
            meta, name, version = d.metadata, text(d.metadata["Name"]), text(d.metadata["Version"])
            requires = [text(line) for line in meta.get_all("Requires-Dist") or ()]
            points = [(e.group, e.name) for e in d.entry_points]
        except Exception:
            continue
        if not name:
            continue
        packages.append({"name": name, "version": version, "requires": requires})
        for group, point in points:
            if group == "console_scripts":
                scripts.setdefault(point, name)
            elif group == "pytest11":
                plugins.append(point)
    version = platform.python_version()
    release = sys.implementation.version
    kind = release.releaselevel
    implementation = "%d.%d.%d" % release[:3] + ("" if kind == "final" else kind[0] + str(release.serial))
    markers = {
        "implementation_name": sys.implementation.name, "implementation_version": implementation,
        "os_name": os.name, "platform_machine": platform.machine(), "platform_release": platform.release(),
        "platform_system": platform.system(), "platform_version": platform.version(),
        "python_full_version": version, "platform_python_implementation": platform.python_implementation(),
        "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
    }
    answer = {"python": version, "packages": packages, "plugins": sorted(set(plugins)), "scripts": scripts,
              "markers": markers}
except Exception as error:
    answer = {"error": "%s: %s" % (type(error).__name__, error)}
with open(sys.argv[1], "w", encoding="utf-8", errors="replace") as out:
    json.dump(answer, out)
os._exit(0)
"""


class _Package(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    requires: tuple[str, ...] = ()


class _Answer(BaseModel):
    """What the interpreter knows of itself: packages in the order of sys.path, plugins, console scripts, markers."""

    model_config = ConfigDict(frozen=True)

    python: str
    packages: tuple[_Package, ...]
    plugins: tuple[str, ...]
    scripts: dict[str, str]
    markers: Mapping[str, str]


def _run(python: Path, answer: Path, printed: Path, deadline_s: float) -> int:
    """Ask the interpreter; its exit code. Raises ``TimeoutExpired``, ``OSError`` when it does not start."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    with printed.open("wb") as output:
        child = subprocess.Popen(
            [str(python), "-I", "-c", _QUESTION, str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
        return child.wait(deadline_s)  # not waited for any longer: one that hangs in the kernel does not hear a signal
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # also what a site customisation left running


def _last_line(path: Path) -> str:
    """The last line that is not blank; of a file that is not there, an empty one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _KEPT))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


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


def read_venv(subject: Subject) -> VenvFacts:
    """What the interpreter of the subject reports of itself."""
    return packages_of(subject.venv_python) if subject.venv_python else VenvFacts(problem="no interpreter")


def packages_of(python: Path, deadline_s: float = DEADLINE_S) -> VenvFacts:
    """Ask the interpreter for its packages, without importing any of them."""
    try:
        with tempfile.TemporaryDirectory(prefix="tune-venv-") as folder:
            file, printed = Path(folder) / "answer.json", Path(folder) / "printed"
            code = _run(python, file, printed, deadline_s)
            try:
                answer = _Answer.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                last = _last_line(printed) or _last_line(file)
                said = f": {last}" if last else ""
                return VenvFacts(problem=f"does not run: exit code {code} without an answer{said}")
    except subprocess.TimeoutExpired:
        return VenvFacts(problem=f"did not answer within {deadline_s:g} s", late=True)
    except OSError as error:
        return VenvFacts(problem=f"does not run: {error}")
    named: dict[str, str] = {}
    requires: dict[str, tuple[str, ...]] = {}
    for entry in answer.packages:  # in the order of sys.path: the first is the one that is imported
        name = canonicalize_name(entry.name)
        if name not in named:
            named[name], requires[name] = entry.version, entry.requires
    versions = {"python": answer.python} | {name: named[name] for name in _REPORTED if name in named}
    frozen = digest([[name, version] for name, version in sorted({(one.name, one.version) for one in answer.packages})])
    return VenvFacts("", versions, answer.plugins, frozen, named, answer.markers, requires, dict(answer.scripts))


def checks(subject: Subject, facts: VenvFacts) -> Iterator[Check]:
    """``venv.python`` and ``venv.pytest``."""
    if subject.venv_python is None:
        looked = ", ".join(subject.venv_candidates) or "nothing is configured"
        yield check("venv.python", "missing", f"none of these exists: {looked}", make(subject))
        return
    where = f"{subject.venv_python} (from {subject.venv_source})"
    if facts.problem:
        yield check(
            "venv.python",
            "unknown" if facts.late else "mismatch",
            f"{where}: {facts.problem}",
            f"{quoted(subject.venv_python)} --version",
        )
        return
    python = facts.versions["python"]
    if older("python", python):
        detail = f"{where}, Python {python}: the plugin that records a run needs {MINIMUM['python']} or newer"
        yield check("venv.python", "mismatch", detail, make(subject))
    else:
        yield check("venv.python", "ok", f"{where}, Python {python}")
    yield _pytest(subject, facts)


def _pytest(subject: Subject, facts: VenvFacts) -> Check:
    """Where pytest is declared, the sync of the checkout brings it; elsewhere it goes by its name (ENV-08)."""
    python = quoted(subject.venv_python)
    declared = (subject.repo_root / "pyproject.toml").is_file()
    found = facts.packages.get("pytest", facts.versions.get("pytest"))
    if found is None:
        fix = sync(subject) if declared else f"{python} -m pip install {_wanted()}"
        return check("venv.pytest", "missing", "the interpreter has no pytest", fix)
    if older("pytest", found):
        detail = f"pytest {found}: the plugin that records a run needs {MINIMUM['pytest']} or newer"
        declare = f"declare {_wanted()} in {subject.repo_root}/pyproject.toml, then {sync(subject)}"
        fix = declare if declared else f"{python} -m pip install {_wanted()}"
        return check("venv.pytest", "mismatch", detail, fix)
    return check("venv.pytest", "ok", f"pytest {found} ({MINIMUM['pytest']} or newer is needed)")


def _wanted() -> str:
    return quoted(f"pytest>={MINIMUM['pytest']}")


def older(name: str, version: str) -> bool:
    """Whether a version is below the minimum; one that nobody can order is not."""
    try:
        return Version(version) < Version(MINIMUM[name])
    except InvalidVersion:
        return False


def make(subject: Subject) -> str:
    """Make the interpreter that is not there, beside whatever is: a slice is never wiped for it (ENV-06, ENV-09)."""
    first = subject.venv_candidates[0] if subject.venv_candidates else ".venv/bin/python"
    folder, python = quoted(first.removesuffix("/bin/python")), quoted(first)
    if not (subject.repo_root / "pyproject.toml").is_file():
        return f"python3 -m venv {folder}"
    root = quoted(subject.repo_root)
    return f"cd {root} && uv venv {folder} && uv pip install --python {python} -e {_itself(subject)}"


def sync(subject: Subject) -> str:
    """Bring the interpreter's packages to what the checkout asks for, without a rebuild (ENV-03)."""
    python = subject.venv_python
    activate = quoted(python.parent / "activate") if python else ""
    return f"cd {quoted(subject.repo_root)} && source {activate} && uv pip install -e {_itself(subject)}"


def _itself(subject: Subject) -> str:
    extras = ",".join(subject.needs.extras)
    return quoted(f".[{extras}]") if extras else "."
