"""The pytest command line: always whole files, never an early exit (rules XPY-01, XPY-03, MET-01, SUP-03)."""

from __future__ import annotations

from pathlib import Path

from tune_mcp.supervise.job import Job


def pytest_argv(job: Job, basetemp: Path) -> list[str]:
    """The command for one attempt.

    What an ini file or a conftest may have set is taken back behind the model's own arguments, because the last
    option wins: maxfail, marker and keyword filters, workers, reruns, random order, a cache that remembers failures,
    and a retention policy that would delete the results of passing tests (notes E87 to E99).
    """
    taken_back = [
        "-p", "tune_guard",
        "-o", "tmp_path_retention_policy=all",
        "-o", f"cache_dir={job.folder / 'pytest_cache'}",
        "-m", "",
        "-k", "",
        "--maxfail=0",
    ]  # fmt: skip
    neutral = {"xdist": ["-n0"], "rerunfailures": ["--reruns=0"], "randomly": ["-p", "no:randomly"]}
    for plugin, words in neutral.items():
        if plugin in job.plugins:
            taken_back += words
    return [
        job.venv_python, "-m", "pytest", job.test, "-v", "-s", f"--basetemp={basetemp}",
        *job.pytest_extra_args, *taken_back,
    ]  # fmt: skip
