"""Slurm through its plain command line: sbatch, squeue, scancel, and what scontrol and sinfo say of the site.

Text formats only: the JSON of squeue is versioned. sacct is not asked, because many sites have no accounting; what
Slurm has forgotten is read from the result directory. A job is known by its name and its folder, never by Slurm's id:
a controller that is killed at the wrong moment hands ids out twice.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 30.0
"""A command that takes longer is given up: the controller is busy or gone, and nothing is known."""
_ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED"}
    | {"PREEMPTED"}
)
_IN_SERVICE = frozenset({"idle", "mixed", "allocated", "completing", "reserved", "planned", "blocked"})
_SILENT = "*"
_MARKS = f"{_SILENT}~#!%$@^-+"
"""Signs behind a node's state: powered down, planned, about to be rebooted, ..."""
_FORMAT = "%i|%T|%N|%r|%j|%Z"
_AT_ONCE = 100
_UNREACHABLE = re.compile(
    r"Unable to contact|Connection (refused|timed out|reset)|Socket timed out|slurm_load|Zero Bytes|"
    r"Communication connection failure|Message (send|receive) failure|Protocol authentication|Resource temporarily",
    re.IGNORECASE,
)


class Unreachable(Exception):
    """Slurm gave no answer: nothing is known, and nothing follows from it."""


class NotAccepted(Exception):
    """Slurm answered with a refusal."""


@dataclass(frozen=True)
class QueuedJob:
    """What squeue says of one job: Slurm's id, its state and the reason for it, its node, our name for it."""

    number: str
    state: str
    node: str
    reason: str
    name: str
    folder: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.state in _ENDED

    @property
    def started(self) -> bool:
        """Whether it has a node."""
        return not self.ended and self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class SlurmNode:
    """What sinfo says of one node: its state with its marks, its features, its generic resources."""

    name: str
    state: str
    features: tuple[str, ...]
    gres: str

    @property
    def in_service(self) -> bool:
        """Whether it takes jobs, now or when it is no longer busy: not down, drained or silent."""
        return self.state.rstrip(_MARKS) in _IN_SERVICE and _SILENT not in self.state


@dataclass(frozen=True)
class Order:
    """A job to be submitted: ``script`` is started in ``folder``, and what it prints goes to ``log``."""

    name: str
    script: Path
    folder: Path
    log: Path
    options: tuple[str, ...] = ()
    without_nodes: tuple[str, ...] = ()


Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


def run_command(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """One command in plain English, without our own settings of Slurm's programs (``SBATCH_EXCLUSIVE``, ...)."""
    foreign = ("SBATCH_", "SQUEUE_", "SCANCEL_", "SINFO_", "SLURM_JOB", "SLURM_GPUS", "SLURM_MEM", "SLURM_CPUS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        env={**env, "LC_ALL": "C"},
    )


@dataclass(frozen=True)
class Slurm:
    """The commands, as the calling user. Each raises ``Unreachable`` or ``NotAccepted``."""

    run: Run = run_command

    def jobs(self, names: Iterable[str]) -> list[QueuedJob]:
        """Every job of that name that Slurm knows, ended ones too as long as it remembers them."""
        found: list[QueuedJob] = []
        wanted = [*dict.fromkeys(names)]
        for at in range(0, len(wanted), _AT_ONCE):
            part = ",".join(wanted[at : at + _AT_ONCE])
            text = self._asked("squeue", "-h", "-t", "all", _user(), f"--name={part}", "-o", _FORMAT)
            found += [QueuedJob(*line.split("|", 5)) for line in text.splitlines() if line.count("|") >= 5]
        return [job for job in found if job.name in wanted]

    def submit(self, order: Order) -> str:
        """Hand the job in; returns Slurm's id. Whoever gets ``Unreachable`` looks it up: it may be accepted."""
        excluded = [f"--exclude={','.join(order.without_nodes)}"] if order.without_nodes else []
        return self._asked(
            "sbatch", "--parsable", "--export=NONE", "--no-requeue", "--nodes=1", "--ntasks=1",
            f"--job-name={order.name}", f"--chdir={order.folder}", f"--output={order.log}", "--open-mode=append",
            *excluded, *order.options, str(order.script),
        ).partition(";")[0].strip()  # fmt: skip

    def cancel(self, names: Sequence[str], *options: str) -> None:
        """End the jobs of these names, wherever they are; ``options`` narrow that (a state, a signal)."""
        for name in names:
            self._asked("scancel", _user(), f"--name={name}", *options)

    def configuration(self) -> Mapping[str, str]:
        """What ``scontrol show config`` says, slurm.conf and cgroup.conf alike."""
        lines = (line.partition("=") for line in self._asked("scontrol", "show", "config").splitlines())
        return {name.strip(): value.strip() for name, found, value in lines if found}

    def nodes(self, partition: str | None) -> list[SlurmNode]:
        """The nodes of the partition, or of the default one."""
        chosen = [f"--partition={partition}"] if partition else []
        text = self._asked("sinfo", "-h", "-N", *chosen, "-o", "%N|%T|%f|%G|%P")
        rows = [line.split("|", 4) for line in text.splitlines() if line.count("|") >= 4]
        mine = [row for row in rows if partition or row[4].endswith("*")]
        return [SlurmNode(row[0], row[1], _listed(row[2]), row[3]) for row in mine]

    def _asked(self, *words: str) -> str:
        try:
            done = self.run(words, DEADLINE_S)
        except FileNotFoundError as error:
            raise NotAccepted(f"{words[0]} is not installed here") from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{words[0]} gave no answer within {DEADLINE_S:g} s") from error
        if done.returncode == 0:
            return done.stdout
        error = " ".join(done.stderr.split())[-400:] or f"exit code {done.returncode}"
        if _UNREACHABLE.search(error) or done.returncode < 0:
            raise Unreachable(f"{words[0]}: {error}")
        raise NotAccepted(f"{words[0]}: {error}")


def _user() -> str:
    return f"--user={os.getuid()}"


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part and part != "(null)")
