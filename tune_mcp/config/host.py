"""``hosts/<name>.yaml`` as data: where a checkout, its Python and its caches are on one machine (rules HST-01..13).

A profile describes the inside of a running container or a plain machine, never how to start one: there is no key for
an image, a volume or a mount, and an unknown key is refused (HST-07).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from tune_mcp.config.fields import AbsolutePath, ConfigModel, Env, Name, Public, wrong
from tune_mcp.config.lanes import CPU_SET_VARIABLE, CpuList, Indices, Lane, Placement, Quiet, of_groups, problem

if TYPE_CHECKING:
    from tune_mcp.config.yaml_source import Yaml  # a plan holds Slurm settings: whoever reads one needs no YAML

IGNORED_KEYS = frozenset({"precheck_checklist", "handoff"})
"""Keys of older profiles: a checklist that precheck now is, and notes of one session."""


class Physical(ConfigModel):
    """Folders on this machine: the Hugging Face home, the speaker-similarity checkpoints, the CI slice."""

    hf_hub: AbsolutePath | None = None
    speaker_sim: AbsolutePath | None = None
    omni_ci_home: AbsolutePath | None = None


class AgentPolicy(ConfigModel):
    """What an agent on this machine keeps to: tell gaps before fixing them, and look at a run this often."""

    env_check: Literal["report_missing_first"] = "report_missing_first"
    poll_interval_max_s: Annotated[int, Field(ge=1, le=120)] = 120


class BootstrapStep(ConfigModel):
    """A command that a person runs once to fill a cache; precheck prints it, nothing runs it."""

    command: Public
    env: Env = Field(default_factory=dict)
    hf_token: str | None = None


def _count_left_away(gres: str) -> str:
    if gres.rpartition(":")[2].isdigit() or "," in gres:
        raise wrong(f"{gres} names a number: say gpu or gpu:<type>, each test has its own number")
    return gres


def _not_ours(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        if not option.startswith("--") or option.partition("=")[0] in _OUR_OPTIONS:
            what = "long options of sbatch, each with its value (--account=asr), but not those that a run sets itself"
            raise wrong(f"{option} cannot be set here: {what}")
    return options


def _stays_in_the_job(words: tuple[str, ...]) -> tuple[str, ...]:
    if words and PurePosixPath(words[0]).name in ("docker", "podman"):
        what = "starts containers outside the job, where Slurm neither confines nor ends them"
        raise wrong(f"{words[0]} {what}: use apptainer exec --nv IMAGE, or srun with pyxis")
    return words


_OUR_OPTIONS = frozenset(
    {
        "--job-name", "--output", "--error", "--open-mode", "--chdir", "--export", "--requeue", "--no-requeue",
        "--array", "--wrap", "--parsable", "--nodes", "--ntasks", "--exclude", "--gres", "--gpus", "--partition",
        "--constraint", "--time", "--exclusive", "--dependency", "--wait", "--test-only", "--nodelist", "--uid",
    }
)  # fmt: skip


class SlurmSettings(ConfigModel):
    """How jobs are handed to Slurm: ``gres`` is ``gpu`` or ``gpu:<type>``, the number is each test's own.

    ``constraint`` names one feature that all nodes of one host class have. ``exclusive``: nobody shares the node's
    CPUs, bus and disk. ``container`` are the words before our Python (``apptainer exec --nv IMAGE``);
    ``options`` are further long options of sbatch (``--account=asr``, ``--cpus-per-task=16``);
    ``jobs`` is how many of a run wait or run at the same time.
    """

    partition: Name | None = None
    constraint: str | None = None
    gres: Annotated[str, Field(pattern=r"^[A-Za-z0-9_:.-]+$"), AfterValidator(_count_left_away)] = "gpu"
    time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] | None = None
    exclusive: bool = False
    container: Annotated[tuple[str, ...], AfterValidator(_stays_in_the_job)] = ()
    options: Annotated[tuple[str, ...], AfterValidator(_not_ours)] = ()
    jobs: Annotated[int, Field(ge=1, le=512)] = 8

    def options_for(self, gpus: int) -> tuple[str, ...]:
        """The options of sbatch for a launch on that many GPUs."""
        named = {"--partition": self.partition, "--constraint": self.constraint, "--time": self.time}
        return (
            *(f"{option}={value}" for option, value in named.items() if value),
            *((f"--gres={self.gres}:{gpus}",) if gpus else ()),
            *(("--exclusive",) if self.exclusive else ()),
            *self.options,
        )


class HostProfile(ConfigModel):
    """One machine, or with ``executor: slurm`` the cluster that is reached from it.

    ``cleanup_command`` is the project's own script that frees the GPUs: a run executes it, in ``repo_root``, before and
    after every launch that uses GPUs, and nothing else ever does. ``allow_mig`` lets a split GPU count like any other.
    ``gpu_memory_unknown: accept`` lets a GPU for which NVML has no memory in use or no list of processes (unified
    memory) count as free as far as what is known of it says so; a run records that.

    ``lanes`` are GPUs and CPUs that belong together; ``gpu_group_cpusets`` writes the same as ``{"0,1": "2-15"}``. A
    launch gets one lane's, and finds its CPUs in ``cpu_set_variable``. ``gpu_include`` are the only GPUs that may be
    used, ``gpu_exclude`` those that never are (CI's own). With ``quiet`` a launch waits until others leave its CPUs
    alone, and what they disturbed is measured again.
    """

    name: Name
    hostname: str
    repo_root: AbsolutePath
    venv_python: AbsolutePath | None = None
    physical: Physical = Field(default_factory=Physical)
    agent_policy: AgentPolicy = Field(default_factory=AgentPolicy)
    speaker_similarity_bootstrap: dict[str, BootstrapStep] = Field(default_factory=dict)
    cleanup_command: tuple[str, ...] = ()
    allow_mig: bool = False
    gpu_memory_unknown: Literal["refuse", "accept"] = "refuse"
    lanes: tuple[Lane, ...] = ()
    gpu_group_cpusets: dict[str, CpuList] = Field(default_factory=dict)
    gpu_include: Indices | None = None
    gpu_exclude: Indices = ()
    quiet: Quiet | None = None
    cpu_set_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = CPU_SET_VARIABLE
    executor: Literal["local", "slurm"] = "local"
    slurm: SlurmSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_keys(cls, value: Yaml) -> Yaml:
        return {k: v for k, v in value.items() if k not in IGNORED_KEYS} if isinstance(value, dict) else value

    @field_validator("cleanup_command")
    @classmethod
    def _whole_cleanup(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """The plain form leaves orphans with 70 GiB and more on the GPU behind."""
        whole = " ".join(value)  # a shell's -c holds it in one word
        if "delete_gpu_process.sh" in whole and "--kill-orphans" not in whole:
            raise ValueError("delete_gpu_process.sh needs --kill-orphans")
        return value

    @model_validator(mode="after")
    def _lanes_apart(self) -> Self:
        if self.lanes and self.gpu_group_cpusets:
            raise wrong("lanes and gpu_group_cpusets say the same thing: keep one of them", "HST-04")
        try:
            what = problem(self.placement().lanes)
        except ValueError as error:
            what = f"gpu_group_cpusets: {error}"
        if what:
            raise wrong(what, "HST-04")
        return self

    @model_validator(mode="after")
    def _one_executor(self) -> Self:
        if self.slurm is not None and self.executor != "slurm":
            raise wrong("slurm: counts only with executor: slurm")
        if self.executor == "slurm" and (self.lanes or self.gpu_group_cpusets or self.gpu_include or self.gpu_exclude):
            raise wrong("with executor: slurm, Slurm grants GPUs and CPUs: take lanes, gpu_include and gpu_exclude out")
        return self

    def cluster(self) -> SlurmSettings | None:
        """How jobs reach Slurm; None where launches run on this machine."""
        return (self.slurm or SlurmSettings()) if self.executor == "slurm" else None

    def placement(self) -> Placement:
        """Where on this machine a launch may run."""
        return Placement(
            include=self.gpu_include,
            exclude=self.gpu_exclude,
            lanes=self.lanes or of_groups(self.gpu_group_cpusets),
            cpu_set_variable=self.cpu_set_variable,
            quiet=self.quiet,
        )

    def env(self) -> dict[str, str]:
        """What the folders mean to a child process (rule HST-04)."""
        pairs = {
            "HF_HOME": self.physical.hf_hub,
            "SEEDTTS_SIM_CACHE_DIR": self.physical.speaker_sim,
            "OMNI_CI_HOME": self.physical.omni_ci_home,
        }
        return {name: path for name, path in pairs.items() if path}
