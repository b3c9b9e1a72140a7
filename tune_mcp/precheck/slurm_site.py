"""What a Slurm site lacks for runs, as its own commands tell it: nothing is submitted, nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from tune_mcp.config.host import SlurmSettings
from tune_mcp.contract.precheck import Check, check
from tune_mcp.files import read_text
from tune_mcp.precheck.subject import Subject
from tune_mcp.slurm import NotAccepted, Slurm, SlurmNode, Unreachable
from tune_mcp.words import named

_SHARED = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "glusterfs", "fuse.glusterfs", "9p", "virtiofs"}
    | {"wekafs", "panfs", "orangefs", "cvmfs", "afs", "fuse.juicefs", "fuse.sshfs", "cifs", "smb3", "pvfs2"}
)


def of(subject: Subject) -> Iterator[Check]:
    """The checks of a subject whose launches go through Slurm; none for any other."""
    if subject.slurm is not None:
        yield from checks(subject.slurm, subject.repo_root, max(subject.gpus_per_test.values(), default=0))


def checks(settings: SlurmSettings, repo_root: Path, gpus: int, slurm: Slurm | None = None) -> Iterator[Check]:
    """Every need of a run with launches on ``gpus`` GPUs: controller, folder, process tracking, devices, nodes."""
    slurm = slurm or Slurm()
    try:
        found = slurm.configuration()
        nodes = slurm.nodes(settings.partition)
    except (Unreachable, NotAccepted) as error:
        yield check("slurm.controller", "unknown", str(error), "scontrol ping")
        return
    yield check("slurm.controller", "ok", f"{found.get('ClusterName', '?')}, Slurm {found.get('SLURM_VERSION', '?')}")
    yield _folder(repo_root)
    yield _tracking(found.get("ProctrackType", "?"))
    if gpus:
        yield _devices(found.get("ConstrainDevices", "?").lower())
    yield from _nodes(settings, nodes, gpus)


def _folder(repo_root: Path) -> Check:
    kind = file_system(repo_root)
    if kind in _SHARED:
        return check("slurm.folder", "ok", f"{repo_root} lies on {kind}")
    detail = f"{repo_root} lies on {kind or 'an unknown file system'}, which a node may not see: repository, results, "
    detail += "the project's Python and this program must lie under the same paths on every node"
    return check("slurm.folder", "warn", detail, f"srun --nodes=1 ls -d {repo_root}")


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds ``path``."""
    best, kind = "", ""
    try:
        lines = read_text(mounts, "replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        words, place = right.split(), left.split()[4].replace("\\040", " ")
        if words and len(place) >= len(best) and path.is_relative_to(place):
            best, kind = place, words[0]
    return kind


def _tracking(kind: str) -> Check:
    if kind == "proctrack/cgroup":
        return check("slurm.processes", "ok", kind)
    detail = f"ProctrackType is {kind}: a server that detaches itself outlives its job and spoils the next one"
    return check("slurm.processes", "missing", detail, "ask the site for ProctrackType=proctrack/cgroup in slurm.conf")


def _devices(constrained: str) -> Check:
    if constrained == "yes":
        return check("slurm.devices", "ok", "ConstrainDevices=yes")
    detail = f"ConstrainDevices is {constrained}: a job can use GPUs that were not granted to it"
    fix = "ask the site for ConstrainDevices=yes in cgroup.conf and TaskPlugin=task/cgroup in slurm.conf"
    return check("slurm.devices", "warn", detail, fix)


def _nodes(settings: SlurmSettings, nodes: list[SlurmNode], gpus: int) -> Iterator[Check]:
    where = f"partition {settings.partition}" if settings.partition else "the default partition"
    fitting = _fitting(settings, nodes, gpus)
    usable = [node.name for node in fitting if node.in_service]
    if not usable:
        seen = "; ".join(f"{n.name} {n.state} {n.gres} {','.join(n.features)}".rstrip() for n in nodes[:6]) or "no node"
        need = f"{gpus} × {settings.gres}" + (f" and {settings.constraint}" if settings.constraint else "")
        fix = "sinfo -N -o '%N %T %f %G %P'; correct partition, constraint and gres in the host profile"
        yield check("slurm.nodes", "missing", f"none in {where} with {need}: {seen}", fix)
        return
    yield check("slurm.nodes", "ok", f"{len(usable)} in {where}: {named(sorted(usable))}")
    classes = sorted({(",".join(sorted(node.features)), node.gres.partition("(")[0]) for node in fitting})
    if not settings.constraint:
        listed = "; ".join(f"{features or 'no feature'} ({gres})" for features, gres in classes)
        status = "missing" if len(classes) > 1 else "warn"
        detail = f"no constraint, and {where} has {listed}: a run measures on one kind of host"
        fix = "set constraint in the host profile to the feature of one host class (a site gives each class one)"
        yield check("slurm.class", status, detail, fix)
    else:
        yield check("slurm.class", "ok", f"constraint {settings.constraint}")


def no_node(settings: SlurmSettings, nodes: list[SlurmNode], gpus: int, without: Collection[str]) -> str:
    """Why no node can take a job on ``gpus`` GPUs, not even later: all that fit are out of service or ``without`` names
    them. Empty where one can, busy or not, and where nothing is known of the fitting ones.
    """
    fitting = _fitting(settings, nodes, gpus)
    if any(node.in_service and node.name not in without for node in fitting):
        return ""
    return ", ".join(
        f"{node.name} {'was left out after a refusal' if node.name in without else f'is {node.state}'}"
        for node in fitting
    )


def _fitting(settings: SlurmSettings, nodes: list[SlurmNode], gpus: int) -> list[SlurmNode]:
    """The nodes with the wanted features and enough GPUs, whatever their state."""
    wanted = [{*part.split("|")} for part in (settings.constraint or "").split("&") if part]
    fitting = [node for node in nodes if all(part & {*node.features} for part in wanted)]
    return [node for node in fitting if gpus == 0 or _gpus(node, settings.gres) >= gpus]


def _gpus(node: SlurmNode, gres: str) -> int:
    """How many of this kind the node has: ``gpu:h100:8(S:0-1),gpu:a100:2``."""
    total = 0
    for part in node.gres.replace("(null)", "").split(","):
        words = part.partition("(")[0].split(":")
        if words[: gres.count(":") + 1] == gres.split(":") and words[-1].isdigit():
            total += int(words[-1])
    return total
