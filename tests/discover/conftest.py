"""A small repository with test files and a model, discovered on request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.config.metrics import load_metric_rules
from tune_mcp.config.model import ModelConfig
from tune_mcp.config.stages import StageTable
from tune_mcp.config.yaml_source import read_yaml
from tune_mcp.discover.stages import Discovery, discover

NOON = datetime(2026, 4, 23, 12, tzinfo=UTC)


@dataclass
class Project:
    """``write`` files, then ``discover`` them with the config's text (globs and sources are given, names default)."""

    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def model(self, sources: str = "metric_sources: {}", more: str = "") -> ModelConfig:
        path = self.root / "config.yaml"
        globs = "" if "test_globs" in more else 'test_globs: ["tests/test_*_ci.py"]\n'
        strip = "stage_base_strip_prefix: test_\nstage_base_strip_suffix: _ci\n"
        path.write_text(f"name: m\n{globs}{strip}{more}\n{sources}\n")
        source = read_yaml(path)
        model = source.check(ModelConfig, source.data)
        if model is None:
            raise source.refusal()
        return model

    def discover(
        self,
        sources: str = "metric_sources: {}",
        more: str = "",
        *,
        metrics: str = "",
        previous: StageTable | None = None,
        now: datetime = NOON,
    ) -> Discovery:
        path = self.root / "metrics.yaml"
        path.write_text(metrics)
        rules = load_metric_rules(path if metrics else None)
        return discover(self.model(sources, more), rules, self.root, previous, now)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "repo"
    root.mkdir()
    return Project(root)
