"""The second example: class attributes and a dict by model name, calibrated from what `init` wrote."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import toy

from tune_mcp.config.loader import shipped_place
from tune_mcp.discover.constants import parse_module
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.init import Asked, init
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run

SERVING, ANSWERS = "tests/test_serving.py", "tests/test_answers.py"


@pytest.mark.usefixtures("warm")
def test_the_serving_benchmark_is_calibrated_from_its_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_VENV_PYTHON", sys.executable)
    repo = tmp_path / "serving-bench"
    shutil.copytree(shipped_place() / "examples" / "serving-bench", repo)
    toy.git(repo, "init", "-q", "-b", "main")
    toy.git(repo, "add", "-A")
    toy.git(repo, "commit", "-q", "-m", "example")
    project = toy.open_project(repo)

    proposed = init(project, [], "serving-bench", Asked(run=True))
    assert not proposed.missing, proposed.text()
    run_id = start_run(project, "serving-bench", ("ALL",), 1).run_id
    assert toy.wait_until_rest(project, run_id).strict_complete
    report(project, run_id)
    plan = apply_plan(project, run_id)
    done = apply(project, run_id, plan.plan_id, "smart", otherwise="apply")

    assert set(done.files_changed) >= {SERVING, ANSWERS}
    accuracy = parse_module((repo / ANSWERS).read_bytes(), ANSWERS)
    # Of 50 questions those with a sum that 8 divides are answered wrong, each time the same.
    wrong = sum((a + a + a % 3) % 8 == 0 for a in range(50))
    assert accuracy.find("ACCURACY_MIN['adder-7b']", None).value == (50 - wrong) / 50
    assert accuracy.find("ACCURACY_MIN['adder-70b']", None).value == 0.5
    measured = (
        [
            json.loads((project.run(run_id).observation("serving_speed", repeat)).read_text())["metrics"]
            for repeat in (1,)
        ]
        if (project.run(run_id).path / "serving_speed").exists()
        else []
    )
    serving = parse_module((repo / SERVING).read_bytes(), SERVING)
    lowest = serving.find("TestServing.THROUGHPUT_RPS_MIN", None).value
    assert not measured or lowest <= min(one["throughput_rps"] for one in measured)
    assert lowest > 1.0
