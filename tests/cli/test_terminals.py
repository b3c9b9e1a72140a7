"""A terminal that cannot encode our signs gets others, never a traceback; the exit code stays right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8"])
def test_every_terminal_shows_a_matrix_whose_cells_can_be_told_apart(encoding: str, tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "répo")
    run = toy.finished_run(project)
    run.observation("toy_speed", 2).unlink()

    def tune(*words: str) -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-m", "tune_mcp", *words, "--repo", str(project.repo_root)]
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        return subprocess.run(line, env=env, capture_output=True, timeout=60, check=False)

    audit = tune("audit", run.run_id)
    status = tune("status", run.run_id)
    as_json = tune("audit", run.run_id, "--json")
    refused = tune("audit", "nope-✓")

    assert (audit.returncode, status.returncode, refused.returncode) == (1, 1, 2)
    text = audit.stdout.decode(encoding)
    cells = {"gbk": "v—", "ascii": "v-", "utf-8": "✓—"}[encoding]
    assert f"toy_speed: {cells} (1/2 strict, expected=4)" in text
    assert "Traceback" not in (audit.stderr + status.stderr + refused.stderr).decode(encoding)
    assert refused.stderr.decode(encoding).startswith("UNKNOWN_RUN")
    assert [one["cells"] for one in json.loads(as_json.stdout)["stages"]] == ["✓✓", "✓—"]
