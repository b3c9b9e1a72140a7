"""The pytest command line: always whole files, never an early exit (rules XPY-01, XPY-03, MET-01, SUP-03)."""

from __future__ import annotations

import os
from pathlib import Path

from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.job import Job


def pytest_argv(job: Job, run: RunDir) -> list[str]:
    """The command for one attempt, to be executed as ``job.venv_python``; ``run`` is the run directory as it names it.

    Neither the interpreter's folder nor the run's is in it: a suite that ends processes by their command line
    (``pkill -f``) would find its own pytest by the name of a repository or of a run.

    What an ini file or a conftest may have set is taken back behind the model's own arguments, because the last
    option wins: maxfail, marker and keyword filters, workers, reruns, random order, a cache that remembers failures,
    and a retention policy that would delete the results of passing tests. pytest's rootdir is the
    repository, so that a node id holds the whole path of its file; conftests are loaded from the git work tree, and
    none from above it. Both are relative to the folder that pytest starts in, which may be reached through a link.
    """
    folder = run.attempt(job.test_key, job.repeat, job.attempt)
    taken_back = [
        "-p", "tune_guard",
        "-o", "tmp_path_retention_policy=all",
        "-o", f"cache_dir={folder / 'pytest_cache'}",
        "-m", "",
        "-k", "",
        "--maxfail=0",
        "--rootdir=.",
        f"--confcutdir={_work_tree(Path(job.repo_root))}",
    ]  # fmt: skip
    neutral = {"xdist": ["-n0"], "rerunfailures": ["--reruns=0"], "randomly": ["-p", "no:randomly"]}
    for plugin, words in neutral.items():
        if plugin in job.plugins:
            taken_back += words
    return [
        Path(job.venv_python).name, "-m", "pytest", job.test, "-v", "-s",
        f"--basetemp={folder / job.basetemp.name}",
        *job.pytest_extra_args, *taken_back,
    ]  # fmt: skip


def _work_tree(folder: Path) -> str:
    """The way up from ``folder`` to the top of its git work tree."""
    top = next((path for path in (folder, *folder.parents) if (path / ".git").exists()), folder)
    return os.path.relpath(top, folder)
