"""Lanes that this machine could have: GPUs with the CPUs beside them, from NVML and /sys (what ``lscpu`` and
``nvidia-smi topo`` show). A proposal for a person to put into the host profile; nothing uses it by itself.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from tune_mcp.config.lanes import Lane, cpu_list, parse_cpus
from tune_mcp.gpus import Gpu


def propose(
    gpus: Sequence[Gpu],
    per_lane: int = 1,
    cpus: Collection[int] | None = None,
    sys: Path = Path("/sys"),
    proc: Path = Path("/proc"),
) -> tuple[Lane, ...]:
    """Propose as many lanes as there are groups of ``per_lane`` GPUs, each with the same number of whole cores.

    Without GPUs, or with ``per_lane`` 0, one for each NUMA node, or two halves of the only one. ``cpus`` are those that
    this process may use (default: its affinity). None where there would be fewer than two.
    """
    allowed = {*(os.sched_getaffinity(0) if cpus is None else cpus)}
    cores = _cores(allowed, sys)
    if gpus and per_lane:
        places = _beside(gpus, proc, sys)
        groups: list[tuple[str, tuple[int, ...], set[int]]] = []
        for near in dict.fromkeys(places[gpu.index] for gpu in gpus):
            here = [gpu.index for gpu in gpus if places[gpu.index] == near]
            whole = len(here) - len(here) % per_lane
            chunks = [tuple(here[at : at + per_lane]) for at in range(0, whole, per_lane)]
            groups += [(f"gpus-{'-'.join(map(str, chunk))}", chunk, {*near} & allowed or allowed) for chunk in chunks]
    else:
        nodes = [
            found
            for node in sorted((sys / "devices/system/node").glob("node[0-9]*"))
            if (found := _cpus(node / "cpulist") & allowed)
        ]
        groups = [
            (f"cpus-{number}", (), near) for number, near in enumerate(nodes if len(nodes) > 1 else [allowed, allowed])
        ]
    return _shared_out(groups, cores)


def _shared_out(groups: list[tuple[str, tuple[int, ...], set[int]]], cores: list[tuple[int, ...]]) -> tuple[Lane, ...]:
    """Whole cores to each group, from those near it, the same number for all."""
    sharing = {number: sum(near == other for _, _, other in groups) for number, (_, _, near) in enumerate(groups)}
    local = [[core for core in cores if {*core} <= near] for _, _, near in groups]
    each = min((len(found) // sharing[number] for number, found in enumerate(local)), default=0)
    if each == 0 or len(groups) < 2:
        return ()
    lanes: list[Lane] = []
    taken: set[tuple[int, ...]] = set()
    for (name, chunk, _), found in zip(groups, local, strict=True):
        mine = [core for core in found if core not in taken][:each]
        taken.update(mine)
        lanes.append(Lane(name=name, gpus=chunk, cpus=cpu_list(cpu for core in mine for cpu in core)))
    alike = len({len(parse_cpus(lane.cpus or "")) for lane in lanes}) == 1
    return tuple(lanes) if alike else ()


def text(lanes: Sequence[Lane]) -> str:
    """The block for ``hosts/<name>.yaml``."""
    rows = (
        f'  - {{name: {lane.name}, gpus: [{", ".join(map(str, lane.gpus))}], cpus: "{lane.cpus}"}}' for lane in lanes
    )
    return "\n".join(["lanes:", *rows])


def _cores(allowed: Collection[int], sys: Path) -> list[tuple[int, ...]]:
    """The threads of each core of which all may be used, in the order of their numbers."""
    found = dict.fromkeys(
        tuple(sorted(_cpus(sys / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or {cpu}))
        for cpu in sorted(allowed)
    )
    return [core for core in found if {*core} <= {*allowed}]


def _beside(gpus: Sequence[Gpu], proc: Path, sys: Path) -> dict[int, tuple[int, ...]]:
    """GPU index -> the CPUs of its PCI device; nothing where the machine does not say."""
    near: dict[str, tuple[int, ...]] = {}
    for folder in (proc / "driver/nvidia/gpus").glob("*"):
        lines = (line.partition(":") for line in _text(folder / "information").splitlines())
        uuid = next((value.strip() for name, _, value in lines if name.strip() == "GPU UUID"), "")
        near[uuid] = tuple(sorted(_cpus(sys / "bus/pci/devices" / folder.name / "local_cpulist")))
    return {gpu.index: near.get(gpu.uuid, ()) for gpu in gpus}


def _cpus(path: Path) -> set[int]:
    try:
        return {*parse_cpus(_text(path))}
    except ValueError:
        return set()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
