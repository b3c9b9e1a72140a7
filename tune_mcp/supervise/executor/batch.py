"""What a run hands to Slurm: a batch script that becomes one of our modules, under our name, without the nodes that
refused."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from tune_mcp.config.host import SlurmSettings
from tune_mcp.files import write_atomic
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.slurm import Order

SCRIPT_FILE = "slurm.sh"
LOG_FILE = "runner.log"
LEFT_OUT = "left_out"
"""The event that names a node on which a job could not be measured."""


def name_of(key: str) -> str:
    """A job's key in characters that every list of names can hold."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", key)


def order(run: RunDir, key: str, folder: Path, settings: SlurmSettings, module: tuple[str, ...], gpus: int) -> Order:
    """The job named ``key`` that runs ``module`` (a module's name and its arguments) in ``folder``.

    The script becomes this Python, in the container where there is one. The node gets nothing of the submitter's shell
    but where this program and its locks lie: no secret is ever in a script.
    """
    script = folder / SCRIPT_FILE
    here = str(Path(__file__).resolve().parents[3])
    paths = dict.fromkeys([here, *filter(None, os.environ.get("PYTHONPATH", "").split(":"))])
    kept = {"PYTHONPATH": ":".join(paths), "TUNE_LOCK_DIR": os.environ.get("TUNE_LOCK_DIR", "")}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in kept.items() if value]
    command = shlex.join([*settings.container, sys.executable, "-P", "-m", *module])
    write_atomic(script, "\n".join(["#!/bin/sh", *exports, f"exec {command}", ""]).encode(), mode=0o755)
    return Order(name_of(key), script, folder, folder / LOG_FILE, settings.options_for(gpus), left_out(run))


def left_out(run: RunDir) -> tuple[str, ...]:
    """The nodes that refused a job of this run since a person last started it."""
    found: set[str] = set()
    for event in events.read(run.events, "resumed", LEFT_OUT):
        if event.kind == "resumed":
            found.clear()
        else:
            found.add(str(event.facts.get("node")))
    return tuple(sorted(found))
