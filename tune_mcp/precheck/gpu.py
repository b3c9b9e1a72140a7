"""The GPUs: enough for the stage that needs most, and free now (GPU-13, GPU-19)."""

from __future__ import annotations

from collections.abc import Iterator

from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import MEMORY_LIMIT_MIB, Gpu, GpuReading, Presence
from tune_mcp.gpus.holders import describe
from tune_mcp.precheck.subject import Subject


def checks(subject: Subject, reading: GpuReading) -> Iterator[Check]:
    """``gpu.free``: how many are needed at once, and how many are free; ``gpu.default``: where nobody said how many."""
    if subject.gpus_by_default:
        names = ", ".join(subject.gpus_by_default)
        detail = f"gpus_per_test does not name {names}: 1 GPU is taken for each launch"
        yield Check(
            id="gpu.default", status="warn", detail=detail, fix=line_to_add(subject.model, subject.gpus_by_default)
        )
    yield _free(subject, reading)


def line_to_add(model: str, files: tuple[str, ...]) -> str:
    """The line of config.yaml that says how many GPUs these test files need."""
    numbers = ", ".join(f"{file}: 0" for file in files)
    return f"add gpus_per_test: {{{numbers}}} to models/{model}/config.yaml (0: runs on the CPU), then run discover"


def _free(subject: Subject, reading: GpuReading) -> Check:
    needed = max(subject.gpus_per_test.values(), default=0)
    if needed == 0:
        return Check(id="gpu.free", status="ok", detail=f"no GPU needed; this machine has {reading.summary()}")
    if reading.presence is Presence.UNKNOWN:
        return Check(id="gpu.free", status="unknown", detail=reading.reason, fix="nvidia-smi")
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
        return Check(
            id="gpu.free",
            status="missing",
            detail=f"{needed} GPU(s) needed, {len(usable)} here"
            + (f" and {split} split ones (MIG)" if split else "")
            + withheld,
            fix=fix,
        )
    others = [gpu for gpu in usable if not gpu.free]
    told = [describe(gpu) for gpu in others]
    if len(free) >= needed:
        told += [f"GPU {gpu.index}: {_accepted(gpu)}" for gpu in free if gpu.unknown_accepted]
    detail = f"{len(free)} of {len(usable)} free (at most {MEMORY_LIMIT_MIB} MiB each), {needed} needed{withheld}"
    detail += f"; {'; '.join(told)}" if told else ""
    if len(free) >= needed:
        return Check(id="gpu.free", status="ok", detail=detail)
    acceptable = [gpu for gpu in others if gpu.accepting_unknown().free]
    if len(free) + len(acceptable) >= needed:
        profile = f"hosts/{subject.host or '<name>'}.yaml"
        fix = f"set gpu_memory_unknown: accept in {profile}, once you know that nobody uses them"
        return Check(id="gpu.free", status="unknown", detail=detail, fix=fix)
    fix = "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv"
    return Check(id="gpu.free", status="busy", detail=detail, fix=fix)


def _accepted(gpu: Gpu) -> str:
    return f"{describe(gpu).partition(': ')[2]}, accepted by gpu_memory_unknown of the host profile"
