"""Is this the kind of machine whose numbers the thresholds are (SCP-01, SCP-02)?

Only facts are compared: the GPU's model and the CUDA that torch was built for. A container's name is never looked at,
and which image it was made from cannot be read from inside; where the image says so, environment.json records it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.precheck.imports import Imports
from tune_mcp.precheck.subject import Subject


def checks(subject: Subject, reading: GpuReading, imports: Imports) -> Iterator[Check]:
    """``host.gpu_model`` and ``host.cuda``, for a model that names them; what cannot be seen is another gate's gap."""
    yield from gpu_model(subject, reading)
    yield from _cuda(subject, imports)


def gpu_model(subject: Subject, reading: GpuReading) -> Iterator[Check]:
    """Every GPU that a launch might be granted is of the model's kind. GPUs that are not there are ``gpu.free``."""
    expected = subject.needs.ci_machine.gpu
    if expected is None or max(subject.gpus_per_test.values(), default=0) == 0:
        return
    if reading.presence is not Presence.PRESENT:
        return
    names = {gpu.name for gpu in reading.usable(allow_mig=subject.allow_mig)}
    others = sorted(name for name in names if not re.fullmatch(expected, name))
    yield Check(
        id="host.gpu_model",
        status="mismatch" if others else "ok",
        detail=f"{', '.join(others)}: the thresholds of {subject.model} are for {expected}"
        if others
        else reading.summary(),
        fix=_elsewhere(subject, f"with {expected}") if others else "",
    )


def _cuda(subject: Subject, imports: Imports) -> Iterator[Check]:
    expected = subject.needs.ci_machine.cuda
    if expected is None or "torch" not in imports.loaded:
        return
    found = imports.loaded["torch"].cuda
    same = found is not None and f"{found}.".startswith(f"{expected}.")
    yield Check(
        id="host.cuda",
        status="ok" if same else "mismatch",
        detail=f"torch is built for {f'CUDA {found}' if found else 'no CUDA'}"
        + ("" if same else f": the thresholds of {subject.model} are for CUDA {expected}"),
        fix="" if same else _elsewhere(subject, f"whose image has CUDA {expected}"),
    )


def _elsewhere(subject: Subject, what: str) -> str:
    return f"measure on a machine {what}, or correct ci_machine in models/{subject.model}/config.yaml"
