"""What is checked: a model's selected stages on this machine, and what they ask of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tune_mcp.config.fields import CiMachine
from tune_mcp.config.host import BootstrapStep, HostProfile, SlurmSettings
from tune_mcp.config.lanes import Placement
from tune_mcp.config.model import ModelConfig, RequiredFile
from tune_mcp.config.stages import Stage
from tune_mcp.session.plan import LaunchSettings

if TYPE_CHECKING:
    from tune_mcp.config.metrics import MetricRules
    from tune_mcp.config.stages import StageTable


SLICE = "OMNI_CI_HOME"
"""The variable that names the slice: the folder below which one job's caches lie."""


def quoted(word: object) -> str:
    """A path or a word as a shell takes it."""
    return shlex.quote(str(word))


@dataclass(frozen=True)
class Needs:
    """``env`` is what every launch gets: the model's ``auto_env`` with the host's folders on top (HST-04, ENV-10).

    ``model_ids`` and ``datasets`` are those of the selected stages, ``test_globs`` the model's. ``speaker_sim``:
    whether they load the checkpoints of speaker similarity, None where config does not say; ``lane``: whether they must
    have one. ``imports`` are the modules to load, None for the repository's own package. ``unread`` says why the data
    sets are not known.
    ``files``, ``scripts``, ``hf_files``, ``extras`` and ``optional`` are the model's keys ``required_files`` (for the
    selected test files), ``console_scripts``, ``hf_files``, ``dependency_extras`` and ``optional_dependencies``.
    """

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    model_ids: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    test_globs: tuple[str, ...] = ()
    profile: HostProfile | None = None
    unread: str = ""
    imports: tuple[str, ...] | None = None
    ci_machine: CiMachine = field(default_factory=CiMachine)
    ci_env_file: str | None = None
    files: tuple[RequiredFile, ...] = ()
    scripts: tuple[str, ...] = ()
    hf_files: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    extras: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    speaker_sim: bool | None = None
    lane: bool = False

    @classmethod
    def of(cls, model: ModelConfig, host: HostProfile | None, stages: Iterable[Stage]) -> Needs:
        """From the configuration as it stands."""
        stages = tuple(stages)
        tests = {PurePosixPath(stage.test).name for stage in stages}
        return cls(
            env=launch_settings(model, host),
            model_ids=_unique(
                name
                for stage in stages
                for name in stage.hf_model_ids
                or model.model_ids(PurePosixPath(stage.test).name, stage.calibration_preset)
            ),
            datasets=_unique(name for test in sorted(tests) or ("",) for name in model.datasets(test)),
            test_globs=model.test_globs,
            profile=host,
            imports=model.venv_imports,
            ci_machine=model.ci_machine,
            ci_env_file=model.ci_env_file,
            files=tuple(one for one in model.required_files if not one.tests or tests.intersection(one.tests)),
            scripts=model.console_scripts,
            hf_files=model.hf_files,
            extras=model.dependency_extras,
            optional=model.optional_dependencies,
            speaker_sim=model.speaker_sim(tests),
            lane=model.needs_lane,
        )

    @classmethod
    def of_plan(cls, settings: LaunchSettings, stages: Iterable[Stage], unread: str) -> Needs:
        """From a plan alone, whose stages name their weights but whose model nobody can read any more."""
        return cls(
            env=settings.env,
            model_ids=_unique(name for stage in stages for name in stage.hf_model_ids),
            unread=unread,
            imports=settings.venv_imports,
            ci_machine=settings.ci_machine,
        )

    def bootstrap(self) -> BootstrapStep | None:
        """The host's command that fills the speaker-similarity folder."""
        steps = self.profile.speaker_similarity_bootstrap if self.profile else {}
        return next(iter(steps.values()), None)

    def hub(self) -> Path:
        """The Hugging Face cache that a launch reads, by that library's own order of variables."""
        named = self.env.get("HF_HUB_CACHE") or self.env.get("HUGGINGFACE_HUB_CACHE")
        return Path(named) if named else self.hf_home() / "hub"

    def hf_home(self) -> Path:
        """HF_HOME of a launch; a host profile's ``physical.hf_hub`` has replaced the model's already."""
        if "HF_HOME" in self.env:
            return Path(self.env["HF_HOME"])
        cache = self.env.get("XDG_CACHE_HOME")
        home = Path(self.env["HOME"]) if "HOME" in self.env else Path.home()
        return (Path(cache) if cache else home / ".cache") / "huggingface"


def launch_settings(model: ModelConfig, host: HostProfile | None) -> dict[str, str]:
    """The variables that the model and the host add to every launch.

    A host with a slice of its own moves the model's with all that lies in it: no cache stays in another one (ENV-14).
    """
    ours = {**({SLICE: model.omni_ci_home} if model.omni_ci_home else {}), **model.auto_env}
    theirs = host.env() if host else {}
    if SLICE in ours and SLICE in theirs:
        old, new = PurePosixPath(ours[SLICE]), PurePosixPath(theirs[SLICE])
        ours = {name: _moved(value, old, new) for name, value in ours.items()}
    return {**ours, **theirs}


def _moved(value: str, old: PurePosixPath, new: PurePosixPath) -> str:
    path = PurePosixPath(value)
    inside = len(old.parts) > 1 and path.is_absolute() and path.is_relative_to(old)
    return str(new / path.relative_to(old)) if inside else value


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Subject:
    """A model's selected stages on this machine: where the repository and its interpreter are, and what they need.

    ``gpus_per_test`` maps a test key to the GPUs that one launch of it needs; ``allow_mig`` lets split ones count,
    ``placement`` says which GPUs and lanes of the host may be used; with ``slurm`` launches run on other machines, and
    only what those share with this one is looked at here;
    ``gpus_by_default`` are the test files of which no config says how many, so that one is assumed. ``needs`` is the
    rest that they ask of the machine. ``catalogue`` is what their table was
    discovered by, and the table; None where it is fixed already: in a run that was planned.
    """

    repo_root: Path
    model: str
    stages: tuple[Stage, ...]
    venv_python: Path | None
    venv_source: str
    venv_candidates: tuple[str, ...]
    host: str | None
    gpus_per_test: dict[str, int]
    allow_mig: bool = False
    placement: Placement = field(default_factory=Placement)
    slurm: SlurmSettings | None = None
    gpus_by_default: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    catalogue: tuple[ModelConfig, MetricRules, StageTable] | None = None
