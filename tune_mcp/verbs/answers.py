"""What a person said so far about an apply plan, kept as it comes: a cut call loses none.

Each time the digest of ``answers.json`` goes into the run's ledger. A file that is not the one on record was written by
somebody else: it is nobody's word, and the person is asked (rules SCP-06, APL-04).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.apply import Decision, Mode, Otherwise
from tune_mcp.files import dump_json, parse_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events


class Answers(Frozen):
    """What was said so far about one plan."""

    schema_version: int = 1
    mode: Mode | None = None
    otherwise: Otherwise | None = None
    failures_agreed: bool = False
    decisions: tuple[Decision, ...] = Field(default=())


def _path(run: RunDir, plan_id: str) -> Path:
    return run.apply_folder(plan_id) / "answers.json"


def _read(run: RunDir, plan_id: str) -> Answers:
    try:
        data = read_plain(_path(run, plan_id))
        return Answers.model_validate(parse_json(data)) if sha256_bytes(data) == _on_record(run, plan_id) else Answers()
    except (OSError, ValueError, ValidationError):
        return Answers()


def _on_record(run: RunDir, plan_id: str) -> object:
    found = (event.facts for event in events.read(run.events, plan_id) if event.kind == "answered")
    return next((facts.get("sha256") for facts in reversed(list(found)) if facts.get("plan_id") == plan_id), None)


def _write(run: RunDir, plan_id: str, answers: Answers) -> None:
    path = _path(run, plan_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = dump_json(answers.model_dump(mode="json"))
    write_atomic(path, data)
    _note(run, plan_id, "a person answered", sha256_bytes(data))


def _note(run: RunDir, plan_id: str, what: str, sha: str | None) -> None:
    events.append(run, "answered", utc_now(), f"{what} about plan {plan_id}", plan_id=plan_id, sha256=sha)


def load(run: RunDir, plan_id: str) -> dict[tuple[str, str], Decision]:
    """(stage key, metric key) -> decision."""
    return {(one.stage_key, one.metric_key): one for one in _read(run, plan_id).decisions}


def store(run: RunDir, plan_id: str, decision: Decision) -> None:
    """Keep one decision; a later one on the same metric wins."""
    others = {key: one for key, one in load(run, plan_id).items() if key != (decision.stage_key, decision.metric_key)}
    answers = _read(run, plan_id).model_copy(update={"decisions": (*others.values(), decision)})
    _write(run, plan_id, answers)


def forget(run: RunDir, plan_id: str, decision: Decision) -> None:
    """Drop one decision, so that it is asked for again."""
    answers = _read(run, plan_id)
    others = tuple(one for one in answers.decisions if one != decision)
    _write(run, plan_id, answers.model_copy(update={"decisions": others}))


def clear(run: RunDir, plan_id: str) -> None:
    """Drop every answer: what was agreed to was carried out and taken back."""
    _note(run, plan_id, "no answer counts any more", None)
    _path(run, plan_id).unlink(missing_ok=True)


def load_failures_agreed(run: RunDir, plan_id: str) -> bool:
    """Whether a person wants the plan written although tests fail."""
    return _read(run, plan_id).failures_agreed


def store_failures_agreed(run: RunDir, plan_id: str) -> None:
    """Keep that a person does."""
    answers = _read(run, plan_id)
    if not answers.failures_agreed:
        _write(run, plan_id, answers.model_copy(update={"failures_agreed": True}))


def load_mode(run: RunDir, plan_id: str) -> tuple[Mode | None, Otherwise | None]:
    """The mode that was agreed to (None before that) and the standing word that came with it."""
    answers = _read(run, plan_id)
    return answers.mode, answers.otherwise


def store_mode(run: RunDir, plan_id: str, mode: Mode, otherwise: Otherwise | None = None) -> None:
    """Keep the mode and the standing word."""
    answers = _read(run, plan_id)
    if (answers.mode, answers.otherwise) != (mode, otherwise):
        _write(run, plan_id, answers.model_copy(update={"mode": mode, "otherwise": otherwise}))
