"""The project's interpreter: it exists and starts, its pytest can be recorded, its packages are known.

One question is put to it, in one process with one deadline. It may print, close or replace its output before that, so
the answer goes into a file of its own; of what was printed only the end is kept, for the case that there is no answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, ValidationError

from tune_mcp.contract.precheck import Check
from tune_mcp.files import digest
from tune_mcp.precheck.subject import Subject

DEADLINE_S = 20.0
_ANSWER_LIMIT = 32 * 2**20
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


class ProbeFailure(Exception):
    """The interpreter started and gave no answer; the text says how it ended and what it printed last."""


class _Package(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    requires: tuple[str, ...] = ()


class Answer(BaseModel):
    """What the interpreter knows of itself: packages in the order of sys.path, plugins, console scripts, markers."""

    model_config = ConfigDict(frozen=True)

    python: str
    packages: tuple[_Package, ...]
    plugins: tuple[str, ...]
    scripts: dict[str, str]
    markers: Mapping[str, str]

    def freeze_sha256(self) -> str:
        """One digest for all names and versions."""
        return digest([[name, version] for name, version in sorted({(one.name, one.version) for one in self.packages})])


@dataclass
class _Printed:
    """The end of what a process printed, however much that is."""

    tail: bytes = b""

    def add(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-_KEPT:]

    def last_line(self) -> str:
        lines = self.tail.decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def ask(python: Path, deadline_s: float = DEADLINE_S) -> Answer:
    """The interpreter's answer. Raises ``TimeoutError``, ``OSError`` when it does not start, else ``ProbeFailure``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    with tempfile.TemporaryDirectory(prefix="tune-venv-") as folder:
        path = Path(folder) / "answer.json"
        child = subprocess.Popen(
            [str(python), "-I", "-c", _QUESTION, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        printed = _Printed()
        try:
            code = _until_ended(child, printed, time.monotonic() + deadline_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # also what a site customisation left running
        return _read(path, code, printed)


def _until_ended(child: subprocess.Popen[bytes], printed: _Printed, end: float) -> int:
    """Take what it prints until it has ended: something that it started may keep its output open for ever."""
    assert child.stdout is not None
    ended = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector, child.stdout as output:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(output, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if output.fileno() in ready:
                    data = os.read(output.fileno(), 65536)
                    printed.add(data)
                    if not data:
                        selector.unregister(output)
                    elif ended not in ready:
                        continue
                if ended in ready:
                    return child.wait()
    finally:
        os.close(ended)
    child.kill()  # never waited for: one that hangs in the kernel does not even hear this
    raise TimeoutError


def _read(path: Path, code: int, printed: _Printed) -> Answer:
    try:
        with path.open("rb") as file:
            data = file.read(_ANSWER_LIMIT + 1)
        return Answer.model_validate_json(data)
    except (OSError, ValidationError) as error:
        said = printed.last_line() or _error(path)
        raise ProbeFailure(f"exit code {code} without an answer{f': {said}' if said else ''}") from error


def _error(path: Path) -> str:
    try:
        value: object = json.loads(path.read_bytes()[:_KEPT])
    except (OSError, ValueError):
        return ""
    return str(value)[:300]


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
