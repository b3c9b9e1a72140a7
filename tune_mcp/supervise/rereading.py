"""Read sealed attempts again after a fix of the configuration, or when an artifact was lost; nothing is launched.

The rule that leaves nothing to choose: the attempts of a repeat are judged once more, in the order in which they were
made, with the present definitions, and the first that is a complete observation counts. That is the one after which
the supervisor would have stopped, had the configuration been right from the start; whatever came later does not count
and is shown in the report. An attempt is read only if it is as it was sealed, on the plan's commits, test files and
machine; what a person had purged stays out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from tune_mcp.config.stages import Stage
from tune_mcp.observe import observation as observations
from tune_mcp.observe import result_files
from tune_mcp.observe.audit import one_scope
from tune_mcp.observe.extract import ResultFiles, extract
from tune_mcp.observe.observation import Attempt, AttemptVerdict
from tune_mcp.precheck import fingerprint
from tune_mcp.run_dir import RunDir, attempt_folders
from tune_mcp.session import events
from tune_mcp.session.plan import Plan
from tune_mcp.session.state import Halt
from tune_mcp.supervise import comparing, sealed
from tune_mcp.supervise.purge import purge
from tune_mcp.supervise.recording import attempt_made, record
from tune_mcp.supervise.retry import judge
from tune_mcp.supervise.schedule import Repeat
from tune_mcp.supervise.sealed import SealedAttempt
from tune_mcp.supervise.verdict import Keep, Stop, Verdict

HASHES = frozenset({"last_discovered_at", "test_file_sha256", "threshold_file_sha256"})
"""What a stage may say otherwise without being another stage: the files' digests are compared on their own."""
_OF_CONFIGURATION = frozenset({"HLT-01", "SMP-06"})


@dataclass(frozen=True)
class Counted:
    """The attempt that counts, read with the present definitions, and all attempts of its epoch for the history."""

    attempt: SealedAttempt
    keep: Keep
    history: tuple[tuple[SealedAttempt, Verdict | None], ...]


@dataclass(frozen=True)
class Reread:
    """What a look found: repeats that count without a launch, and those whose whole evidence still cannot be read."""

    counted: dict[Repeat, Counted] = field(default_factory=dict[Repeat, Counted])
    unreadable: dict[Repeat, Halt] = field(default_factory=dict[Repeat, Halt])


def judge_again(run: RunDir, plan: Plan, repeats: Iterable[Repeat]) -> Reread:
    """Judge the sealed attempts of these repeats by ``plan``; nothing is written."""
    found = Reread()
    tests, recorded, log = plan.tests(), events.ledger(run), sealed.seals_and_moves(run)
    for test, repeat in repeats:
        scoped = one_scope(run, plan, tests[test], recorded)
        ran = sealed.counted_tests(run, test, tests[test][0].key, repeat) or next(
            (one.attempt.result.guard.collected for (other, _), one in found.counted.items() if other == test), None
        )
        one = _first_complete(run, plan, tests[test], scoped, sealed.attempts(run, test, repeat, log), ran)
        if isinstance(one, Counted):
            found.counted[(test, repeat)] = one
        elif one is not None:
            found.unreadable[(test, repeat)] = one
    return found


def _first_complete(
    run: RunDir,
    plan: Plan,
    stages: tuple[Stage, ...],
    scoped: tuple[Stage, ...],
    made: list[SealedAttempt],
    ran: tuple[str, ...] | None,
) -> Counted | Halt | None:
    by_key = {stage.key: stage for stage in scoped}
    verdicts: list[tuple[SealedAttempt, Verdict | None]] = []
    unreadable: Halt | None = None
    for attempt in made:
        read = _read(run, plan, stages, attempt)
        earlier = tuple(one for _, one in verdicts if one)
        verdict = judge(read.result, by_key, earlier, counted=ran) if read else None
        verdicts.append((read or attempt, verdict))
        if read and isinstance(verdict, Keep):
            epoch = [pair for pair in verdicts if pair[0].epoch == attempt.epoch]
            known = {pair[0].job.attempt for pair in epoch}
            epoch += [(one, None) for one in made if one.epoch == attempt.epoch and one.job.attempt not in known]
            return Counted(read, verdict, tuple(epoch))
        if isinstance(verdict, Stop) and verdict.halt.rule in _OF_CONFIGURATION:
            unreadable = unreadable or verdict.halt
    return unreadable


def _read(run: RunDir, plan: Plan, stages: tuple[Stage, ...], attempt: SealedAttempt) -> SealedAttempt | None:
    """The attempt with its numbers as the present definitions have them; None when it cannot be taken for the same."""
    job, result = attempt.job, attempt.result
    if job.tree.git_sha not in plan.commits or not _same_files(plan, stages, job.tree.file_sha256):
        return None
    if not _same_machine(run, attempt):
        return None
    readable = not any(one.problems for one in result.stages.values())  # else a later version may read what this cannot
    if readable and {one.key: one.model_dump(exclude=set(HASHES)) for one in job.stages} == {
        one.key: one.model_dump(exclude=set(HASHES)) for one in stages
    }:
        return replace(attempt, job=job.model_copy(update={"stages": stages}))
    if result_files.changed(attempt.basetemp, result.evidence_sha256, result_files.named_by(stages)):
        return None
    files = ResultFiles(attempt.basetemp)
    values = {stage.key: extract(stage, files) for stage in stages}
    return replace(
        attempt, job=job.model_copy(update={"stages": stages}), result=result.model_copy(update={"stages": values})
    )


def _same_files(plan: Plan, stages: tuple[Stage, ...], then: Mapping[str, str]) -> bool:
    """Whether the test and its threshold file are those of the plan, or differ by what was proven to measure alike."""
    proven = {name for one in plan.equivalents for name in one.files}
    names = {name for stage in stages for name in (stage.test, stage.threshold_path)}
    return all(name in proven or then.get(name) == plan.file_sha256.get(name) for name in names)


def _same_machine(run: RunDir, attempt: SealedAttempt) -> bool:
    recorded = events.ledger(run).environment_sha256
    if recorded is not None and recorded == attempt.environment_sha256:
        return True
    kept, then = comparing.recorded_machine(run), attempt.result.environment
    return (
        kept is not None and then is not None and not fingerprint.differences(kept, then, any_host=attempt.job.any_host)
    )


def record_counted(run: RunDir, plan: Plan, found: Mapping[Repeat, Counted], who: str, now: datetime) -> None:
    """Write down what ``judge_again`` found, as the supervisor writes an observation; its lock must be held."""
    for (test, repeat), one in found.items():
        attempt = _brought_back(run, plan, one.attempt, who, now)
        run.point(test, repeat, attempt.job.attempt)
        usual = attempt.home in (run.test_folder(test), attempt.job.folder)
        history = _history(run, one, attempt)
        keys = ", ".join(stage.key for stage in attempt.job.stages)
        text = (
            f"{test} run {repeat}: attempt {attempt.job.attempt} is complete, read again from its sealed files ({keys})"
        )
        record(
            attempt.job, attempt.result, "ok", one.keep.reason, history, now,
            None if usual else attempt.home,
        )  # fmt: skip
        events.append(run, "read_again", now, text, test=test, repeat=repeat, attempt=attempt.job.attempt, who=who)


def _history(run: RunDir, one: Counted, counted: SealedAttempt) -> tuple[Attempt, ...]:
    """What is known of every attempt of the epoch; those after the one that counts are superseded."""
    number = counted.job.attempt
    first = observations.load(run, counted.job.stages[0].key, counted.job.repeat)
    known = first.content.history if isinstance(first, observations.Stored) and one.attempt.epoch is None else ()
    found = {entry.attempt: entry for entry in known}
    for attempt, verdict in one.history:
        if verdict is not None:
            found[attempt.job.attempt] = attempt_made(attempt.job, attempt.result, verdict)
        elif attempt.job.attempt not in found:
            found[attempt.job.attempt] = Attempt(
                attempt=attempt.job.attempt, verdict=AttemptVerdict.SUPERSEDED, pytest_rc=attempt.result.pytest_rc,
                started_at=attempt.result.started_at, ended_at=attempt.result.ended_at,
                duration_s=attempt.result.duration_s, log="", log_sha256=attempt.result.log_sha256,
            )  # fmt: skip
    later = {"verdict": AttemptVerdict.SUPERSEDED, "reason": f"attempt {number} was complete and counts"}
    return tuple(
        entry if entry.attempt <= number else entry.model_copy(update=later) for _, entry in sorted(found.items())
    )


def _brought_back(run: RunDir, plan: Plan, attempt: SealedAttempt, who: str, now: datetime) -> SealedAttempt:
    """Put what the supervisor had moved aside back into its place; what stands there is moved aside in turn.

    An attempt of the live set is where it belongs.
    """
    test, repeat, folder = attempt.job.test_key, attempt.job.repeat, attempt.epoch
    if folder is None:
        return attempt
    keys = [stage.key for stage in plan.tests()[test]]
    reason = f"attempt {attempt.job.attempt} in {folder.name} was complete, and the first complete one counts"
    purge(run, test, keys, repeat, who=who, reason=reason, now=now)
    place = run.test_folder(test)
    attempts = place / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    for path in attempt_folders(folder, repeat).values():
        path.rename(attempts / path.name)
    for usual in run.usual(test, repeat):
        if (folder / usual.name).exists():
            (folder / usual.name).rename(usual)
    events.append(
        run, "restored", now, f"{test} run {repeat} from {folder.name}",
        test=test, repeat=repeat, folder=str(folder.relative_to(run.path)), who=who,
    )  # fmt: skip
    home = place if attempt.home == folder else attempts / attempt.home.name
    return replace(attempt, home=home, epoch=None)
