"""After pytest: tree and machine compared with what they were, and the numbers that this launch left."""

from __future__ import annotations

from pathlib import Path

from tune_mcp.config.signatures import rules as watch_rules
from tune_mcp.errors import Refusal
from tune_mcp.files import sha256_file
from tune_mcp.gpus import Gpu
from tune_mcp.observe import result_files
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.session import drift, provenance
from tune_mcp.supervise import comparing, guard_record, loaded, loaded_comparison
from tune_mcp.supervise.job import Job
from tune_mcp.supervise.watch import log_lines
from tune_mcp.words import listed


def compared(job: Job, before: provenance.GitState, gpus: tuple[Gpu, ...], started_ns: int) -> dict[str, object]:
    """Tree and machine, with the GPUs that were granted, and what pytest loaded besides (SES-11, SCP-02)."""
    tree = _tree(job, before)
    machine, incomparable = comparing.machine_now(job, gpus)
    record, found = loaded_comparison.after_launch(job, before, started_ns)
    return {
        **tree,
        "environment": machine,
        "moved": "; ".join(filter(None, (str(tree["moved"]), found.moved))),
        "incomparable": "; ".join(filter(None, (incomparable, found.incomparable))),
        "inherited": found.inherited,
        "loaded_sha256": loaded.store(job, record) if record else None,
    }


def _tree(job: Job, before: provenance.GitState) -> dict[str, object]:
    """The same look as before pytest, and whether the tree was another one in between (SES-11)."""
    root = Path(job.repo_root)
    try:
        now = provenance.read(root)
    except Refusal as refusal:
        return {"moved": refusal.message}
    outputs = drift.outputs(before, now, job.tree)
    tree = job.tree.model_copy(update={"apart": (*job.tree.apart, *outputs)})
    moved = drift.moved(root, now, tree) or drift.touched(before, now, tree)
    new = sorted({*now.untracked} - {*before.untracked} - {*drift.appeared(now, tree)})
    written = drift.rewritten(before, now, tree)
    return {
        "moved": listed(moved),
        "appeared": drift.appeared(now, tree),
        "outputs": outputs,
        "rewritten": written if moved else (),
        "way_out": drift.way_out(written, new, tree) if moved else "",
    }


def numbers(job: Job) -> dict[str, object]:
    """What the guard saw, what the result files hold and whether they are this launch's, how the log ended."""
    log, basetemp, record = job.log, job.basetemp, job.guard_record
    files = ResultFiles(basetemp)
    stages = {stage.key: extract(stage, files) for stage in job.stages}
    guard = guard_record.read(record)
    sealed = result_files.digests(basetemp, result_files.named_by(job.stages))
    timed = [stage for stage in job.stages if stage.key in job.timed]
    marks = {name: result_files.signature(files.document(name)) for name in result_files.named_by(timed)}
    known = {name: mark for name, mark in marks.items() if mark}
    raised = [failure.sentence() for failure in guard.failures]
    # When the launch began and its session ended, by the clock of the file system that holds the results.
    began = (job.folder / "guard" / "tune_guard.py").stat().st_mtime_ns
    ended = record.stat().st_mtime_ns if record.is_file() else 0
    return {
        "guard": guard,
        "start_error": "" if guard.started else log_lines.start_error_in(log),
        "stages": stages,
        "signature": log_lines.failure_in(log, watch_rules(job.signatures), raised),
        "log_sha256": sha256_file(log),
        "evidence_sha256": sealed,
        "signatures_of_files": known,
        "strangers": result_files.strangers(basetemp, sealed, began, ended),
    }
