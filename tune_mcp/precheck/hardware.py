"""The machine: GPUs that are free and of the kind of CI's, the host profile's folders and lanes, disk, capabilities.

Only facts are compared. A container's name is never looked at, and which image it was made from cannot be read from
inside; where the image says so, environment.json records it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tune_mcp.config.lanes import parse_cpus
from tune_mcp.config.stages import Stage
from tune_mcp.contract.precheck import Check, check
from tune_mcp.gpus import MEMORY_LIMIT_MIB, GpuReading, Presence
from tune_mcp.gpus.holders import describe
from tune_mcp.precheck.imports import Imports
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.words import number_of


def gpu_checks(subject: Subject, reading: GpuReading) -> Iterator[Check]:
    """``gpu.free``: how many are needed at once, and how many are free; ``gpu.default``: where nobody said how many."""
    if subject.gpus_by_default:
        names = ", ".join(subject.gpus_by_default)
        detail = f"gpus_per_test does not name {names}: 1 GPU is taken for each launch"
        yield check("gpu.default", "warn", detail, line_to_add(subject.model, subject.gpus_by_default))
    yield _free(subject, reading)


def line_to_add(model: str, files: tuple[str, ...]) -> str:
    """The line of config.yaml that says how many GPUs these test files need."""
    numbers = ", ".join(f"{file}: 0" for file in files)
    return f"add gpus_per_test: {{{numbers}}} to models/{model}/config.yaml (0: runs on the CPU), then run discover"


def _free(subject: Subject, reading: GpuReading) -> Check:
    needed = max(subject.gpus_per_test.values(), default=0)
    if needed == 0:
        return check("gpu.free", "ok", f"no GPU needed; this machine has {reading.summary()}")
    if reading.presence is Presence.UNKNOWN:
        return check("gpu.free", "unknown", reading.reason, "nvidia-smi")
    whole = reading.usable(allow_mig=subject.allow_mig)
    usable = [gpu for gpu in whole if subject.placement.allows(gpu.index)]
    withheld = f", {len(whole) - len(usable)} more left out by the host profile" if len(usable) < len(whole) else ""
    if lanes := subject.placement.lanes_for(needed):
        here = [[gpu for gpu in usable if gpu.index in lane.gpus] for lane in lanes]
        usable = max(here, key=lambda gpus: (sum(gpu.free for gpu in gpus), len(gpus)))
    free = [gpu for gpu in usable if gpu.free]
    if len(usable) < needed:
        split = len(reading.gpus) - len(whole)
        fix = "set allow_mig: true in the host profile, or nvidia-smi -mig 0" if split else "nvidia-smi"
        if not split and subject.gpus_by_default and needed == 1:
            fix = line_to_add(subject.model, subject.gpus_by_default)
        elif not reading.gpus:
            fix = (
                f"run on a machine with GPUs; where a test needs none, write 0 for it below gpus_per_test in "
                f"models/{subject.model}/config.yaml, then run discover"
            )
        return check(
            "gpu.free",
            "missing",
            f"{number_of(needed, 'GPU')} needed, {len(usable)} here"
            + (f" and {split} split ones (MIG)" if split else "")
            + withheld,
            fix,
        )
    others = [gpu for gpu in usable if not gpu.free]
    holders = [describe(gpu) for gpu in others]
    if len(free) >= needed:
        accepted = "accepted by gpu_memory_unknown of the host profile"
        holders += [f"{describe(gpu)}, {accepted}" for gpu in free if gpu.unknown_accepted]
    detail = f"{len(free)} of {len(usable)} free (at most {MEMORY_LIMIT_MIB} MiB each), {needed} needed{withheld}"
    detail += f"; {'; '.join(holders)}" if holders else ""
    if len(free) >= needed:
        return check("gpu.free", "ok", detail)
    acceptable = [gpu for gpu in others if gpu.accepting_unknown().free]
    if len(free) + len(acceptable) >= needed:
        profile = f"hosts/{subject.host or '<name>'}.yaml"
        fix = f"set gpu_memory_unknown: accept in {profile}, once you know that nobody uses them"
        return check("gpu.free", "unknown", detail, fix)
    fix = "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv"
    return check("gpu.free", "busy", detail, fix)


def comparable_checks(subject: Subject, reading: GpuReading, imports: Imports) -> Iterator[Check]:
    """``host.gpu_model`` and ``host.cuda``, for a model that names them; another gate reports what cannot be seen."""
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
    yield check(
        "host.gpu_model",
        "mismatch" if others else "ok",
        f"{', '.join(others)}: the thresholds of {subject.model} are for {expected}" if others else reading.summary(),
        _elsewhere(subject, f"with {expected}"),
    )


def _cuda(subject: Subject, imports: Imports) -> Iterator[Check]:
    expected = subject.needs.ci_machine.cuda
    if expected is None or "torch" not in imports.loaded:
        return
    found = imports.loaded["torch"].cuda
    same = found is not None and f"{found}.".startswith(f"{expected}.")
    yield check(
        "host.cuda",
        "ok" if same else "mismatch",
        f"torch is built for {f'CUDA {found}' if found else 'no CUDA'}"
        + ("" if same else f": the thresholds of {subject.model} are for CUDA {expected}"),
        _elsewhere(subject, f"whose image has CUDA {expected}"),
    )


def _elsewhere(subject: Subject, what: str) -> str:
    return f"measure on a machine {what}, or correct ci_machine in models/{subject.model}/config.yaml"


def host_paths_checks(subject: Subject) -> Iterator[Check]:
    """``host.paths``: one failed check a path; what the caller overrode does not count (HST-05).

    ``physical.omni_ci_home`` is OMNI_CI_HOME of every launch and belongs to ``env.layout``, ``venv_python`` to
    ``venv.python``: one failure is reported once.
    """
    profile = subject.needs.profile
    if profile is None:
        return
    named = {"physical.hf_hub": profile.physical.hf_hub, "physical.speaker_sim": profile.physical.speaker_sim}
    failed = [
        check(
            f"host.paths:{key}",
            "missing",
            f"{key} of host profile {profile.name} does not exist: {path}",
            f"mkdir -p {quoted(path)}",
        )
        for key, path in named.items()
        if path and not Path(path).exists()
    ]
    if profile.repo_root == str(subject.repo_root) and not subject.repo_root.is_dir():
        edit = f"set repo_root in hosts/{profile.name}.yaml to the checkout on this machine"
        detail = f"repo_root of host profile {profile.name} does not exist: {profile.repo_root}"
        failed.append(check("host.paths:repo_root", "missing", detail, edit))
    yield from failed
    if not failed:
        count = 1 + sum(1 for path in named.values() if path)
        yield check("host.paths", "ok", f"{number_of(count, 'path')} of host profile {profile.name} found")


_BLOCKS_BELOW = 1 * 2**30
_WARNS_BELOW = 10 * 2**30


def disk_checks(subject: Subject) -> Iterator[Check]:
    """``disk.space`` of the file system that holds the run directories."""
    free = shutil.disk_usage(subject.repo_root).free
    status = "missing" if free < _BLOCKS_BELOW else "warn" if free < _WARNS_BELOW else "ok"
    yield check(
        "disk.space",
        status,
        f"{free / 2**30:.1f} GiB free under {subject.repo_root}",
        f"du -xh --max-depth=1 {quoted(subject.repo_root / '.tune-runs')}",
    )


STATUS = Path("/proc/self/status")
CAP_SYS_PTRACE = 19
"""Its bit in the masks of /proc/<pid>/status, which hold numbers and never the capability's name."""
_NAMED = re.compile(r"(?:^|_)tp([2-9]|[1-9]\d+)(?:_|$)")
_VARIABLE = re.compile(r"(?:^|_)(?:TP|TP_SIZE|TENSOR_PARALLEL_SIZE)$")


def needs_it(stage: Stage) -> bool:
    """Whether the test's file name (``_tp2_``) or environment (``TP_SIZE: 2``) says that one model spans GPUs."""
    parallel = (value for name, value in stage.extra_env.items() if _VARIABLE.search(name))
    return bool(_NAMED.search(PurePosixPath(stage.test).stem)) or any(
        value.isdigit() and int(value) > 1 for value in parallel
    )


def ptrace_checks(subject: Subject, status: Path = STATUS) -> Iterator[Check]:
    """``host.ptrace``, for a selection with such a test."""
    tests = sorted({PurePosixPath(stage.test).name for stage in subject.stages if needs_it(stage)})
    if not tests:
        return
    mask = _effective(status)
    if mask is None:
        yield check(
            "host.ptrace",
            "unknown",
            f"{status} does not say which capabilities are in force; {', '.join(tests)} needs CAP_SYS_PTRACE",
            f"grep CapEff {status}",
        )
    elif mask >> CAP_SYS_PTRACE & 1:
        yield check("host.ptrace", "ok", f"CAP_SYS_PTRACE is in force, for {', '.join(tests)}")
    else:
        yield check(
            "host.ptrace",
            "missing",
            f"{', '.join(tests)} needs CAP_SYS_PTRACE, which only the container's start can give",
            "docker run --cap-add=SYS_PTRACE",
        )


def _effective(status: Path) -> int | None:
    try:
        found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)\s*$", status.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(found.group(1), 16) if found else None


def lane_checks(subject: Subject) -> Iterator[Check]:
    """``host.lanes``: one check for each lane that cannot be used, one more for a need that no lane covers."""
    placement, profile = subject.placement, f"hosts/{subject.host or '<name>'}.yaml"
    if not placement.lanes:
        if subject.needs.lane:
            what = "the thresholds of this model hold for a launch with CPUs of its own, and no host profile has lanes"
            fix = f"add lanes with gpus and cpus to {profile} (docs/how-to/lanes.md)"
            yield check("host.lanes", "missing", what, fix)
        return
    failed = [*_unusable_lanes(subject, profile)]
    yield from failed
    if not failed:
        used = {lane.name: lane for count in _needed(subject) for lane in placement.lanes_for(count)}
        detail = f"launches get one of {', '.join(lane.text() for lane in used.values())}"
        others = [lane.name for lane in placement.usable_lanes() if lane.name not in used]
        detail += f"; not used, another number of CPUs or too few GPUs: {', '.join(others)}" if others else ""
        yield check("host.lanes", "ok", detail)


def _needed(subject: Subject) -> list[int]:
    return sorted({*subject.gpus_per_test.values()}, reverse=True)


def _unusable_lanes(subject: Subject, profile: str) -> Iterator[Check]:
    placement, here = subject.placement, os.sched_getaffinity(0)
    for lane in placement.usable_lanes():
        if lane.cpus and (away := sorted({*parse_cpus(lane.cpus)} - here)):
            detail = f"lane {lane.name} names CPUs that this process cannot have: {', '.join(map(str, away[:8]))}"
            yield check(
                f"host.lanes:{lane.name}", "missing", detail, f"correct cpus in {profile}: nproc --all; taskset -pc $$"
            )
        elif subject.needs.lane and not lane.cpus:
            detail = f"lane {lane.name} has no CPUs of its own, and the model's thresholds hold for a launch that has"
            yield check(f"host.lanes:{lane.name}", "missing", detail, f"add cpus to it in {profile}")
    most = max(_needed(subject), default=0)
    if not placement.lanes_for(most):
        detail = f"{number_of(most, 'GPU')} needed at once, and no lane has as many that may be used"
        yield check("host.lanes:gpus", "missing", detail, f"add a lane with {most} GPUs to {profile}")
