"""The fake omni repository on a machine of its own: ``omni_repo/`` in a temporary folder, under the shipped models.

What its tests write has the folders, keys, types and sizes of what the real suite writes, its servers print and fail
as the real ones do, and the shipped ``config.yaml`` files run on it unchanged but for the place of ``/github/home``.
Its numbers are made up, and noisy: a test computes what is right from the files that were left.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml

from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Options, Project

SOURCE = Path(__file__).with_name("omni_repo")
AUGUST = Path(__file__).with_name("omni_august")
"""What the repository had more in August 2026: meetings, two recognisers, and serving under load."""
SHIPPED = Path(__file__).parents[1] / "models"
HOSTS = SHIPPED.with_name("hosts")
REVISION = "0123456789abcdef0123456789abcdef01234567"
HOST = "box"
Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Machine:
    """``root`` holds the repository, ``github/home`` and the environment of the suite."""

    root: Path
    orphan: str
    """What the repository's own cleanup kills by name; no other process of this machine is called so."""

    @property
    def repo(self) -> Path:
        return self.root / "omni"

    @property
    def home(self) -> Path:
        return self.root / "github/home"

    @property
    def python(self) -> Path:
        return self.root / "venv/bin/python"

    def trouble(self, *names: str) -> None:
        """The next process that would meet one of these meets it, once; see ``sglang_omni/trouble.py``."""
        folder = self.home.parent / "trouble"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).touch()

    def met(self) -> set[str]:
        """The troubles that somebody met."""
        return {path.stem for path in (self.home.parent / "trouble").glob("*.met")}

    def project(self) -> Project:
        return Project.resolve(Options(repo=self.repo, host=HOST))


def make(
    root: Path,
    models: Sequence[str] = ("tts",),
    change: Change | None = None,
    *,
    august: bool = False,
    lanes: Sequence[dict[str, Any]] | None = None,
) -> Machine:
    """Repository, environment and caches; ``models`` are discovered and part of the one commit.

    ``change`` may alter each shipped configuration; ``without_gpus`` is one that does. ``august``: the state of
    August, on a machine with ``lanes``, or with one for a CPU.
    """
    machine = Machine(root, f"omni-orphan-{uuid.uuid4().hex}")
    for source in (SOURCE, *([AUGUST] if august else [])):
        shutil.copytree(source, machine.repo, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (machine.repo / "gitignore.txt").rename(machine.repo / ".gitignore")
    for path in (*machine.repo.glob(".github/scripts/*"), machine.repo / "pyproject.toml"):
        text = path.read_text().replace("@HERE@", str(root)).replace("@ORPHAN@", machine.orphan)
        path.write_text(text.replace("@PYTEST@", pytest.__version__))
    make_environment(machine)
    make_caches(machine, models)
    toy.git(machine.repo, "init", "-q", "-b", "main")
    (machine.repo / ".tune/hosts").mkdir(parents=True)
    profile: dict[str, Any] = {
        "hostname": "nobody-is-called-so",
        "repo_root": str(machine.repo),
        "venv_python": str(machine.python),
        "physical": {"hf_hub": str(machine.home / ".cache/huggingface"), "omni_ci_home": str(machine.home / "slice")},
    }
    if august:
        profile["lanes"] = lanes or [{"name": "cpu", "cpus": str(min(os.sched_getaffinity(0)))}]
    (machine.repo / f".tune/hosts/{HOST}.yaml").write_text(yaml.safe_dump(profile))
    project = machine.project()
    for model in models:
        name = model.partition("@")[0]
        path = machine.repo / f".tune/models/{name}/config.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(shipped(machine, model, change))
        found = discover(project, name, with_coverage=False)
        assert found.needs_config == found.collisions == (), found.text()
    toy.commit(project, "omni")
    return machine


def shipped(machine: Machine, model: str, change: Change | None = None) -> str:
    """The model's own configuration, for this machine."""
    text = (SHIPPED / model / "config.yaml").read_text().replace("/github/home", str(machine.home))
    if change is None:
        return text
    document = yaml.safe_load(text)
    change(document)
    return yaml.safe_dump(document, sort_keys=False)


def without_gpus(config: dict[str, Any]) -> None:
    """No test needs a card, its pytest loads fewer plugins, and nothing is compared with CI's machine."""
    with_fewer_plugins(config)
    config["gpus_per_test"] = dict.fromkeys(config["gpus_per_test"], 0)
    for source in config["metric_sources"].values():
        for preset in source.get("calibration_presets", {}).values():
            preset["gpus"] = 0
    config.pop("ci_machine")


def with_fewer_plugins(config: dict[str, Any]) -> None:
    """The pytest of each test loads none that it has no use for."""
    more = config.setdefault("pytest_extra_args", {})
    more |= {test: [*more.get(test, ()), *toy.FEWER_PLUGINS] for test in config["gpus_per_test"]}


def make_environment(machine: Machine) -> None:
    """A virtual environment that has what ours has, stand-ins for the large packages, and the console script."""
    here = machine.root / "venv"
    site = here / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site.mkdir(parents=True)
    (here / "bin").mkdir()
    base = Path(os.path.realpath(sys.executable))
    (here / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    machine.python.symlink_to(base)
    (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{toy.SOURCE_ROOT}\n")
    for name, text in {"torch": "class version:\n    cuda = '13.0'\n", "flashinfer": "", "sglang": ""}.items():
        (site / f"{name}.py").write_text(f"__version__ = '1.0'\n{text}")
    script = here / "bin/sgl-omni"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = serve ] || exit 2\nshift\nexec {machine.python} -S -m sglang_omni.serve "$@"\n'
    )
    script.chmod(0o755)


def make_caches(machine: Machine, models: Sequence[str]) -> None:
    """Weights and data sets as the hub's library keeps them, and kernels that an earlier job left."""
    hub = machine.home / ".cache/huggingface/hub"
    for model in models:
        config = yaml.safe_load((SHIPPED / model / "config.yaml").read_text())
        by_test = config.get("hf_model_ids_by_test", {}).values()
        named = {config["hf_model_id"], *(name for names in by_test for name in names)}
        wanted = {f"models--{name}": "model.safetensors" for name in named}
        wanted |= {f"datasets--{name}": "data.arrow" for name in config["hf_datasets"]}
        for name, file in wanted.items():
            repo = hub / name.replace("/", "--")
            if not repo.exists():
                (repo / f"snapshots/{REVISION}").mkdir(parents=True)
                (repo / f"snapshots/{REVISION}/{file}").write_text("weights")
                (repo / "refs").mkdir()
                (repo / "refs/main").write_text(REVISION)
        for name in (one["path"] for one in config.get("required_files", [])):
            if name.startswith("$HF_HOME/hub/"):
                path = hub / name.removeprefix("$HF_HOME/hub/")
                path.parent.mkdir(parents=True)
                path.write_text("a line")
    speaker = machine.home / "seedtts-wavlm-sim"
    speaker.mkdir(parents=True)
    utmos = machine.home / ".cache/sglang-omni/utmos"
    utmos.mkdir(parents=True)
    (speaker / ".complete").touch()
    (utmos / ".utmos_cache.json").write_text("{}")
    for path in (speaker / "wavlm_large.pt", speaker / "wavlm_large_finetune.pth", utmos / "utmos.jit"):
        path.touch()
        os.truncate(path, 110 * 2**20)  # as long as the real ones have to be, and no block on the disk
    for folder in (machine.home / ".cache/flashinfer", machine.home / "slice/.cache/flashinfer"):
        folder.mkdir(parents=True)
        (folder / "stale.so").write_text("of another job")
