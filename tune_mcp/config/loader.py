"""Where models and hosts are found: ``--config DIR``, then ``<repo_root>/.tune/``, then the shipped ones.

A later place is read for the names that an earlier one lacks. A model may have a second folder,
``models/<name>@<state>/``, for another state of the repository: it counts where the file or folder that its ``tree``
key names is there.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.actions import Step, call
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_plain

if TYPE_CHECKING:
    from tune_mcp.config.host import HostProfile
    from tune_mcp.config.metrics import MetricRules
    from tune_mcp.config.model import ModelConfig
    from tune_mcp.config.signatures import OwnSignatures
    from tune_mcp.config.stages import StageTable

REPO_PLACE = ".tune"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""How a model and a host profile may be called."""
_TREE = re.compile(rb"^tree: *([A-Za-z0-9_./-]+) *$", re.MULTILINE)


def shipped_place() -> Path:
    """The folder with our own ``models/`` and ``hosts/``: the source tree, or the package that was installed."""
    tree = Path(__file__).parents[2]
    in_source = (tree / "models").is_dir() and (tree / "pyproject.toml").is_file()
    return tree if in_source else Path(__file__).parents[1] / "shipped"


@dataclass(frozen=True)
class ConfigPlaces:
    """Folders with ``models/<name>/{config,stages,metrics,signatures}.yaml`` and ``hosts/<name>.yaml``, best first."""

    places: tuple[Path, ...]
    config_dir: Path | None = None
    repo_root: Path | None = None

    @classmethod
    def resolve(cls, repo_root: Path | None, config_dir: Path | None) -> ConfigPlaces:
        """The places in order. Raises INVALID_CONFIG when ``config_dir`` is not a folder."""
        if config_dir is not None and not config_dir.is_dir():
            raise Refusal(
                Code.INVALID_CONFIG,
                "MOD-02",
                f"the config folder {config_dir} does not exist",
                "give --config a folder that holds models/ or hosts/, or leave it out",
                {"file": str(config_dir), "line": None, "key": "--config"},
            )
        places = [config_dir] if config_dir else []
        if repo_root is not None:
            places.append(repo_root / REPO_PLACE)
        return cls((*places, shipped_place()), config_dir, repo_root)

    def model_names(self) -> list[str]:
        """Every configured model, sorted (rule MOD-01)."""
        found = {path.parent.name for place in self.places for path in place.glob("models/*/config.yaml")}
        return sorted(name for name in found if NAME.fullmatch(name))

    def model(self, name: str) -> ModelConfig:
        """The model's configuration. Raises UNKNOWN_MODEL with near matches, or INVALID_CONFIG."""
        from tune_mcp.config.metrics import load_metric_rules, unknown_names
        from tune_mcp.config.model import ModelConfig
        from tune_mcp.config.yaml_source import read_yaml

        path = self.config_path(name)
        source = read_yaml(path)
        model = source.check(ModelConfig, {"name": name} | source.data)
        if model is not None and model.name != name:
            source.note(("name",), f"must be {name}, the name of its folder, not {model.name}", "MOD-01")
        if model is not None and model.metrics.model_fields_set:
            own = self._of_model(name, "metrics.yaml")
            for key, what in unknown_names(model.metrics, load_metric_rules(own)):
                source.note(("metrics", *key), what, "DSC-16")
        if model is None or source.problems:
            raise source.refusal()
        return model

    def config_path(self, name: str) -> Path:
        """The ``config.yaml`` that counts for ``name``. Raises UNKNOWN_MODEL."""
        return self._folder(self.places[self._model_place(name)], name) / "config.yaml"

    def metric_rules(self, name: str) -> MetricRules:
        """The metric rules for a model: the shipped ones, its metrics.yaml, and ``metrics`` of its config.yaml on top.

        Raises INVALID_CONFIG.
        """
        from tune_mcp.config.metrics import load_metric_rules

        own = self._of_model(name, "metrics.yaml")
        return load_metric_rules(own, self.model(name).metrics)

    def signatures(self, name: str) -> OwnSignatures:
        """What a model adds to the watchdog's signatures and limits. Raises INVALID_CONFIG."""
        from tune_mcp.config.signatures import read_own

        self._model_place(name)
        return read_own(self._of_model(name, "signatures.yaml"))

    def stages(self, name: str) -> StageTable:
        """The model's stages in their order. Raises STAGES_STALE when nobody has discovered them, INVALID_CONFIG."""
        from tune_mcp.config.stages_yaml import load_stages

        # A table behind the place of config.yaml belongs to another config.yaml of the same name.
        path = self._of_model(name, "stages.yaml", self._model_place(name) + 1)
        if path is None:
            raise Refusal(
                Code.STAGES_STALE,
                "DSC-01",
                f"model {name} has no stages.yaml yet",
                Step(call("discover", model=name)),
                {"model": name},
            )
        return load_stages(path)

    def model_files(self, name: str) -> tuple[Path, ...]:
        """The files that say what a run of ``name`` measures: config, metric rules and stages, as far as they exist."""
        place = self._model_place(name) + 1
        files = (("config.yaml", place), ("metrics.yaml", None), ("stages.yaml", place))
        found = (self._of_model(name, file, places) for file, places in files)
        return tuple(path.resolve() for path in found if path)

    def stages_path_for_writing(self, name: str, repo_root: Path) -> Path:
        """Where ``discover`` writes: next to config.yaml when that is yours, else below the repository."""
        place = self.places[self._model_place(name)]
        yours = place == self.config_dir or place.resolve().is_relative_to(repo_root.resolve())
        return (self._folder(place, name) if yours else repo_root / REPO_PLACE / "models" / name) / "stages.yaml"

    def host_names(self) -> list[str]:
        """Every host profile, sorted (rule HST-03)."""
        found = {path.stem for place in self.places for path in place.glob("hosts/*.yaml")}
        return sorted(name for name in found if NAME.fullmatch(name))

    def host(self, name: str) -> HostProfile:
        """One host profile; its name is that of its file. Raises HOST_UNRESOLVED or INVALID_CONFIG."""
        from tune_mcp.config.host import HostProfile
        from tune_mcp.config.yaml_source import read_yaml

        path = self._host_path(name) if NAME.fullmatch(name) else None
        if path is None:
            raise _unknown(Code.HOST_UNRESOLVED, "HST-02", "host profile", name, self.host_names())
        source = read_yaml(path)
        # HST-10: a new profile is a copy with other paths in it, so the file's name is the one that counts.
        host = source.check(HostProfile, source.data | {"name": name})
        if host is None:
            raise source.refusal()
        return host

    def active_host(self, chosen: str | None, hostname: str) -> tuple[HostProfile, str] | None:
        """The profile in force and what chose it: the name given, else the machine's hostname, else none (HST-02).

        A profile that does not hold the hostname anywhere is another machine's: it is not even parsed. Raises
        HOST_UNRESOLVED for an unknown name and for two profiles of one hostname.
        """
        if chosen is not None:
            return self.host(chosen), f"chosen by name: {chosen}"
        perhaps = [name for name in self.host_names() if self._mentions(name, hostname)]
        fitting = [host for host in map(self.host, perhaps) if host.hostname == hostname]
        if len(fitting) > 1:
            names = [host.name for host in fitting]
            raise Refusal(
                Code.HOST_UNRESOLVED,
                "HST-02",
                f"the host profiles {', '.join(names)} all name this machine, {hostname}",
                "choose one with --host",
                {"hostname": hostname, "hosts": [*names]},
            )
        return (fitting[0], f"hostname {hostname}") if fitting else None

    def _mentions(self, name: str, hostname: str) -> bool:
        path = self._host_path(name)
        try:
            data = read_plain(path) if path else b""
        except OSError:
            return True  # whoever reads it in earnest says why it cannot be read
        return hostname.encode() in data or b"\\" in data  # YAML may spell any letter with a backslash

    def located(self, name: str, refusal: Refusal) -> Refusal:
        """A refusal of a key that only shows against the tests, with the file and the line of that key (MOD-02)."""
        from tune_mcp.config.yaml_source import dotted, read_yaml

        key = refusal.details.get("key")
        if refusal.code is not Code.INVALID_CONFIG or "file" in refusal.details or not isinstance(key, str):
            return refusal
        path = self.config_path(name)
        line = next((line for steps, line in read_yaml(path).lines.items() if dotted(steps) == key), 1)
        details = {**refusal.details, "file": str(path), "line": line}
        message = f"{path}:{line}: {key}: {refusal.message}"
        return Refusal(refusal.code, refusal.rules, message, refusal.next, details)

    def _host_path(self, name: str) -> Path | None:
        return _first(place / "hosts" / f"{name}.yaml" for place in self.places)

    def _of_model(self, name: str, file: str, places: int | None = None) -> Path | None:
        return _first(self._folder(place, name) / file for place in self.places[:places])

    def _folder(self, place: Path, name: str) -> Path:
        """The model's folder in ``place``: the first, by name, that is made for this state of the repository."""
        usual = place / "models" / name
        if self.repo_root is not None:
            for folder in sorted(place.glob(f"models/{glob.escape(name)}@*")):
                if (tree := _tree(folder / "config.yaml")) and (self.repo_root / tree).exists():
                    return folder
        return usual

    def _model_place(self, name: str) -> int:
        if NAME.fullmatch(name):
            for index, place in enumerate(self.places):
                if os.path.lexists(self._folder(place, name) / "config.yaml"):
                    return index
        raise _unknown(Code.UNKNOWN_MODEL, "MOD-01", "model", name, self.model_names())


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if os.path.lexists(path)), None)


def _tree(config: Path) -> str:
    """What a state's config.yaml names as ``tree``, a plain path on a line of its own; empty without one."""
    try:
        found = _TREE.search(read_plain(config))
    except OSError:
        return ""
    named = found[1].decode() if found else ""
    return "" if ".." in named.split("/") or named.startswith("/") else named


def _unknown(code: Code, rule: str, kind: str, name: str, known: Sequence[str]) -> Refusal:
    import difflib  # only a wrong name waits for it

    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"name {' or '.join(near)}" if near else f"name one of: {', '.join(known)}"
    if code is Code.UNKNOWN_MODEL and not near:
        hint += "; for tests that no model covers: tune-mcp init --model NAME --run"
    return Refusal(
        code,
        rule,
        f"there is no {kind} {name!r}",
        hint if known else f"add a {kind} file to the config folder",
        {kind.partition(" ")[0]: name, "near": [*near], "known": [*known]},
    )
