"""A subject and a Hugging Face cache in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tune_mcp.config.host import HostProfile
from tune_mcp.config.stages import Stage
from tune_mcp.contract.precheck import Check
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.precheck.gates import Probes
from tune_mcp.precheck.imports import Imports
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.precheck.venv import VenvFacts

MIRROR = "https://hf-mirror.com"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def stage(test: str = "tests/test_toy_ci.py", env: Mapping[str, str] | None = None, ids: tuple[str, ...] = ()) -> Stage:
    return Stage(
        key="toy_speed",
        test=test,
        group="speed",
        test_file_sha256="0" * 64,
        metrics={},
        extra_env=dict(env or {}),
        hf_model_ids=ids,
    )


def subject(
    root: Path, needs: Needs | None = None, stages: Iterable[Stage] = (), python: Path | None = None
) -> Subject:
    return Subject(
        repo_root=root,
        model="toy",
        stages=tuple(stages),
        venv_python=python,
        venv_source="a test",
        venv_candidates=(str(root / "venv/bin/python"),),
        host=needs.profile.name if needs and needs.profile else None,
        gpus_per_test={},
        needs=needs or Needs(),
    )


def profile(root: Path, physical: Mapping[str, str], bootstrap: Mapping[str, object] | None = None) -> HostProfile:
    return HostProfile.model_validate(
        {
            "name": "box",
            "hostname": "box",
            "repo_root": str(root),
            "physical": dict(physical),
            "speaker_similarity_bootstrap": {"warm": dict(bootstrap)} if bootstrap else {},
        }
    )


def probes(packages: Mapping[str, str] | None = None) -> Probes:
    """A machine without GPUs whose interpreter answers at once."""
    facts = VenvFacts("", {"python": "3.11.9", "pytest": "9.0.0"}, (), "0" * 64, dict(packages or {}))
    return Probes(lambda: GpuReading(Presence.NONE), lambda _: facts, lambda *_: Imports())


def cached(hub: Path, repo_id: str, files: Mapping[str, str], kind: str = "model", commit: str = COMMIT) -> Path:
    """A repository as huggingface_hub leaves it: blobs, links to them, and the branch; returns its folder."""
    repo = hub / f"{kind}s--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    for number, (name, text) in enumerate(files.items()):
        blob = repo / "blobs" / f"{number:040x}"
        blob.write_text(text)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../" * (2 + name.count("/"))) / "blobs" / blob.name)
    return repo


def index(*shards: str) -> str:
    return json.dumps({"metadata": {}, "weight_map": {f"layer.{n}": shard for n, shard in enumerate(shards)}})


def gaps(checks: Iterable[Check]) -> dict[str, tuple[str, str]]:
    """Id -> (status, fix) of what is neither ok nor a warning."""
    return {check.id: (check.status, check.fix) for check in checks if check.status not in ("ok", "warn")}
