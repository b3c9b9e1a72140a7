"""The variables of a launch: an allow-list from the caller, then the settings of model and host, then our own.

The shell that an agent happens to run in must not decide a measurement: PYTEST_ADDOPTS, PYTHONPATH, a stale
TORCHINDUCTOR_CACHE_DIR are dropped and recorded as dropped (rules GPU-17, MOD-07).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune_mcp.precheck.imports import Imports, try_imports
from tune_mcp.precheck.subject import Subject

ALLOWED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM",
        "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "HF_TOKEN", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
        "OPENBLAS_CORETYPE", "TUNE_RUN_MARK",
    }
)  # fmt: skip
ALLOWED_PREFIXES = ("LC_",)
SCRUBBED_PREFIXES = ("CUDA_MPS_",)
"""Taken from nobody, not even from the model's settings: a GPU that is measured is shared with no other process."""
SOCKET_WRAPPER = "proxychains"
"""Never loaded into pytest, whoever asks: it sends health checks of the own server through a proxy (ENV-28)."""
_NO_PROXY = ("NO_PROXY", "no_proxy")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class LaunchVariables:
    """The child's variables, and the names from the caller's shell or the settings that were left behind."""

    variables: dict[str, str]
    dropped: tuple[str, ...]


def build(
    caller: Mapping[str, str],
    settings: Mapping[str, str],
    venv_python: Path,
    import_paths: tuple[Path, ...],
    gpu_indices: tuple[int, ...] | None,
) -> LaunchVariables:
    """Put the child's environment together; a later source wins, and what is ours wins over all.

    ``import_paths`` become PYTHONPATH. ``gpu_indices`` are the GPUs that the child sees; None hides none.
    """
    kept = {name: value for name, value in caller.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}
    scrubbed = {
        name for name, value in settings.items() if name.startswith(SCRUBBED_PREFIXES) or SOCKET_WRAPPER in value
    }
    variables = {**kept, **{name: value for name, value in settings.items() if name not in scrubbed}}
    variables["PATH"] = f"{venv_python.parent}:{variables.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    variables["VIRTUAL_ENV"] = str(venv_python.parent.parent)
    variables["PYTHONPATH"] = ":".join(str(path) for path in import_paths)
    variables["PYTHONUNBUFFERED"] = "1"
    variables["SPT_NOENV"] = "1"
    variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    if gpu_indices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in gpu_indices)
    variables |= dict.fromkeys(_NO_PROXY, _past_the_proxy(variables))
    return LaunchVariables(variables, tuple(sorted({*caller} - {*kept} | scrubbed)))


def as_launched(caller: Mapping[str, str]) -> Callable[[Subject, float], Imports]:
    """The probe that loads modules under the environment of a launch: what a stale shell exports counts for neither.

    It hides no GPU, because modules look for one while they load; loading alone takes no memory on it.
    """

    def look(subject: Subject, seconds: float) -> Imports:
        if subject.venv_python is None:
            return Imports()
        launch = build(caller, subject.needs.env, subject.venv_python, (subject.repo_root,), None)
        return try_imports(subject, launch.variables, seconds)

    return look


def _past_the_proxy(variables: Mapping[str, str]) -> str:
    """Both spellings of NO_PROXY as one list with the loopback names: programs differ in which of the two they read."""
    parts = [part.strip() for name in _NO_PROXY for part in variables.get(name, "").split(",") if part.strip()]
    # A lone star is everything already; with anything beside it, some programs take it for a name.
    return "*" if "*" in parts else ",".join(dict.fromkeys([*parts, *LOOPBACK]))
