"""What tests load: weights and data sets of the hub, the speaker-similarity checkpoints, files that config requires."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from tune_mcp.config.model import RequiredFile
from tune_mcp.contract.precheck import Check, check
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.files import read_text, real
from tune_mcp.precheck.hub import NO_WEIGHTS, RepoKind, folder_name, holders, missing_parts
from tune_mcp.precheck.subject import Subject, quoted
from tune_mcp.precheck.variables import USE, substituted

_DOWNLOAD_SETTINGS = ("HF_HUB_DISABLE_XET", "HF_ENDPOINT")


def hub_checks(subject: Subject) -> Iterator[Check]:
    """``hf.home``, and ``hf.model:<id>`` or ``hf.dataset:<id>`` for each; nothing for a model that names none."""
    needs = subject.needs
    selected = {stage.test for stage in subject.stages}
    others = {str(path.relative_to(subject.repo_root)) for glob in needs.test_globs for path in _found(subject, glob)}
    datasets = needed_datasets(subject.repo_root, selected, others - selected, needs.datasets)
    if needs.unread:
        yield check(
            "hf.dataset",
            "warn",
            f"data sets were not checked: {needs.unread}",
            f"tune-mcp precheck {subject.model} --repo {quoted(subject.repo_root)}",
        )
    if not needs.model_ids and not datasets:
        return
    config = f"models/{subject.model}/config.yaml"
    for folder, key, file in (
        (needs.hf_home(), "physical.hf_hub", "the host profile"),
        (needs.hub(), "auto_env.HF_HUB_CACHE", config),
    ):
        if folder.is_symlink():
            there = real(folder)
            detail, fix = f"{folder} is a link to {there}", f"set {key}: {there} in {file}"
            yield check("hf.home", "warn", detail, fix)
    for repo_id in needs.model_ids:
        yield _asset(subject, "model", repo_id)
    for repo_id in datasets:
        yield _asset(subject, "dataset", repo_id)


def _asset(subject: Subject, kind: RepoKind, repo_id: str) -> Check:
    hub = subject.needs.hub()
    name = f"hf.{kind}:{repo_id}"
    try:
        found = missing_parts(hub, kind, repo_id, subject.needs.hf_files.get(repo_id))
        writers = holders(hub, folder_name(kind, repo_id)) if found else ()
    except OSError as error:
        return check(name, "unknown", f"cannot be read: {error}", f"ls -la {quoted(hub)}")
    except ValueError as error:
        edit = f"correct {repo_id!r} in models/{subject.model}/config.yaml"
        return check(name, "mismatch", f"no name of a repository: {error}", edit)
    if not found:
        return check(name, "ok", f"in {hub}")
    detail = "; ".join(found)
    if NO_WEIGHTS in found:
        detail += f" (where it needs none, name its files under hf_files in models/{subject.model}/config.yaml)"
    if writers:
        # A second download would only wait for the first; whose process that is, is not ours to judge (ENV-29).
        pids = ", ".join(str(pid) if pid else "outside this container" for pid in writers)
        fix = f"tail --pid={writers[-1]} -f /dev/null" if writers[-1] else download(subject, kind, repo_id)
        return check(name, "busy", f"{detail}; being written now by process {pids}", fix)
    return check(name, "missing", detail, download(subject, kind, repo_id))


def download(subject: Subject, kind: RepoKind, repo_id: str) -> str:
    """The one command that fetches this one repository into the cache that the tests read (PRE-05, ENV-12)."""
    env = subject.needs.env
    return " ".join(
        [
            *(f"{name}={quoted(env[name])}" for name in _DOWNLOAD_SETTINGS if name in env),
            f"{quoted(_hf())} download {quoted(repo_id)}",
            *(["--repo-type dataset"] if kind == "dataset" else []),
            *(f"--include {quoted(glob)}" for glob in subject.needs.hf_files.get(repo_id, ())),
            f"--cache-dir {quoted(subject.needs.hub())}",
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
    files = PythonFiles(repo_root)
    named = {test: _named(files, test, datasets) for test in selected | others}
    if not all(named[test] for test in selected):
        return datasets
    mine = set[str]().union(*(named[test] for test in selected))
    claimed = set[str]().union(*named.values())
    return tuple(name for name in datasets if name in mine or name not in claimed)


def _found(subject: Subject, glob: str) -> Iterator[Path]:
    return (path for path in subject.repo_root.glob(glob) if path.is_file())


def _named(files: PythonFiles, test: str, datasets: tuple[str, ...]) -> set[str]:
    strings = {text for text in _strings(files, test) if isinstance(text, str)}
    found = {name for name in datasets if name in strings}
    for module in files.imported_files(test):
        for node in ast.walk(files.tree(module) or ast.Module([], [])):
            for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and key.value in strings:
                    found |= {name for name in datasets if name == value.value}
    return found


def _strings(files: PythonFiles, path: str) -> Iterator[object]:
    return (node.value for node in ast.walk(files.tree(path) or ast.Module([], [])) if isinstance(node, ast.Constant))


VARIABLE = "SEEDTTS_SIM_CACHE_DIR"
MARKER = ".complete"
CHECKPOINTS = ("wavlm_large.pt", "wavlm_large_finetune.pth")
MINIMUM_BYTES = 100 * 2**20
"""Both checkpoints are about ten times this; the project's own loader refuses less, too."""
_MODULE = "benchmarks.metrics.speaker_similarity_assets"


def speaker_sim_checks(subject: Subject) -> Iterator[Check]:
    """``speaker_sim.assets``, where the selected tests need them or, if config does not say, the folder is named."""
    named = subject.needs.env.get(VARIABLE)
    if subject.needs.speaker_sim is False or (not named and not subject.needs.speaker_sim):
        return
    if not named:
        what = f"the tests need the checkpoints of speaker similarity, and nothing names their folder, {VARIABLE}"
        fix = "set physical.speaker_sim in the host profile"
        yield check("speaker_sim.assets", "missing", what, fix)
        return
    folder = Path(named)
    problems = list(_problems(folder))
    token = (step := subject.needs.bootstrap()) and step.hf_token
    yield check(
        "speaker_sim.assets",
        "missing" if problems else "ok",
        f"{folder}: {', '.join(problems)}{f' ({token})' if token else ''}"
        if problems
        else f"{' and '.join(CHECKPOINTS)} in {folder}",
        _fix(subject, folder),
    )


def _problems(folder: Path) -> Iterator[str]:
    """What is wrong in the folder. Raises ``OSError`` for one that cannot be read."""
    marker = folder / MARKER
    if not marker.is_file():
        yield f"no {MARKER}"
    recorded = _sizes(marker)
    for name in CHECKPOINTS:
        path = folder / name
        if not path.is_file():
            yield f"no {name}"
            continue
        size = path.stat().st_size
        if size < MINIMUM_BYTES:
            yield f"{name} has {size} bytes, fewer than {MINIMUM_BYTES}"
        elif size != recorded.get(name, size):
            yield f"{name} has {size} bytes, but {MARKER} recorded {recorded[name]}"


def _sizes(marker: Path) -> dict[str, int]:
    """The sizes that the marker recorded; an empty or older marker records none."""
    try:
        value: object = json.loads(read_text(marker))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return {}
    files: object = cast("dict[str, object]", value).get("files") if isinstance(value, dict) else None
    sizes: dict[str, int] = {}
    for name, entry in cast("dict[str, object]", files).items() if isinstance(files, dict) else ():
        size: object = cast("dict[str, object]", entry).get("size") if isinstance(entry, dict) else None
        if isinstance(size, int):
            sizes[name] = size
    return sizes


def _fix(subject: Subject, folder: Path) -> str:
    """The host's own command; without one the project's loader, where this checkout has it."""
    step = subject.needs.bootstrap()
    if step is not None:
        settings = " ".join(f"{name}={quoted(value)}" for name, value in step.env.items())
        command = step.command.strip()
        return f"env {settings} bash -c {quoted(command)}" if settings else command
    if (subject.repo_root / Path(*_MODULE.split("."))).with_suffix(".py").is_file() and subject.venv_python:
        endpoint = subject.needs.env.get("HF_ENDPOINT")
        variables = {VARIABLE: str(folder)} | ({"HF_ENDPOINT": endpoint} if endpoint else {})
        settings = " ".join(f"{name}={quoted(value)}" for name, value in variables.items())
        python = quoted(subject.venv_python)
        return f"cd {quoted(subject.repo_root)} && {settings} {python} -m {_MODULE} --warm-cache"
    return f"put {MARKER}, {' and '.join(CHECKPOINTS)} into {folder}, or name speaker_similarity_bootstrap in the host"


_SETTINGS = ("HOME", "HF_HOME", "HF_ENDPOINT", "HF_HUB_DISABLE_XET")


def required_files_checks(subject: Subject) -> Iterator[Check]:
    """``files:<name>``, one for each file; a file that cannot be looked at is unknown."""
    for wanted in subject.needs.files:
        named = expanded(wanted.path, path_variables(subject))
        path = Path(named)
        name = f"files:{path.name}"
        if not path.is_absolute():
            edit = f"correct required_files in models/{subject.model}/config.yaml"
            detail = f"{wanted.path} is {named!r} under this launch's variables, which is no absolute path"
            yield check(name, "mismatch", detail, edit)
            continue
        try:
            problem = _problem(path, wanted.min_bytes)
        except OSError as error:
            fix = f"ls -la {quoted(path.parent)}"
            yield check(name, "unknown", f"{path} cannot be read: {error}", fix)
            continue
        yield check(
            name,
            "missing" if problem else "ok",
            f"{path} {problem}" if problem else str(path),
            _required_files_fix(subject, wanted, path),
        )


def path_variables(subject: Subject) -> Mapping[str, str]:
    """The variables that a launch has as far as paths follow from them."""
    return {"HOME": str(Path.home()), **subject.needs.env}


def expanded(text: str, env: Mapping[str, str]) -> str:
    """The text with its variables, and a leading ``~``, replaced."""
    return substituted(f"$HOME{text[1:]}" if text == "~" or text.startswith("~/") else text, env)


def _problem(path: Path, minimum: int) -> str:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "leads nowhere" if path.is_symlink() else "is not there"
    if not path.is_file():
        return "is no file"
    return f"has {status.st_size} bytes, a complete one at least {minimum}" if status.st_size < minimum else ""


def _required_files_fix(subject: Subject, wanted: RequiredFile, path: Path) -> str:
    if not wanted.fetch:
        return f"put the file at {quoted(path)}, as the tests' documentation describes"
    command = wanted.fetch.replace("{python}", quoted(subject.venv_python or "python"))
    command = command.replace("{repo}", quoted(subject.repo_root))
    env = path_variables(subject)
    named = [name for name in (*_SETTINGS, *_names(wanted.path)) if name in subject.needs.env]
    settings = " ".join(f"{name}={quoted(env[name])}" for name in dict.fromkeys(named))
    return f"cd {quoted(subject.repo_root)} && {settings + ' ' if settings else ''}{command.strip()}"


def _names(text: str) -> Iterator[str]:
    for use in USE.finditer(text):
        yield use[1] or use[2]
        yield from _names(use[3] or "")
