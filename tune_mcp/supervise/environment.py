"""The environment of a launch: an allow-list from the caller, then the model's and the host's settings, then ours.

The shell that an agent happens to run in must not decide a measurement: PYTEST_ADDOPTS, PYTHONPATH, a stale
TORCHINDUCTOR_CACHE_DIR are dropped and recorded as dropped (rules GPU-17, MOD-07; notes E87, E103).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class LaunchEnvironment:
    """The child's variables, and the names from the caller's shell or the settings that were left behind."""

    variables: dict[str, str]
    dropped: tuple[str, ...]


def build(
    caller: Mapping[str, str],
    settings: Mapping[str, str],
    venv_python: Path,
    guard_folder: Path,
    repo_root: Path,
    gpu_indices: tuple[int, ...],
) -> LaunchEnvironment:
    """Put the child's environment together; a later source wins, and what is ours wins over all."""
    kept = {name: value for name, value in caller.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}
    scrubbed = {name for name in settings if name.startswith(SCRUBBED_PREFIXES)}
    variables = {**kept, **{name: value for name, value in settings.items() if name not in scrubbed}}
    variables["PATH"] = f"{venv_python.parent}:{variables.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    variables["VIRTUAL_ENV"] = str(venv_python.parent.parent)
    variables["PYTHONPATH"] = ":".join([str(guard_folder), str(repo_root)])
    variables["PYTHONUNBUFFERED"] = "1"
    variables["SPT_NOENV"] = "1"
    variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in gpu_indices)
    for name in ("NO_PROXY", "no_proxy"):
        present = [part for part in variables.get(name, "").split(",") if part]
        variables[name] = ",".join([*present, *(host for host in LOOPBACK if host not in present)])
    return LaunchEnvironment(variables, tuple(sorted({*caller} - {*kept} | scrubbed)))
