"""One question to the project's interpreter, which may print, close or replace its output before it comes to us.

The answer goes into a file of its own, so a ``sitecustomize`` or ``.pth`` may do with stdout and stderr what it likes;
of what was printed only the end is kept, for the case that there is no answer. One process, one deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tune_mcp.files import digest

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
