"""Delete, edit and copy what lies in a run directory, at random and between kills; nothing measured may disappear.

The toy measures a better value with every launch and writes down, outside the run directory, what it measured: so an
observation that vanished and was measured again shows. A round is a moment of a run, a kill or none, one or two changes
to its files, and a resume; the draws are seeded.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import campaign
import crash
import toy
from campaign import Campaign, _at_rest, _until, survivors
from crash import CRASHED

from tune_mcp.cli.main import main
from tune_mcp.contract.strict_audit import Cell
from tune_mcp.errors import Refusal
from tune_mcp.observe.audit import audit
from tune_mcp.report.facts import ReportFacts
from tune_mcp.run_dir import RunDir, list_runs
from tune_mcp.session import state
from tune_mcp.supervise.job import AttemptResult, Job

REPEATS = 3
SPEED, KEY = "toy_speed", toy.TEST_KEY
VERB_LIMIT_S = 120
REFUSALS = frozenset(
    {
        "FOREIGN_ARTIFACT", "PLAN_TAMPERED", "HOST_NOT_COMPARABLE", "HALT_UNRESOLVED", "NOT_STRICT", "GIT_PROVENANCE",
        "UNKNOWN_RUN", "REPEAT_IS_STRICT", "NOT_REPORTED", "STALE_REPORT", "TEST_FAILED", "RUN_ACTIVE", "HOST_BUSY",
        "UNRESOLVED_CONTEXT",
    }
)  # fmt: skip
"""Clear answers to a run directory that somebody changed."""
_IN_NEED = (state.RunState.HALTED, state.RunState.EXHAUSTED, state.RunState.FAILED)
VALUES = "accuracy, throughput, latency = VALUES[(k - 1) % len(VALUES)]"
MEASURING = """
    import random
    launch = len((STATE / f"launched{k}").read_text().split())
    noise = random.Random(f"{k} {launch}").random() * 1e-4
    accuracy, throughput, latency = 0.75, 2 + launch / 1000 + noise, 8 - launch / 1000 - noise
"""
WRITTEN = '(folder / "result.json").write_text(json.dumps(found))'
NOTED = """
    run = os.environ["TUNE_GUARD_RECORD"].partition("/.tune-runs/")[2].partition("/")[0]
    with (STATE / "measured").open("a") as out:
        out.write(json.dumps([run, k, latency]) + "\\n")
"""


def make(folder: Path) -> campaign.Project:
    """The toy whose every launch measures a little better than the one before, and says so outside the run."""
    source = toy.toy_source().replace(VALUES, MEASURING.strip()).replace(WRITTEN, f"{WRITTEN}\n{NOTED}".rstrip())
    return toy.make_toy(folder, test_source=source)


@dataclass
class Change:
    """One change to a run directory: its kind, the repeats whose sealed evidence it took away, and the way back."""

    kind: str
    evidence: frozenset[int] = frozenset()
    undo: Callable[[], object] = lambda: None


@dataclass
class Tampering(Campaign):
    """``kinds`` counts changes, ``answers`` the codes of refusals, ``abandoned`` runs that can only be given up."""

    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    rounds: int = 0
    _first: dict[tuple[str, int], float] = field(default_factory=dict)
    _hurt: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    _before: tuple[state.RunState, str] | None = None
    _changes: list[Change] = field(default_factory=list)
    _stranger: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._stranger = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])

    # ---- rounds ----

    def play(self, rounds: int) -> None:
        """That many rounds; each leaves a run that is checked, and goes on from what the one before left."""
        try:
            for self.rounds in range(1, rounds + 1):
                self._round()
            self._finish()
        except BaseException:
            print(f"in round {self.rounds}: {[one.kind for one in self._changes]}")
            raise
        finally:
            self._stranger.kill()
            self._stranger.wait()

    def _round(self) -> None:
        run = self._newest()
        if run is None or self._is_done(run):
            self._changes.clear()
            before = {one.run_id for one in list_runs(self.project.repo_root)}
            self._verb("run", toy.MODEL, "--repeats", str(REPEATS), "--detach")
            made = [one for one in list_runs(self.project.repo_root) if one.run_id not in before]
            if not made:
                return
            (run,) = made
        elif _at_rest(run):
            self._resume(run)
            if not run.path.exists():
                return
        if self._draw.random() < 0.8:
            targets = self._targets()
            name = self._draw.choice(list(targets))
            self._reach(run, lambda: targets[name](run))
            if self._draw.random() < 0.6:
                self._kill(name, targets[name](run))
        else:
            _until(lambda: _at_rest(run), f"{run.run_id} does not come to rest")
        for _ in range(self._draw.choice((1, 1, 2))):
            self._change(run)
        _until(lambda: _at_rest(run), f"{run.run_id} does not come to rest")
        self._looked_at(run)

    def _finish(self) -> None:
        run = self._newest()
        for _ in range(40):
            if run is None or (run.path / "done").exists() or not run.path.exists():
                return
            if _at_rest(run):
                self._resume(run)
            _until(lambda: _at_rest(run) or not run.path.exists(), f"{run.run_id} does not come to rest")
            self._looked_at(run)
        raise AssertionError(f"the run is not completed\n{_told(run)}")

    def _newest(self) -> RunDir | None:
        return next((RunDir(path) for path in sorted(self.project.repo_root.glob(".tune-runs/2*"), reverse=True)), None)

    def _is_done(self, run: RunDir) -> bool:
        return (run.path / "done").exists() and self._draw.random() < 0.5

    def _targets(self) -> dict[str, Callable[[RunDir], list[int]]]:
        return {
            "supervisor": campaign.supervisor,
            "runner": campaign.runner,
            "pytest": campaign.pytest_itself,
            "supervisor+runner": campaign.watchers,
            "whole tree": campaign.whole_tree,
        }

    def _change(self, run: RunDir) -> None:
        """Draw kinds until one finds something to change."""
        for _ in range(20):
            kind = self._draw.choice(list(KINDS))
            found = KINDS[kind](run, self._draw, self._stranger.pid)
            if found is not None:
                found.kind = kind
                self.kinds[kind] += 1
                self._hurt[run.run_id] |= found.evidence
                self._changes.append(found)
                (run.path / "done").unlink(missing_ok=True)
                return

    # ---- the product, as its user ----

    def _verb(self, *words: str) -> tuple[int, str]:
        """Exit code and text of a command; a traceback, INTERNAL or an endless wait is a failure here."""
        said = self.project.repo_root.with_name("said")
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(_command(lambda: self._call([*words, "--repo", str(self.project.repo_root)]), said))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if os.environ.get("TUNE_FAULT_TRACE"):
            print(
                f"{self.rounds} {time.monotonic():.2f} {words} -> {code} {self._changes and self._changes[-1].kind}",
                flush=True,
            )
        text = said.read_text(errors="replace")
        assert code != -signal.SIGALRM, f"{words} hangs"
        if code == CRASHED:
            return 1, ""
        assert code in (0, 1, 2) and "Traceback" not in text and "INTERNAL" not in text, f"{words}: {code}\n{text}"
        if code == 2:
            answer = text.split("\n")[0].partition(":")[0].split(" ")[0]
            assert answer in REFUSALS, f"{words}: {text}"
            assert "Next: " in text, text
            self.answers[answer] += 1
        return code, text

    def _call(self, words: list[str]) -> int:
        """In the child: the command line's own entry."""
        return main(words)

    def _resume(self, run: RunDir) -> None:
        """Go on; what is refused because of a change is taken back, or the run is given up where that is not enough."""
        purge: list[str] = []
        now = state.conclude(run)
        if now.state in _IN_NEED and self._changes:
            self._changes.pop().undo()
        told = (now.state, now.record.reason if now.record else "")
        if now.state in _IN_NEED and not self._changes and told == self._before:
            self._give_up(run, told[1])
            return
        self._before = told
        for _ in range(200):
            code, text = self._verb("resume", run.run_id, *purge)
            if code != 2:
                return
            if text.startswith(("RUN_ACTIVE", "HOST_BUSY")):
                self._looks(50, lambda: False)
                continue
            if self._changes:
                self._changes.pop().undo()
                continue
            record = state.conclude(run).record
            halt = record.halt if record else None
            if halt and halt.repeat and not purge:
                purge = ["--purge", f"{SPEED}:{halt.repeat}:its files were changed"]
                self._hurt[run.run_id].add(halt.repeat)
                continue
            self._give_up(run, text)
            return
        raise AssertionError(f"never resumed: {text}")

    def _give_up(self, run: RunDir, why: str) -> None:
        """What was taken away cannot be put back here: a clear refusal or halt is right, and the run is over."""
        run.path.rename(toy.state_folder(self.project) / run.run_id)
        self.abandoned += 1
        print(f"given up: {why[:300]}")

    # ---- what must hold ----

    def _looked_at(self, run: RunDir) -> None:
        """No process left, no bug reported, every verb answers, and what counts was measured."""
        if not run.path.exists():
            return
        record = state.conclude(run).record
        assert "a bug in" not in (record.reason if record else ""), _told(run)
        log = run.supervisor_log
        assert not log.is_file() or "Traceback" not in log.read_text(errors="replace"), _told(run)
        assert self._stranger.poll() is None, "a stranger's process was ended"
        if state.conclude(run).state is not state.RunState.LOST:
            _until(lambda: not survivors(run), f"processes of {run.run_id} live on")
        for verb in ("status", "audit", "report", "plan"):
            self._verb(verb, run.run_id)
        try:
            plan = self.project.plan(run)
        except (Refusal, OSError):
            return
        found = audit(run, plan)
        truth = self._truth(run)
        counted: dict[int, float] = {}
        for stage in found.stages:
            for repeat, cell in enumerate(stage.cells, 1):
                if stage.stage.key == SPEED and cell.cell is Cell.STRICT and cell.stored:
                    value = cell.stored.content.metrics["latency_mean_s"]
                    assert value in truth[repeat], f"repeat {repeat} counts {value}, measured were {truth[repeat]}"
                    counted[repeat] = float(value)
        assert len({*counted.values()}) == len(counted), "counted twice"
        for repeat, value in counted.items():
            self._first.setdefault((run.run_id, repeat), value)
        if found.ready and state.conclude(run).state is state.RunState.FINISHED:
            self._whole_one(run, counted, truth)

    def _whole_one(self, run: RunDir, counted: dict[int, float], truth: dict[int, list[float]]) -> None:
        """All that was measured counts or stands in the report; untouched evidence counts as it counted first."""
        for repeat, value in counted.items():
            if repeat not in self._hurt[run.run_id]:
                first = self._first[run.run_id, repeat]
                assert value == first, f"repeat {repeat} counted {first}, now {value}\n{_told(run)}"
        code, text = self._verb("report", run.run_id)
        while code == 2 and self._changes:
            self._changes.pop().undo()
            code, text = self._verb("report", run.run_id)
        assert code == 0, text
        facts = ReportFacts.model_validate_json(run.report_json.read_bytes())
        shown: dict[int, set[float]] = defaultdict(set)
        for one in facts.uncounted:
            shown[one.repeat] |= {value.value for value in one.values if value.metric == "latency_mean_s"}
            assert one.reason or not one.values, one
        for repeat, values in truth.items():
            lost = [value for value in values if value != counted[repeat] and value not in shown[repeat]]
            lost = [value for value in lost if value not in self._gone(run, repeat)]
            assert not lost, f"repeat {repeat}: {lost} of {values} neither count nor are shown\n{_told(run)}"
        (run.path / "done").touch()
        self.finished += 1

    def _gone(self, run: RunDir, repeat: int) -> Iterable[float]:
        """Values that were never sealed and whose only file was taken away by a change here."""
        sealed = self._first.get((run.run_id, repeat))
        if repeat not in self._hurt[run.run_id]:
            return ()
        return [value for value in self._truth(run)[repeat] if value != sealed]

    def _truth(self, run: RunDir) -> dict[int, list[float]]:
        """What every launch of this run that wrote a result has measured, by repeat."""
        path = toy.state_folder(self.project) / "measured"
        found: dict[int, list[float]] = defaultdict(list)
        for line in path.read_text().splitlines() if path.exists() else ():
            name, repeat, value = json.loads(line)
            if name == run.run_id:
                found[repeat].append(value)
        return found


def _told(run: RunDir) -> str:
    """What the run says of itself, from its plain files."""
    paths = [run.events, run.supervisor_log, *run.path.glob("_pytest/*/attempts/*/runner.log")]
    plain = (path for path in paths if path.is_file())
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in plain)


def _command(call: Callable[[], int], said: Path) -> int:
    """In the child: everything that the call prints in a file, and a limit."""
    gc.disable()  # it would touch, and so copy, every page of the parent
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(VERB_LIMIT_S)
    try:
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = call()
    except SystemExit as end:
        code = int(str(end.code or 0))
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return code


class InProcess(Tampering):
    """The same with a supervisor that works in the forked command and measures at once: a kill is a crash at one of its
    steps on the file system, a moment of the run is one of its attempts. Two hundred times as many rounds a minute.
    """

    def _reach(self, run: RunDir, target: Callable[[], list[int]]) -> None:
        """Nothing runs between two commands."""

    def _kill(self, name: str, pids: list[int]) -> None:
        """See ``_call``."""

    def _verb(self, *words: str) -> tuple[int, str]:
        self._step, self._within = 0, ""
        if words[0] in ("run", "resume"):
            self._step = self._draw.choice((0, self._draw.randrange(1, 400)))
            if self._draw.random() < 0.3:
                self._within = self._draw.choice(list(KINDS))
            self._at, self._seed = self._draw.randint(1, 4), self._draw.random()
            self.kills["crash"] += bool(self._step)
        code, text = super()._verb(*words)
        run = self._newest()
        if self._within and run:
            self.kinds[self._within] += 1
            self._hurt[run.run_id] |= {*range(1, REPEATS + 1)}
        return code, text

    def _call(self, words: list[str]) -> int:
        with toy.supervised_here(self._attempt), mock.patch("os.fsync", lambda _: None):
            if self._step:
                crash.arm(self._step)
            return super()._call(words)

    def _attempt(self, job: Job) -> AttemptResult | None:
        """What the toy's pytest does: a better value at each launch, and a word on it outside the run."""
        self._at -= 1
        if self._at == 0 and self._within:
            KINDS[self._within](job.run, random.Random(self._seed), self._stranger.pid)
        launches = toy.state_folder(self.project) / f"launched{job.repeat}"
        with launches.open("a") as out:
            out.write("0\n")
        launch = len(launches.read_text().split())
        speed = {"throughput_qps": 2 + launch / 1000, "latency_mean_s": 8 - launch / 1000 - job.repeat / 1e5}
        result = toy.measured(job, speed=speed)
        with (toy.state_folder(self.project) / "measured").open("a") as out:
            out.write(json.dumps([job.run.run_id, job.repeat, speed["latency_mean_s"]]) + "\n")
        return result if job.folder.is_dir() else None  # a runner whose folder was taken away ends without a result


# ---- the kinds of change ------------------------------------------------------------------------------------------

Kind = Callable[[RunDir, random.Random, int], "Change | None"]


class _Kept:
    """A plain file as it is now; put back later unless the run has written another one in the meantime."""

    def __init__(self, path: Path) -> None:
        self._path, self._data, self._left = path, path.read_bytes(), None

    def changed(self) -> _Kept:
        self._left = _stamp(self._path)
        return self

    def __call__(self) -> None:
        if _stamp(self._path) == self._left and self._path.parent.is_dir():
            _removed(self._path)
            self._path.write_bytes(self._data)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _deleted(path: Path, _: random.Random) -> None:
    _removed(path)


def _emptied(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def _torn(path: Path, _: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flattered(path: Path, draw: random.Random) -> None:
    """Every latency in it becomes a better one; a file without any gets another line."""
    text = path.read_text(errors="surrogateescape")
    better = text.replace("7.9", f"1.{draw.randrange(10)}")
    path.write_text(better if better != text else f"{text}\n ", errors="surrogateescape")


def _piped(path: Path, _: random.Random) -> None:
    _removed(path)
    os.mkfifo(path)


def _foldered(path: Path, _: random.Random) -> None:
    _removed(path)
    path.mkdir()


def _linked(path: Path, _: random.Random) -> None:
    """A link to its own copy elsewhere."""
    copy = path.parent.parent / f"{path.name}.elsewhere"
    _removed(copy)
    path.rename(copy)
    path.symlink_to(copy)


def _hard_linked(path: Path, _: random.Random) -> None:
    other = path.with_name(f".{path.name}.second")
    _removed(other)
    os.link(path, other)


def _dangling(path: Path, _: random.Random) -> None:
    _removed(path)
    path.symlink_to("nowhere")


WAYS: dict[str, Callable[[Path, random.Random], None]] = {
    "deleted": _deleted, "emptied": _emptied, "torn": _torn, "flattered": _flattered, "a pipe": _piped,
    "a folder": _foldered, "a link": _linked, "a hard link": _hard_linked, "a dangling link": _dangling,
}  # fmt: skip
"""What can become of one file."""


def _artifacts(run: RunDir) -> list[Path]:
    return [*run.path.glob("toy_*/run[0-9].json")]


def _seals(run: RunDir) -> list[Path]:
    return [*run.path.glob(f"_pytest/{KEY}/attempts/run*_a*/result.json")]


def _results(run: RunDir) -> list[Path]:
    own = run.path.glob(f"_pytest/{KEY}/basetemp_run*/toy0/result.json")
    return [*own, *run.path.glob(f"_pytest/{KEY}/attempts/*/basetemp_run*/toy0/result.json")]


def _records(run: RunDir) -> list[Path]:
    return [*run.path.glob(f"_pytest/{KEY}/guard_run*.jsonl"), *run.path.glob(f"_pytest/{KEY}/attempts/*/guard/*.json")]


def _small(run: RunDir) -> list[Path]:
    """The other files of an attempt."""
    return [path for path in run.path.glob(f"_pytest/{KEY}/attempts/run*_a*/*") if path.name != "result.json"]


def _logs(run: RunDir) -> list[Path]:
    return [*run.path.glob(f"_pytest/{KEY}/run*.log"), run.run_log, run.supervisor_log]


def _named(*names: str) -> Callable[[RunDir], list[Path]]:
    return lambda run: [run.path / name for name in names]


def _repeat_of(path: Path) -> int:
    """Of which repeat a path below the run directory speaks; 0 for none."""
    for part in reversed(path.parts):
        name = part.partition(".")[0].removeprefix("basetemp_").removeprefix("guard_")
        if name.startswith("run") and name[3:4].isdigit():
            return int(name[3:4])
    return 0


def _of_files(find: Callable[[RunDir], list[Path]], ways: Iterable[str], evidence: bool) -> Kind:
    def change(run: RunDir, draw: random.Random, _: int) -> Change | None:
        paths = sorted(path for path in find(run) if path.is_file() and not path.is_symlink())
        if not paths:
            return None
        path, way = draw.choice(paths), draw.choice(list(ways))
        try:
            kept = _Kept(path)
            WAYS[way](path, draw)
        except FileNotFoundError:
            return None  # the run moved it in this moment
        repeats = frozenset({_repeat_of(path.relative_to(run.path))} - {0}) if evidence else frozenset[int]()
        return Change("", repeats, kept.changed())

    return change


def _line(text: Callable[[RunDir, int], bytes]) -> Kind:
    """A line appended to the ledger."""

    def change(run: RunDir, draw: random.Random, _: int) -> Change | None:
        line, repeat = text(run, draw.randint(1, REPEATS)), 0
        with run.events.open("ab") as out:
            out.write(line)

        def undo() -> None:
            run.events.write_bytes(run.events.read_bytes().replace(line, b"", 1))

        return Change("", frozenset({repeat} - {0}), undo)

    return change


def _event(kind: str, **facts: object) -> Callable[[RunDir, int], bytes]:
    def line(_: RunDir, repeat: int) -> bytes:
        body = {"t": "2026-04-23T05:00:00Z", "kind": kind, "text": "by somebody", "repeat": repeat, **facts}
        return json.dumps(body).encode() + b"\n"

    return line


def _swapped(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """An artifact of one repeat in the place of another one's."""
    paths = _artifacts(run)
    if len(paths) < 2:
        return None
    source, target = draw.sample(sorted(paths), 2)
    kept = _Kept(target)
    shutil.copyfile(source, target)
    return Change("", undo=kept.changed())


def _attempts(run: RunDir) -> list[Path]:
    return sorted(path for path in run.path.glob(f"_pytest/{KEY}/attempts/run*_a*") if path.is_dir())


def _special(folder: str, names: list[str]) -> list[str]:
    """Pipes and the like, which an earlier round left and no copy can take."""
    paths = ((name, Path(folder, name)) for name in names)
    return [name for name, path in paths if not (path.is_file() or path.is_dir() or path.is_symlink())]


def _copied_attempt(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """An attempt's folder once more, as an attempt of another repeat or a later one of its own."""
    paths = _attempts(run)
    if not paths:
        return None
    source = draw.choice(paths)
    target = source.with_name(f"run{draw.randint(1, REPEATS)}_a{draw.randint(1, 4)}")
    hit = {_repeat_of(target)} if target.exists() else set[int]()
    if target == source:
        return None
    _removed(target)
    shutil.copytree(source, target, symlinks=True, ignore=_special)
    return Change("", frozenset(hit), lambda: _removed(target) if not hit else None)


def _moved_attempt(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """A whole attempt's folder moved out of the run, or below purged/."""
    paths = _attempts(run)
    if not paths:
        return None
    source = draw.choice(paths)
    place = draw.choice((run.purged, run.path.parent / "elsewhere"))
    place.mkdir(exist_ok=True)
    target = place / f"{source.name}-{draw.randrange(10**6)}"
    source.rename(target)

    def undo() -> None:
        if target.exists() and not source.exists():
            source.parent.mkdir(parents=True, exist_ok=True)
            target.rename(source)

    return Change("", frozenset({_repeat_of(source)}), undo)


def _moved_evidence(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """All that pytest left of every repeat, gone from the run."""
    source = run.test_folder(KEY)
    if not source.is_dir():
        return None
    target = run.path.parent / "elsewhere" / f"all-{draw.randrange(10**6)}"
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    return Change("", frozenset(range(1, REPEATS + 1)))


def _linked_basetemp(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """One repeat's folder is a link to another one's."""
    paths = sorted(run.path.glob(f"_pytest/{KEY}/basetemp_run*"))
    if len(paths) < 2:
        return None
    source, target = draw.sample(paths, 2)
    _removed(target)
    target.symlink_to(source)
    return Change("", frozenset({_repeat_of(target)}), lambda: _removed(target))


def _copied_result(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """One repeat's result file over another one's."""
    paths = sorted(path for path in _results(run) if path.is_file())
    if len(paths) < 2:
        return None
    source, target = draw.sample(paths, 2)
    if source.samefile(target):  # below a folder that is a link by now
        return None
    shutil.copyfile(source, target)
    return Change("", frozenset({_repeat_of(target.relative_to(run.path))}))


def _strangers_tree(run: RunDir, draw: random.Random, stranger: int) -> Change | None:
    """A record of processes that names somebody else's."""
    paths = sorted(path for path in run.trees() if path.is_file())
    if not paths:
        return None
    path = draw.choice(paths)
    kept = _Kept(path)
    tree = json.loads(path.read_bytes())
    one = state.owner(stranger).model_dump(mode="json")
    path.write_text(json.dumps({**tree, "members": [one], "pytest": one, "runner": one}))
    return Change("", undo=kept.changed())


def _cut_ledger(run: RunDir, draw: random.Random, _: int) -> Change | None:
    """The last lines of the ledger are gone; only once the run has ended: a log in use is never rewritten."""
    if not _at_rest(run):
        return None
    lines = run.events.read_bytes().splitlines(keepends=True)
    place = max(1, len(lines) - draw.randint(1, 4))
    before, cut = b"".join(lines[:place]), b"".join(lines[place:])
    run.events.write_bytes(before)

    def undo() -> None:
        data = run.events.read_bytes()
        if data.startswith(before):
            run.events.write_bytes(before + cut + data[len(before) :])

    return Change("", frozenset(range(1, REPEATS + 1)), undo)


def _stop(run: RunDir, draw: random.Random, _: int) -> Change | None:
    data = draw.choice((b'{"reason": "somebody"}', b"{", b"", b"[]", b'{"reason": 1}'))
    run.stop_request.write_bytes(data)
    return Change("", undo=lambda: run.stop_request.unlink(missing_ok=True))


KINDS: dict[str, Kind] = {
    "run{k}.json": _of_files(_artifacts, WAYS, evidence=False),
    "run{k}.json of another repeat": _swapped,
    "sealed result.json": _of_files(_seals, WAYS, evidence=True),
    "result file": _of_files(_results, WAYS, evidence=True),
    "result file of another repeat": _copied_result,
    "basetemp a link": _linked_basetemp,
    "guard record": _of_files(_records, WAYS, evidence=True),
    "other file of an attempt": _of_files(_small, WAYS, evidence=True),
    "log": _of_files(_logs, WAYS, evidence=True),
    "tree.json of a stranger": _strangers_tree,
    "ledger: withdrawn": _line(_event("withdrawn", stage=SPEED)),
    "ledger: withdrawn both": _line(
        lambda run, k: b"".join(_event("withdrawn", stage=key)(run, k) for key in toy.STAGES)
    ),
    "ledger: recorded": _line(_event("recorded", stage=SPEED, sha256="0" * 64)),
    "ledger: purged": _line(_event("purged", test=KEY, who="supervisor", folder="purged/../../elsewhere")),
    "ledger: restored": _line(_event("restored", test=KEY, folder="purged/x")),
    "ledger: blank": _line(lambda run, k: b"\n"),
    "ledger: torn": _line(lambda run, k: b'{"kind": "recorded", "stage'),
    "ledger: junk": _line(lambda run, k: b"\xff\xfe\x00 \xed\xa0\x80\n"),
    "ledger: cut": _cut_ledger,
    "attempt copied": _copied_attempt,
    "attempt moved": _moved_attempt,
    "all evidence moved": _moved_evidence,
    "plan.json": _of_files(_named("plan.json"), WAYS, evidence=False),
    "environment.json": _of_files(_named("environment.json"), WAYS, evidence=False),
    "loaded.json": _of_files(_named("loaded.json"), WAYS, evidence=False),
    "side file": _of_files(
        _named("precheck.json", "gpus.json", "report.json", "report.md", "report.html", "watched"), WAYS, evidence=False
    ),
    "stop.json": _stop,
}
