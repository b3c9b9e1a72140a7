"""The shipped example is what its committed catalogue says."""

from __future__ import annotations

import shutil
from pathlib import Path

import toy

from tune_mcp.config.loader import shipped_place
from tune_mcp.discover.assertions import AssertionReader, Unread
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.discover import discover


def test_the_example_needs_no_discover_before_its_first_run(tmp_path: Path) -> None:
    repo = tmp_path / "speech-ci"
    shutil.copytree(shipped_place() / "examples" / "speech-ci", repo)
    toy.git(repo, "init", "-q")
    project = toy.open_project(repo)

    found = discover(project, "speech-ci")

    assert (found.written, found.added, found.changed, found.removed) == (False, (), (), ())
    assert found.needs_config == found.problems == found.collisions == ()
    assert len(found.stages) == 7
    assert not any(stage.stale for stage in catalog(project, "speech-ci").stages)


def test_every_assertion_of_the_example_is_read_also_through_its_package(tmp_path: Path) -> None:
    repo = tmp_path / "speech-ci"
    shutil.copytree(shipped_place() / "examples" / "speech-ci", repo)
    toy.git(repo, "init", "-q")
    reader = AssertionReader(repo)
    stages = toy.open_project(repo).places.stages("speech-ci").values()

    unread = [
        f"{metric.source}: {gate.reason}"
        for stage in stages
        for metric in stage.metrics.values()
        if isinstance(
            gate := reader.gate(stage.test, stage.threshold_path, metric.source, None, stage.extra_env), Unread
        )
    ]

    assert unread == []
