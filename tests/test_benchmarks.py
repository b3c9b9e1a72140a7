"""The benchmarks measure what they say: their large run is a strict one, and a figure over its ceiling is told."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")


def test_the_run_that_readers_are_timed_on_is_strict_from_end_to_end(tmp_path: Path) -> None:
    import reading

    from tune_mcp.calibration import watching
    from tune_mcp.calibration.project import Options, Project

    run = reading.large_run(tmp_path, stages=3, repeats=2)

    assert watching.strict_audit(Project.resolve(Options(repo=tmp_path)), run.run_id).strict_ready == "3/3"
    assert [figure.unit for figure in reading.large(run, "3 × 2")] == ["s", "s", "s", "ms"]
    assert all(figure.held for figure in reading.polled(run))
    assert all(figure.beside > 0 for figure in reading.huge_log(run))


def test_a_figure_over_its_ceiling_is_told_and_fails_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    from figure import Figure, show

    good, bad = (Figure(name, ours, 1.0, "s", "floor", 1.0) for name, ours in (("good", 0.5), ("bad", 1.5)))

    assert (show([good]), show([good, bad]), show([bad], markdown=True)) == (0, 1, 1)
    out = capsys.readouterr().out
    assert out.count("over") == 1 and "| bad | 1.50 s | 1.00 s (floor) | 1.50 | 1.00 |" in out
