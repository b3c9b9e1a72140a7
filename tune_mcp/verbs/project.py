"""Which repository, which host, which interpreter: resolved once for each call, in a fixed order."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp import run_dir
from tune_mcp.actions import Step, call
from tune_mcp.config.lanes import Placement
from tune_mcp.config.loader import REPO_PLACE, ConfigPlaces
from tune_mcp.contract.options import Options
from tune_mcp.errors import Code, Refusal
from tune_mcp.run_dir import RunDir
from tune_mcp.session import provenance

if TYPE_CHECKING:
    from tune_mcp.config.host import HostProfile, SlurmSettings
    from tune_mcp.config.model import ModelConfig
    from tune_mcp.config.stages import Stage
    from tune_mcp.precheck.subject import Subject
    from tune_mcp.session.events import Ledger
    from tune_mcp.session.plan import OlderCatalogue, Plan

DEFAULT_GPUS = 1
"""GPUs of a test whose configuration does not say; a test on the CPU says 0."""


@dataclass(frozen=True)
class Interpreter:
    """The project's Python, where it was named, and every candidate when none exists."""

    path: Path | None
    source: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Project:
    """A repository on this machine with its configuration; everything a verb needs to start from."""

    repo_root: Path
    options: Options
    places: ConfigPlaces
    host: HostProfile | None
    host_source: str
    env: Mapping[str, str] = field(repr=False)

    @classmethod
    def resolve(cls, options: Options, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Project:
        """Find repository and host. Raises OUTSIDE_REPO, HOST_UNRESOLVED, INVALID_CONFIG."""
        env = os.environ if env is None else env
        here = cwd or Path.cwd()
        in_env = env.get("TUNE_REPO_ROOT")
        named = options.repo or (Path(in_env) if in_env else None)
        top = None if named else provenance.top_level(here)
        host = ConfigPlaces.resolve(named or top, options.config).active_host(
            options.host or env.get("TUNE_HOST"), hostname()
        )
        profile = host[0] if host else None
        root = named or (Path(profile.repo_root) if profile else None) or top
        if root is None:
            raise Refusal(
                Code.OUTSIDE_REPO,
                "HST-04",
                f"{here} is not inside a git repository and none was named",
                "start tune-mcp in the repository, or give --repo or TUNE_REPO_ROOT",
                {"cwd": str(here)},
            )
        root = (here / root).resolve()
        if not root.is_dir():
            raise Refusal(
                Code.OUTSIDE_REPO,
                "HST-04",
                f"the repository {root} does not exist",
                "name an existing repository with --repo, TUNE_REPO_ROOT or the host profile",
                {"repo_root": str(root)},
            )
        return cls(root, options, ConfigPlaces.resolve(root, options.config), profile, host[1] if host else "", env)

    @property
    def placement(self) -> Placement:
        """Where on this machine a launch may run."""
        return self.host.placement() if self.host else Placement()

    @property
    def cluster(self) -> SlurmSettings | None:
        """How jobs reach Slurm; None where launches run on this machine."""
        return self.host.cluster() if self.host else None

    @property
    def accepts_unknown_gpus(self) -> bool:
        """Whether a GPU whose memory or processes NVML does not know may count as free."""
        return self.host is not None and self.host.gpu_memory_unknown == "accept"

    def run(self, run_id: str) -> RunDir:
        """The run of that name. Raises UNKNOWN_RUN."""
        return run_dir.find(self.repo_root, run_id)

    def plan(self, run: RunDir, ledger: Ledger | None = None) -> Plan:
        """The run's plan, checked against its ledger; an older run takes its catalogue from the present config."""
        from tune_mcp.session import plan as plans

        return plans.load(run, self._older_catalogue, ledger)

    def _older_catalogue(self, model: str) -> OlderCatalogue:
        table = self.places.stages(model)
        rules = self.places.metric_rules(model)
        return table, {stage.group: rules.policy(stage.group) for stage in table.values()}

    def interpreter(self, model: ModelConfig) -> Interpreter:
        """``--venv-python``, $TUNE_VENV_PYTHON, the host profile, the first of the model's that exists."""
        named = (
            (self.options.venv_python, "--venv-python"),
            (self.env.get("TUNE_VENV_PYTHON"), "TUNE_VENV_PYTHON"),
            (str(self.host.venv_python) if self.host and self.host.venv_python else None, "the host profile"),
        )
        for value, source in named:
            if value:
                path = self.repo_root / value
                return Interpreter(path if path.exists() else None, source, (str(path),))
        candidates = model.venv_pythons(self.repo_root)
        found = next((path for path in candidates if path.exists()), None)
        return Interpreter(found, "default_venv_python", tuple(str(path) for path in candidates))

    def subject(self, model: ModelConfig, stages: tuple[Stage, ...]) -> Subject:
        """What precheck looks at."""
        from tune_mcp.precheck.subject import Needs, Subject

        python = self.interpreter(model)
        return Subject(
            repo_root=self.repo_root,
            model=model.name,
            stages=stages,
            venv_python=python.path,
            venv_source=python.source,
            venv_candidates=python.candidates,
            host=self.host.name if self.host else None,
            gpus_per_test=gpus_per_test(model, stages),
            allow_mig=self.host.allow_mig if self.host else False,
            placement=self.placement,
            slurm=self.cluster,
            gpus_by_default=gpus_by_default(model, stages),
            needs=Needs.of(model, self.host, stages),
            catalogue=(model, self.places.metric_rules(model.name), self.places.stages(model.name)),
        )


def hostname() -> str:
    """This machine's name, without importing sockets for it."""
    return os.uname().nodename


def gpus_per_test(model: ModelConfig, stages: tuple[Stage, ...]) -> dict[str, int]:
    """Test key -> GPUs that one launch needs: the stage's own number, the model's, else one (GPU-19)."""
    needs: dict[str, int] = {}
    for stage in stages:
        file = stage.test.rpartition("/")[2]
        own = stage.gpus if stage.gpus is not None else model.gpus_per_test.get(file, DEFAULT_GPUS)
        needs[stage.test_key] = max(own, needs.get(stage.test_key, 0))
    return needs


def gpus_by_default(model: ModelConfig, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """The test files of which neither a stage nor the model says how many GPUs a launch needs."""
    files = {stage.test.rpartition("/")[2] for stage in stages if stage.gpus is None}
    return tuple(sorted(files - model.gpus_per_test.keys()))


def recorded_in(project: Project) -> str | None:
    """What a plan keeps: the folder of ``--config``; None for the repository's own and what ships."""
    asked = project.options.config
    if asked is None or asked.resolve() == (project.repo_root / REPO_PLACE).resolve():
        return None
    return str(asked.resolve())


def as_planned(project: Project, plan: Plan) -> Project:
    """The project with the configuration of the run. Raises INVALID_ARGUMENT where another place was named.

    Who names none gets the recorded one. Raises INVALID_CONFIG when that is gone.
    """
    recorded = plan.config_dir
    if recorded == recorded_in(project):
        return project
    if project.options.config is not None:
        asked = project.options.config.resolve()
        place = recorded or f"the repository ({REPO_PLACE}/ and the shipped models)"
        flag = f"--config {shlex.quote(recorded)}" if recorded else "(without --config)"
        raise Refusal(
            Code.INVALID_ARGUMENT,
            "RES-01",
            f"{plan.run_id} was planned with the configuration of {place}, not of {asked}",
            f"tune-mcp resume {plan.run_id} --repo {shlex.quote(str(project.repo_root))} {flag}; a server is started "
            "with the same --config, or without one",
            {"argument": "--config", "recorded": recorded, "asked": str(asked)},
        )
    if recorded is None or not Path(recorded).is_dir():
        raise Refusal(
            Code.INVALID_CONFIG,
            "RES-01",
            f"{plan.run_id} was planned with the configuration of {recorded}, and that folder is gone",
            Step("put the folder back, or start a new run: ", call("start_run", model=plan.model)),
            {"file": recorded, "line": None, "key": "--config"},
        )
    options = replace(project.options, repo=project.repo_root, config=Path(recorded))
    return Project.resolve(options, project.env, project.repo_root)
