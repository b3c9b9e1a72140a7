"""One cluster for all tests of this folder, started and ended here; a test that breaks a node puts it back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cluster as clusters
import pytest
from calibrations import end_all
from cluster import Cluster

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def site() -> Iterator[Cluster]:
    if why := clusters.missing():
        pytest.skip(f"no Slurm can be started here: {why}")
    clusters.sweep()
    made = clusters.make()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def cluster(site: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster with two idle nodes and nothing queued; whatever a test leaves is ended."""
    for name, value in site.env.items():
        monkeypatch.setenv(name, value)
    paths = [str(HERE / "node_nvml"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    site.fresh()
    yield site
    end_all(tmp_path)
    site.cancel_all()
