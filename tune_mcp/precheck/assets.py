"""Weights and data sets of the selected stages are in the cache, whole; each one that is not is a gap (PRE-04)."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tune_mcp.contract.precheck import Check
from tune_mcp.discover.source_tree import parsed
from tune_mcp.files import read_text
from tune_mcp.precheck.hub_cache import RepoKind, folder_name, gaps
from tune_mcp.precheck.hub_locks import holders
from tune_mcp.precheck.subject import Subject

_DOWNLOAD_SETTINGS = ("HF_HUB_DISABLE_XET", "HF_ENDPOINT")


def checks(subject: Subject) -> Iterator[Check]:
    """``hf.home``, and ``hf.model:<id>`` or ``hf.dataset:<id>`` for each; nothing for a model that names none."""
    needs = subject.needs
    selected = {stage.test for stage in subject.stages}
    others = {str(path.relative_to(subject.repo_root)) for glob in needs.test_globs for path in _found(subject, glob)}
    datasets = needed_datasets(subject.repo_root, selected, others - selected, needs.datasets)
    if needs.unread:
        yield Check(
            id="hf.dataset",
            status="warn",
            detail=f"data sets were not looked at: {needs.unread}",
            fix=f"tune-mcp precheck {subject.model} --repo {shlex.quote(str(subject.repo_root))}",
        )
    if not needs.model_ids and not datasets:
        return
    config = f"models/{subject.model}/config.yaml"
    for folder, key, file in (
        (needs.hf_home(), "physical.hf_hub", "the host profile"),
        (needs.hub(), "auto_env.HF_HUB_CACHE", config),
    ):
        if folder.is_symlink():
            there = folder.resolve()
            detail, fix = f"{folder} is a link to {there}", f"set {key}: {there} in {file}"
            yield Check(id="hf.home", status="warn", detail=detail, fix=fix)
    for repo_id in needs.model_ids:
        yield _asset(subject, "model", repo_id)
    for repo_id in datasets:
        yield _asset(subject, "dataset", repo_id)


def _asset(subject: Subject, kind: RepoKind, repo_id: str) -> Check:
    hub = subject.needs.hub()
    name = f"hf.{kind}:{repo_id}"
    try:
        found = gaps(hub, kind, repo_id, subject.needs.hf_files.get(repo_id))
        writers = holders(hub, folder_name(kind, repo_id)) if found else ()
    except OSError as error:
        return Check(
            id=name, status="unknown", detail=f"cannot be read: {error}", fix=f"ls -la {shlex.quote(str(hub))}"
        )
    except ValueError as error:
        edit = f"correct {repo_id!r} in models/{subject.model}/config.yaml"
        return Check(id=name, status="mismatch", detail=f"no name of a repository: {error}", fix=edit)
    if not found:
        return Check(id=name, status="ok", detail=f"in {hub}")
    detail = "; ".join(found)
    if "no weight file" in found:
        detail += f" (where it needs none, name its files under hf_files in models/{subject.model}/config.yaml)"
    if writers:
        # A second download would only wait for the first; whose process that is, is not ours to judge (ENV-29).
        pids = ", ".join(str(pid) if pid else "outside this container" for pid in writers)
        fix = f"tail --pid={writers[-1]} -f /dev/null" if writers[-1] else download(subject, kind, repo_id)
        return Check(id=name, status="busy", detail=f"{detail}; being written now by process {pids}", fix=fix)
    return Check(id=name, status="missing", detail=detail, fix=download(subject, kind, repo_id))


def download(subject: Subject, kind: RepoKind, repo_id: str) -> str:
    """The one command that fetches this one repository into the cache that the tests read (PRE-05, ENV-12)."""
    env = subject.needs.env
    return " ".join(
        [
            *(f"{name}={shlex.quote(env[name])}" for name in _DOWNLOAD_SETTINGS if name in env),
            f"{shlex.quote(_hf())} download {shlex.quote(repo_id)}",
            *(["--repo-type dataset"] if kind == "dataset" else []),
            *(f"--include {shlex.quote(glob)}" for glob in subject.needs.hf_files.get(repo_id, ())),
            f"--cache-dir {shlex.quote(str(subject.needs.hub()))}",
        ]
    )


def _hf() -> str:
    """The library's command line: on the PATH, else the one that was installed with tune-mcp."""
    ours = Path(sys.executable).with_name("hf")
    return "hf" if shutil.which("hf") or not ours.is_file() else str(ours)


def needed_datasets(
    repo_root: Path, selected: set[str], others: set[str], datasets: tuple[str, ...]
) -> tuple[str, ...]:
    """The data sets of the selected test files, in the model's order; ``others`` are the model's further test files.

    A config lists data sets for the model as a whole. A test file that names some of them, or a key that a module it
    imports maps to one, needs those; one that names none may need any. What no test file names, all may need.
    """
    named = {test: _named(repo_root, repo_root / test, datasets) for test in selected | others}
    if not all(named[test] for test in selected):
        return datasets
    mine = set[str]().union(*(named[test] for test in selected))
    claimed = set[str]().union(*named.values())
    return tuple(name for name in datasets if name in mine or name not in claimed)


def _found(subject: Subject, glob: str) -> Iterator[Path]:
    return (path for path in subject.repo_root.glob(glob) if path.is_file())


def _named(repo_root: Path, test: Path, datasets: tuple[str, ...]) -> set[str]:
    try:
        text = read_text(test)
        tree = parsed(text)
    except (FileNotFoundError, ValueError, SyntaxError):
        return set()
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = {name for name in datasets if name in strings}
    for module in _imported(repo_root, tree):
        for name in datasets:
            aliases = re.findall(rf"""["']([^"'\n]+)["']\s*:\s*["']{re.escape(name)}["']""", module)
            found |= {name for alias in aliases if alias in strings}
    return found


def _imported(repo_root: Path, tree: ast.Module) -> Iterator[str]:
    """The text of the repository's own modules that a file imports names from."""
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    for name in sorted(names):
        path = repo_root.joinpath(*name.split(".")).with_suffix(".py")
        if path.is_file():
            yield read_text(path, errors="replace")
