"""What an agent reads: characters of an hour of polling, catalogue, report, plan and apply, as text and typed.

Several clients give the model the typed form alone, so both are counted. The neighbours are the ceilings that we set
ourselves: 40,000 for the hour, 5,000 for the catalogue, and what one answer may be for the others.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from figure import Figure, show
from reading import large_run

from tune_mcp.contract.apply import Applied, ApplyReply, Decision
from tune_mcp.contract.apply_plan import ApplyPlanReply, Direction, PlanRow
from tune_mcp.contract.reply import TEXT_LIMIT, Reply
from tune_mcp.contract.report import ReportReply
from tune_mcp.files import FileLock, dump_json
from tune_mcp.run_dir import RunDir
from tune_mcp.server.results import succeeded
from tune_mcp.session.state import CurrentWork, RunState, SupervisorRecord
from tune_mcp.verbs.catalog import catalog
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.status import status

STAGES, REPEATS, POLLS = 42, 5, 30
HOUR, CATALOG = 40_000, 5_000


def figures() -> Iterator[Figure]:
    """Each answer twice: text, typed."""
    with tempfile.TemporaryDirectory() as folder:
        run = large_run(Path(folder), STAGES, REPEATS)
        for name, every in (("no news", 0), ("a repeat ends every fifth poll", 5), ("a repeat ends every poll", 1)):
            yield from _pair(f"an hour of polling, {STAGES} × {REPEATS}, {name}", hour(run, every), HOUR, "agreed")
        laned = large_run(Path(folder) / "laned", STAGES, REPEATS, lanes=4)
        yield from _pair("the same on four lanes, a repeat ends every poll", hour(laned, 1, lanes=4), HOUR, "agreed")
        yield from _pair("the last poll, with the matrix", [ended(run)], TEXT_LIMIT, "the most")
        project = Project.resolve(Options(repo=Path(folder)))
        for model in project.places.model_names():
            yield from _pair(f"catalog {model}", [catalog(project, model)], CATALOG, "agreed")
    yield from _pair("report, 250 metrics", [report()], TEXT_LIMIT, "the most")
    yield from _pair("apply_plan, 250 metrics", [plan()], TEXT_LIMIT, "the most")
    yield from _pair("apply, 60 values", [applied()], TEXT_LIMIT, "the most")


def _pair(name: str, replies: list[Reply], ceiling: int, what: str) -> Iterator[Figure]:
    text = typed = 0
    for reply in replies:
        result = succeeded(reply)
        text += len(reply.text())
        typed += len(json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":")))
    for form, size in (("text", text), ("typed", typed)):
        yield Figure(f"{name}, {form}", size / 1000, ceiling / 1000, "k characters", what, 1.0, 1)


def hour(run: RunDir, every: int, lanes: int = 1) -> list[Reply]:
    """One status every 120 s from the middle of a run; a repeat of one test ends in every ``every``-th poll."""
    project, replies = Project.resolve(Options(repo=run.repo_root)), list[Reply]()
    kept = {path: path.read_bytes() for path in sorted(run.path.glob("*/run*.json"), key=_order)}
    waiting = [path for path in kept if path.stem in ("run3", "run4", "run5")]
    for path in waiting:
        path.unlink()
    known: str | None = None
    lock = FileLock.take(run.supervisor_lock, {})
    if lock is None:
        raise RuntimeError("the run is supervised")
    for poll in range(POLLS):
        if every and poll % every == 0:
            for path in waiting[: STAGES // 14]:
                path.write_bytes(kept[path])
            del waiting[: STAGES // 14]
            said = "test_0_ci run 3 attempt 1: metrics of 3 stage(s) extracted in 431 s"
            line = {
                "t": "2026-04-23T05:00:00Z",
                "kind": "observed",
                "text": said,
                "test": "test_0_ci",
                "duration_s": 431,
            }
            with run.events.open("a") as events:
                events.write(json.dumps(line) + "\n")
        _at_work(run, 1 + poll // 5, lanes)
        reply = status(project, run.run_id, known=known)
        known = reply.mark
        replies.append(reply)
    lock.release()
    for path, data in kept.items():
        path.write_bytes(data)
    return replies


def _order(path: Path) -> tuple[str, int]:
    return path.stem, int(path.parent.name.removeprefix("stage").partition("_")[0])


def _at_work(run: RunDir, number: int, lanes: int) -> None:
    works = [
        CurrentWork(
            test=f"test_{number + more}_ci", repeat=3, attempt=1, phase="pytest", since="2026-04-23T05:00:00Z",
            lane=f"gpu{more}" if lanes > 1 else "",
        )
        for more in range(lanes)
    ]  # fmt: skip
    work = works[0]
    record = SupervisorRecord(
        state=RunState.RUNNING, heartbeat_at=4e9, current=work, others=tuple(works[1:]),
        processes={"server": 2 * lanes, "pytest": lanes},
    )  # fmt: skip
    run.supervisor.write_bytes(dump_json(record.model_dump(mode="json")))
    log = run.log(work.test, work.repeat)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"request {n:05} finished in {n / 7:.3f} s, 128 tokens, stream closed\n" for n in range(99)))


def ended(run: RunDir) -> Reply:
    """The status of the run at its end."""
    over = SupervisorRecord(state=RunState.FINISHED, heartbeat_at=4e9)
    run.supervisor.write_bytes(dump_json(over.model_dump(mode="json")))
    return status(Project.resolve(Options(repo=run.repo_root)), run.run_id)


def report() -> Reply:
    """A report of 42 stages and 250 metrics, 40 of which loosen."""
    line = "stage1_speed _STAGE_1_P95[8]['latency_mean_s']: 0.5 -> 0.625, loosens by 25.0 %"
    return ReportReply(
        run_id="20260423T050000Z_x", calibration_git_sha="0" * 40, report_md="/repo/.tune-runs/x/report.md",
        report_json="/repo/.tune-runs/x/report.json", report_html="/repo/.tune-runs/x/report.html", stages=STAGES,
        metrics=250, tightens=150, loosens=40, equal=60, unknown=0, first=0, loosening=(line,) * 20,
        notes=("a clean run fails with a chance of 3.1 %",) * 3, next="tell the user, then call apply_plan",
    )  # fmt: skip


def plan() -> Reply:
    """The plan of the same."""
    rows = tuple(
        PlanRow(
            stage_key=f"stage{n // 6}_speed", metric_key=f"metric_{n % 6}", stage_group="speed",
            calibration_preset=None, variant=None,
            file=f"tests/test_model/test_stage{n // 18}_ci.py", source=f"_STAGE_{n}_P95[8]['x']",
            source_kind="nested", symbol=f"_STAGE_{n}_P95", subkey="x", concurrency=8, worst_op="max",
            per_run_raw=(0.51, 0.52, 0.53, 0.54, 0.55), worst_raw=0.55, worst_rounded=0.55, write_value=0.55,
            current_raw=0.5, direction=Direction.LOOSENS if n < 40 else Direction.TIGHTENS,
            decision="ask" if n < 40 else "auto", reason="speed that loosens is asked about",
        )
        for n in range(250)
    )  # fmt: skip
    keep = tuple(Decision(stage_key=row.stage_key, metric_key=row.metric_key, choice="keep") for row in rows[:40])
    return ApplyPlanReply(
        run_id="20260423T050000Z_x", plan_id="0" * 16, rows=rows, diff="-x = 0.5\n+x = 0.55\n" * 250, dirty=False,
        decisions=keep, next="let the user choose a mode",
    )  # fmt: skip


def applied() -> Reply:
    """What apply says of 60 values."""
    one = Applied(
        file="tests/test_model/test_stage1_ci.py", symbol="_STAGE_1_P95[8]['x']", stage_key="stage1_speed",
        metric_key="latency_mean_s", worst_op="max", old=0.5, new=0.55, direction="tightens by 10.0 %",
    )  # fmt: skip
    return ApplyReply(
        run_id="20260423T050000Z_x", plan_id="0" * 16, mode="smart", applied=(one,) * 60,
        kept=("stage2_speed/latency_mean_s",) * 190, warnings=(), undo_command="tune-mcp apply x --undo y",
        next="list every change to the user",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(show(figures()))
