"""Ask the module itself what an edit changes: it is imported as it stands and as it would be, in the project's Python.

Reading alone misses what rebinds a threshold while its module is loaded: ``setattr``, a loop over ``.values()``, an
alias of an inner table, a function that changes its argument. So a child executes the old and the new bytes under the
module's own name and path, without writing into the tree, and reports the value of every tracked threshold.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Frozen, MetricKey, Number
from tune_mcp.errors import Code, Refusal

DEADLINE_S = 20.0
"""For one module, imports of its own included."""
WHOLE_S = 30.0
"""For all modules of one apply together: a client waits for the answer."""
_PROGRAM = r"""
import base64, importlib, importlib.util, json, numbers, os, sys, threading, types
out = os.fdopen(int(sys.argv[1]), "w")
asked = json.loads(sys.stdin.read())
threading.Timer(asked["deadline"], lambda: os._exit(1)).start()
path = asked["path"]
folder, name = os.path.dirname(path), os.path.basename(path)[:-3]
while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.dirname(folder) != folder:
    name, folder = os.path.basename(folder) + "." + name, os.path.dirname(folder)
sys.path.insert(0, folder)
def value(module, place):
    found = eval(place, module.__dict__)
    if isinstance(found, bool) or not isinstance(found, numbers.Real):
        raise TypeError("not a number")
    return int(found) if isinstance(found, numbers.Integral) else float(found)
def look(source):
    module = types.ModuleType(name)
    module.__file__ = path
    module.__spec__ = importlib.util.spec_from_file_location(name, path)
    module.__package__ = name.rpartition(".")[0]
    if module.__package__:
        importlib.import_module(module.__package__)
    sys.modules[name] = module
    exec(compile(base64.b64decode(source), path, "exec", dont_inherit=True), module.__dict__)
    values = []
    for place in asked["places"]:
        try:
            values.append(value(module, place))
        except Exception:
            values.append(None)
    return values
answers = []
for source in asked["sources"]:
    try:
        answers.append({"values": look(source)})
    except BaseException as error:
        answers.append({"error": (type(error).__name__ + ": " + str(error))[:300]})
json.dump(answers, out)
out.flush()
os._exit(0)
"""


class _Answer(Frozen):
    values: tuple[int | float | None, ...] = ()
    error: str = ""


_ANSWERS = TypeAdapter(tuple[_Answer, ...])


@dataclass(frozen=True)
class ProofRun:
    """The project's Python, the repository that it is started in, and the environment of a launch without GPUs.

    ``until`` is the end of the time for all questions, on the monotonic clock.
    """

    python: Path
    repo_root: Path
    env: Mapping[str, str]
    until: float


def prove(
    proof_run: ProofRun,
    file: str,
    old: bytes,
    new: bytes,
    rows: Sequence[Row],
    values: Mapping[MetricKey, Number],
) -> str:
    """Compare what ``file`` gives each threshold of ``rows`` before and after; ``values`` are those to be written.

    Returns why the module could not be asked, a clause; empty when it agrees. Raises THRESHOLD_UNKNOWN when a value is
    another one than the edit says.
    """
    known = [row for row in rows if row.file == file and row.place_known]
    places = [row.place for row in known]
    before, after = _run(proof_run, file, (old, new), places)
    if not before.error and after.error:  # it may not load twice in one process
        (after,) = _run(proof_run, file, (new,), places)
    if error := before.error or after.error:
        return error
    wrong: list[str] = []
    for row, was, now in zip(known, before.values, after.values, strict=True):
        wanted = values.get(row.key, row.current_raw)
        if row.blank is not None and was is not None:
            if row.key in values:
                wrong.append(f"{row.place} has no value in the file, but the loaded module has {was}")
        elif now is None or (was is None and row.blank is None):
            if row.key in values:
                wrong.append(f"{row.place} is no number there once the module is loaded")
        elif row.blank is None and was != row.current_raw:
            if row.key in values:
                wrong.append(f"{row.place} is written as {row.current_raw}, but the loaded module has {was}")
        elif now != wanted:
            effect = "would have" if row.key in values else "would become, although it is not written,"
            wrong.append(f"{row.place} {effect} {now} instead of {wanted}")
    if wrong:
        raise Refusal(
            Code.THRESHOLD_UNKNOWN,
            "APL-17",
            f"{file} changes its own thresholds while it is loaded: {'; '.join(dict.fromkeys(wrong))}",
            "nothing was written. Decide keep for these values and edit by hand what sets them, or assign each "
            "threshold once, as a plain number, and start a new run",
            {"file": file, "values": [*wrong]},
        )
    return ""


def _run(proof_run: ProofRun, file: str, sources: tuple[bytes, ...], places: list[str]) -> tuple[_Answer, ...]:
    seconds = min(DEADLINE_S, proof_run.until - time.monotonic())
    if seconds <= 0:
        return tuple(_Answer(error=f"no time was left of {WHOLE_S:g} s for all files") for _ in sources)
    question = json.dumps(
        {
            "path": str(proof_run.repo_root / file),
            "sources": [base64.b64encode(source).decode() for source in sources],
            "places": places,
            "deadline": seconds,
        }
    )
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as answer:
        try:
            child = subprocess.Popen(
                [str(proof_run.python), "-B", "-c", _PROGRAM, str(sending)],
                cwd=proof_run.repo_root,
                env=dict(proof_run.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(sending,),
                start_new_session=True,
            )
        except OSError as error:
            return tuple(_Answer(error=f"the proof_run does not start: {error}") for _ in sources)
        finally:
            os.close(sending)
        try:
            child.communicate(question.encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return tuple(_Answer(error=f"it did not load within {seconds:.0f} s") for _ in sources)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # also what loading it has started
            child.wait()
        os.set_blocking(receiving, False)
        data = answer.read() or b""
    try:
        found = _ANSWERS.validate_json(data)
    except ValidationError:
        found = ()
    if len(found) != len(sources):
        return tuple(_Answer(error="it ended while it was loaded") for _ in sources)
    return found
