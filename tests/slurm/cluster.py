"""A real Slurm of two nodes on this machine's loopback: Debian's daemons, a munge of their own, four fake GPUs a node.

A fake GPU is a character device that no driver serves: opening it fails with "no such device" where the devices cgroup
allows it and with "not permitted" where it does not, so tests see what a job was really granted. Everything that is
started is remembered by its pid, and ``stop`` ends that and what is in the cgroups of the nodes, nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from nvml import H20

from tune_mcp.files import write_json

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = tuple(f"node{os.getpid()}x{number}" for number in (1, 2))
"""A name of each node that no other cluster of this machine has: it stands in the paths of its cgroups."""
GPUS = 4
SLURMD_TIMEOUT_S = 10
_MAJOR = 240  # the kernel keeps 240 to 254 for local use
_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("freezer", "devices")


def missing() -> str:
    """Why no cluster can be started here, empty when one can."""
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    lacks = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacks:
        return f"not installed: {', '.join(lacks)} (Debian: slurmctld slurmd slurm-client munge)"
    if gone := [name for name in _CONTROLLERS if not os.access(_CGROUPS / name, os.W_OK)]:
        return f"no cgroup v1 of {', '.join(gone)} that can be written"
    return ""


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(f"{what} took more than {seconds:g} s")
        time.sleep(0.1)


@dataclass
class Cluster:
    """``folder`` holds configuration, state, logs and devices; ``env`` is what a client of this Slurm needs."""

    folder: Path
    accounting: bool = False
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _started: set[str] = field(default_factory=set)

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf), "PATH": _path()}

    @property
    def devices(self) -> dict[str, Path]:
        """Every fake GPU of both nodes, by its name."""
        return {f"gpu{number}": self.folder / f"gpu{number}" for number in range(GPUS * len(NODES))}

    def start(self) -> None:
        for number, device in enumerate(self.devices.values()):
            os.mknod(device, 0o666 | 0o020000, os.makedev(_MAJOR, number))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._write_configuration()
        self._spawn(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.sock",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed", "--num-threads=2",
        )  # fmt: skip
        wait_for((self.folder / "munge.sock").exists, "munged")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: set(self.nodes().values()) == {"idle"}, "two idle nodes")

    def _write_configuration(self) -> None:
        ports = [_free_port() for _ in range(1 + len(NODES))]
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000 "
            f"Gres=gpu:fake:{GPUS} Feature=h100"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        self.conf.write_text(f"""ClusterName=tune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.sock
CryptoType=crypto/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool-%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
ReturnToService=2
SlurmdTimeout={SLURMD_TIMEOUT_S}
MinJobAge=300
KillWait=5
SlurmdParameters=config_overrides
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
""")
        (self.folder / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nCgroupAutomount=no\n"
            "ConstrainDevices=yes\nConstrainCores=no\nConstrainRAMSpace=no\n"
        )
        (self.folder / "gres.conf").write_text(
            "".join(
                f"NodeName={node} Name=gpu Type=fake File={self.folder}/gpu[{at * GPUS}-{at * GPUS + GPUS - 1}]\n"
                for at, node in enumerate(NODES)
            )
        )
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()

    def _spawn(self, *command: str, name: str = "") -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons[name or command[0]] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                start_new_session=True,
                cwd=self.folder,
            )

    # ---- what a test does to it

    def start_controller(self) -> None:
        self._spawn("slurmctld", "-D", "-f", str(self.conf))
        wait_for(lambda: self.asked("scontrol", "ping").find("UP") > 0, "slurmctld")

    def kill_controller(self) -> None:
        self._kill("slurmctld")

    def start_node(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node, "-f", str(self.conf), name=node)

    def switch_off(self, node: str) -> None:
        """As a power cut: its slurmd and everything in its jobs' cgroups are gone at once."""
        self._kill(node)
        for _ in range(20):
            for pid in self.pids(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not self.pids(node):
                return
            time.sleep(0.1)
        raise AssertionError(f"{node} still has {self.pids(node)}")

    def cut_off(self, node: str) -> None:
        """The controller hears nothing of the node any more; what runs there runs on."""
        self._kill(node)

    def _kill(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is not None:
            daemon.kill()
            daemon.wait()

    def gpus(self, node: str, **changes: object) -> None:
        """What NVML says on that node: four idle H20, each changed by ``changes``."""
        found = [
            H20 | {"uuid": f"GPU-{n}", "minor": n, "device": str(self.folder / f"gpu{n}")} | changes
            for n in self.numbers(node)
        ]
        write_json(self.folder / f"nvml-{node}.json", {"gpus": found})

    def numbers(self, node: str) -> range:
        """The fake GPUs of that node."""
        return range(NODES.index(node) * GPUS, (NODES.index(node) + 1) * GPUS)

    def fresh(self) -> None:
        """Everything runs, nothing is queued, every GPU is idle."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        self.cancel_all()
        for node in NODES:
            self.gpus(node)
            if node not in self._daemons:
                self.start_node(node)
            self.asked("scontrol", "update", f"nodename={node}", "state=resume")
        wait_for(lambda: set(self.nodes().values()) == {"idle"}, f"two idle nodes, not {self.nodes()}")
        for node in NODES:
            wait_for(lambda node=node: not self.pids(node), f"the end of all jobs of {node}")

    # ---- what a test asks

    def asked(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.env}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def put_back(self) -> None:
        """As an administrator does with nodes that a new controller has lost sight of."""
        for node, seen in self.nodes().items():
            if seen.startswith(("down", "drain")) or seen.endswith("*"):
                self.asked("scontrol", "reconfigure")
                self.asked("scontrol", "update", f"nodename={node}", "state=resume")

    def nodes(self) -> dict[str, str]:
        lines = self.asked("sinfo", "-h", "-N", "-o", "%N %t").split("\n")
        return dict(line.split() for line in lines if line.startswith(NODES))

    def jobs(self) -> dict[str, str]:
        """State of every job that Slurm still knows, ended ones too, by ``<id> <name>``."""
        lines = self.asked("squeue", "-h", "-t", "all", "-o", "%i %j|%T").splitlines()
        return dict(line.rsplit("|", 1) for line in lines if "|" in line)

    def pids(self, node: str) -> set[int]:
        """Every process in the cgroups of that node's jobs."""
        found: set[int] = set()
        for folder in self._cgroups(node):
            for path in folder.rglob("cgroup.procs"):
                with suppress(OSError):
                    found |= {int(word) for word in path.read_text().split()}
        daemon = self._daemons.get(node)
        return found - ({daemon.pid} if daemon else set())

    def _cgroups(self, node: str) -> Iterator[Path]:
        for controller in _CONTROLLERS:
            for name in (f"slurm_{node}", f"slurm/{node}"):
                if (folder := _CGROUPS / controller / name).is_dir():
                    yield folder

    def cancel_all(self) -> None:
        self.asked("scancel", "--user=root")
        with suppress(AssertionError):
            wait_for(lambda: not self.asked("squeue", "-h"), "the end of all jobs", 30)

    def stop(self) -> None:
        """End the jobs, then the daemons, then whatever is left in the nodes' cgroups, and those cgroups."""
        if "slurmctld" in self._daemons:
            self.cancel_all()
        for node in NODES:
            self.switch_off(node)
        for name in [*self._daemons]:
            self._daemons[name].terminate()
        for name in [*self._daemons]:
            with suppress(subprocess.TimeoutExpired):
                self._daemons[name].wait(10)
            self._kill(name)
        for node in NODES:
            for folder in self._cgroups(node):
                for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                    with suppress(OSError):
                        path.rmdir()
                with suppress(OSError):
                    folder.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep() -> None:
    """End what a test process left that was killed itself: its daemons, jobs and supervisors, by their SLURM_CONF."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found = re.search(r"/slurm-(\d+)-[^/]*/slurm\.conf$", process.environ().get("SLURM_CONF", ""))
            if found and not psutil.pid_exists(int(found[1])):
                process.kill()


def make() -> Cluster:
    """A cluster that is not started yet, in a short folder of its own (a socket's path has 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix=f"slurm-{os.getpid()}-"))
    folder.chmod(0o755)
    return Cluster(folder)
