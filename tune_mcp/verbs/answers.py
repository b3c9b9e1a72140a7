"""What a person has answered about an apply plan, kept as it comes: a cut call loses none.

Each time the digest of ``answers.json`` goes into the run's ledger. A file that is not the one on record was written by
somebody else: it counts for nothing, and the person is asked (rules SCP-06, APL-04).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from tune_mcp.config.stages import Frozen, MetricKey
from tune_mcp.contract.apply import Decision, Mode, Otherwise
from tune_mcp.files import dump_json, parse_json, read_plain, sha256_bytes, write_atomic
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events


class Answers(Frozen):
    """The answers about one plan so far: the mode and the standing choice that came with it, and single decisions.

    ``failures_agreed``: a person wants the plan written although tests fail.
    """

    schema_version: int = 1
    mode: Mode | None = None
    otherwise: Otherwise | None = None
    failures_agreed: bool = False
    decisions: tuple[Decision, ...] = Field(default=())

    def by_metric(self) -> dict[MetricKey, Decision]:
        """(stage key, metric key) -> decision."""
        return {one.key: one for one in self.decisions}


def load(run: RunDir, plan_id: str) -> Answers:
    """The answers so far; none where there is no file, or another one than the ledger has."""
    try:
        data = read_plain(_path(run, plan_id))
        return Answers.model_validate(parse_json(data)) if sha256_bytes(data) == _on_record(run, plan_id) else Answers()
    except (OSError, ValueError, ValidationError):
        return Answers()


def store(run: RunDir, plan_id: str, **given: object) -> None:
    """Keep more answers, by the names of the fields of ``Answers``."""
    before = load(run, plan_id)
    answers = before.model_copy(update=given)
    if answers == before:
        return
    path = _path(run, plan_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = dump_json(answers.model_dump(mode="json"))
    write_atomic(path, data)
    _note(run, plan_id, "a person answered", sha256_bytes(data))


def store_decisions(run: RunDir, plan_id: str, decisions: Sequence[Decision]) -> None:
    """Keep decisions; a later one on the same metric wins."""
    known = load(run, plan_id).by_metric() | {one.key: one for one in decisions}
    store(run, plan_id, decisions=(*known.values(),))


def forget(run: RunDir, plan_id: str, decisions: Sequence[Decision]) -> None:
    """Drop decisions, so that they are asked for again."""
    store(run, plan_id, decisions=tuple(one for one in load(run, plan_id).decisions if one not in decisions))


def clear(run: RunDir, plan_id: str) -> None:
    """Drop every answer: what was agreed to was carried out and taken back."""
    _note(run, plan_id, "no answer counts any more", None)
    _path(run, plan_id).unlink(missing_ok=True)


def _path(run: RunDir, plan_id: str) -> Path:
    return run.apply_folder(plan_id) / "answers.json"


def _on_record(run: RunDir, plan_id: str) -> object:
    found = (event.facts for event in events.read(run.events, "answered"))
    return next((facts.get("sha256") for facts in reversed(list(found)) if facts.get("plan_id") == plan_id), None)


def _note(run: RunDir, plan_id: str, what: str, sha: str | None) -> None:
    events.append(run, "answered", utc_now(), f"{what} about plan {plan_id}", plan_id=plan_id, sha256=sha)
