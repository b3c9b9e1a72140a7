"""An apply of three files that is cut off at any call to the file system: all old or all new, and nothing left over."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import toy
from faulty_disk import DIED, DONE, REFUSED, Fault, calls_of, run

from tune_mcp.apply import literals, proof, transaction
from tune_mcp.apply.transaction import read_journal
from tune_mcp.contract.apply import Decision
from tune_mcp.errors import Code, Refusal
from tune_mcp.files import FileLock, sha256_file
from tune_mcp.report.write import read_report
from tune_mcp.run_dir import RunDir
from tune_mcp.server import serve
from tune_mcp.server.context import server_context
from tune_mcp.session import events
from tune_mcp.verbs import answers, apply_recovery
from tune_mcp.verbs.apply import apply, undo
from tune_mcp.verbs.apply_plan import apply_plan, proposal_for
from tune_mcp.verbs.project import Options, Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run

NAMES = ("test_a_ci.py", "test_b_ci.py", "test_c_ci.py")
FILES = tuple(f"tests/{name}" for name in NAMES)
CHANGING = ("tests", ".tune", ".tune-runs")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


@dataclass
class Repo:
    """A calibrated repository with three test files; ``reset`` puts it back to the moment before the apply."""

    project: Project
    run: RunDir
    plan_id: str
    kept: Path
    log: Path
    old: dict[str, bytes]

    @property
    def root(self) -> Path:
        return self.project.repo_root

    def reset(self, moment: str = "planned") -> None:
        for name in CHANGING:
            shutil.rmtree(self.root / name)
            shutil.copytree(self.kept / moment / name, self.root / name)

    def keep(self, moment: str) -> None:
        for name in CHANGING:
            shutil.copytree(self.root / name, self.kept / moment / name)

    def apply(self) -> None:
        """Apply all; the proof in a child of the project's Python, which writes nothing, is left out."""
        with mock.patch.object(proof, "prove", return_value=""):
            apply(self.project, self.run.run_id, self.plan_id, "full", otherwise="apply")

    def undo(self) -> None:
        undo(self.project, self.run.run_id, self.plan_id)

    def contents(self) -> dict[str, bytes]:
        return {name: (self.root / name).read_bytes() for name in FILES}

    def whole(self, new: dict[str, bytes]) -> bool:
        """Whether all files are new; fails for a mixture and for anything that does not agree with the files."""
        found = self.contents()
        assert found in (self.old, new)
        is_new = found == new
        written = read_report(self.run)
        assert written is not None
        assert len(written.applied) == (3 * 3 if is_new else 0)
        assert ("## Applied changes" in self.run.report_md.read_text()) is is_new
        for stage in toy.open_project(self.root).places.stages(toy.MODEL).values():
            assert stage.test_file_sha256 == sha256_file(self.root / stage.test)
        assert [path.name for path in (self.root / "tests").iterdir() if path.suffix != ".py"] == []
        assert not any(self.run.applies.glob("*/unsettled"))
        journal = read_journal(self.run.apply_folder(self.plan_id))
        assert journal is None or journal.state == ("committed" if is_new else "rolled_back")
        return is_new


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LOCK_DIR", str(tmp_path_factory.mktemp("lock")))
        folder = tmp_path_factory.mktemp("interrupted")
        config = {
            **toy.CONFIG,
            "test_globs": ["tests/test_?_ci.py"],
            "gpus_per_test": dict.fromkeys(NAMES, 0),
            "metric_sources": dict.fromkeys(NAMES, toy.CONFIG["metric_sources"]["test_toy_ci.py"]),
        }
        project = toy.make_toy(folder / "repo", config=config, files=dict.fromkeys(FILES, toy.toy_source()))
        run_dir = toy.finished_run(project, 1)
        report(project, run_dir.run_id)
        plan_id = apply_plan(project, run_dir.run_id).plan_id
        old = {name: (project.repo_root / name).read_bytes() for name in FILES}
        for name, year in zip(FILES, (2000, 2100, 2000), strict=True):
            # One file whose time must be set behind that of the old one, whatever the clock says meanwhile.
            moment = datetime(year, 1, 1, tzinfo=UTC).timestamp()
            os.utime(project.repo_root / name, (moment, moment))
        made = Repo(project, run_dir, plan_id, folder / "kept", folder / "log", old)
        made.keep("planned")
        return made


@pytest.fixture
def repo(measured: Repo) -> Repo:
    measured.reset()
    return measured


@pytest.fixture
def new(repo: Repo) -> dict[str, bytes]:
    """The three files after an apply that nothing disturbs."""
    repo.apply()
    found = repo.contents()
    if not (repo.kept / "applied").exists():
        repo.keep("applied")
    repo.reset()
    return found


@pytest.fixture
def planned(repo: Repo) -> object:
    """The gates are passed and the new bytes made once and not at each of hundreds of steps."""
    found = proposal_for(repo.project, repo.run.run_id, repo.plan_id)
    made = cache(literals.rewrite)
    with (
        mock.patch("tune_mcp.verbs.apply.proposal_for", lambda *_: found),
        mock.patch("tune_mcp.verbs.apply.rewrite", lambda data, path, edits: made(data, path, tuple(edits))),
    ):
        repo.apply()
        repo.reset()
        yield


def sweep(
    repo: Repo, new: dict[str, bytes], act: Callable[[], None], moment: str, fault: Callable[[int], Fault]
) -> dict[bool, int]:
    """``act`` with a fault at each of its calls; the next start finds everything whole. Outcomes: new -> how often."""
    repo.reset(moment)
    calls = calls_of(act, repo.log)
    assert calls > 60
    outcomes = {True: 0, False: 0}
    mixed = 0
    for step in range(1, calls + 2):
        repo.reset(moment)
        end = run(act, step, fault(step), repo.log)
        mixed += repo.contents() not in (repo.old, new)
        assert end in (DIED, REFUSED, DONE), f"step {step}: {repo.log.read_text()}"
        apply_recovery.settle(repo.project)
        is_new = repo.whole(new)
        # An error may be harmless (mkdir of a folder that is there); "done" means that it is done.
        assert end != DONE or is_new is (moment == "planned"), f"step {step}"
        outcomes[is_new] += 1
    assert end == DONE, "behind the last call nothing fails any more"
    assert mixed >= 2 or fault(0) != "torn", "a crash between two renames is among them"
    return outcomes


@pytest.mark.rule("APL-24")
def test_an_apply_that_dies_at_any_call_is_all_old_or_all_new_after_the_next_start(
    repo: Repo, new: dict[str, bytes], planned: None
) -> None:
    outcomes = sweep(repo, new, repo.apply, "planned", lambda _: "torn")

    assert min(outcomes.values()) > 10, "both ways out of a crash were met"


@pytest.mark.rule("APL-24")
def test_an_apply_whose_disk_fails_at_any_call_is_all_old_or_all_new_and_never_silent(
    repo: Repo, new: dict[str, bytes], planned: None
) -> None:
    outcomes = sweep(repo, new, repo.apply, "planned", lambda step: ERRORS[step % 3])

    assert min(outcomes.values()) > 10


@pytest.mark.rule("APL-24")
def test_an_undo_that_dies_at_any_call_is_all_old_or_all_new_and_can_be_called_again(
    repo: Repo, new: dict[str, bytes]
) -> None:
    outcomes = sweep(repo, new, repo.undo, "applied", lambda _: "torn")

    assert min(outcomes.values()) > 5
    repo.undo()
    assert not repo.whole(new)


def cut_off(repo: Repo) -> None:
    """An apply that was killed behind two of its three renames: old and new stand side by side."""
    real = os.replace
    seen: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        seen.append(Path(target))
        if sum(path.parent == repo.root / "tests" for path in seen) == 3:
            os._exit(DIED)
        real(source, target)

    def apply() -> None:
        with mock.patch.object(os, "replace", replace):
            repo.apply()

    assert run(apply, 0, "crash", repo.log) == DIED, repo.log.read_text()
    assert sum(content != repo.old[name] for name, content in repo.contents().items()) == 2


@pytest.mark.rule("APL-24")
@pytest.mark.parametrize("verb", ["apply", "report", "undo", "start_run", "serve"])
def test_every_start_settles_what_was_cut_off(
    repo: Repo, new: dict[str, bytes], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(repo)
    monkeypatch.setattr(server_context, "options", Options(repo=repo.root))
    acts: dict[str, Callable[[], object]] = {
        "apply": lambda: apply(repo.project, repo.run.run_id, repo.plan_id, "report"),
        "report": lambda: report(repo.project, repo.run.run_id),
        "undo": repo.undo,
        "start_run": lambda: toy.finished_run(repo.project, 1),
        "serve": serve.settle_at_start,
    }

    acts[verb]()

    assert not repo.whole(new)
    told = [event.text for event in events.read(repo.run.events) if event.kind == "settled"]
    assert told == [f"an apply that was cut off is rolled back (plan {repo.plan_id})"]


@pytest.mark.rule("APL-24")
def test_a_reader_between_two_renames_is_told_so_and_concludes_nothing(repo: Repo, new: dict[str, bytes]) -> None:
    found: list[Code] = []

    def look(source: Path, target: Path) -> None:
        for act in (
            lambda: apply_plan(repo.project, repo.run.run_id),
            lambda: report(repo.project, repo.run.run_id),
            lambda: start_run(repo.project, toy.MODEL),
            repo.undo,
        ):
            with pytest.raises(Refusal) as caught:
                act()
            found.append(caught.value.code)
        os.replace(source, target)

    original = transaction.commit
    with mock.patch.object(transaction, "commit", lambda *words: original(*words, look)):
        repo.apply()

    assert found == [Code.THRESHOLD_CHANGED, Code.RUN_ACTIVE, Code.RUN_ACTIVE, Code.RUN_ACTIVE] * 3
    assert repo.whole(new)


@pytest.mark.rule("APL-24", "STR-18")
@pytest.mark.parametrize("verb", ["apply", "undo"])
def test_nothing_is_written_while_another_run_measures_this_repository(
    repo: Repo, new: dict[str, bytes], verb: str
) -> None:
    repo.reset("applied" if verb == "undo" else "planned")
    before = repo.contents()
    other = repo.root / ".tune-runs/20991231T000000Z_other"
    shutil.copytree(repo.run.path, other)
    lock = FileLock.take(RunDir(other).supervisor_lock, {})
    assert lock is not None
    (other / "supervisor.json").write_text('{"state": "running", "heartbeat_at": 0}')

    with pytest.raises(Refusal, match=r"^RUN_ACTIVE .*20991231T000000Z_other is measuring"):
        {"apply": repo.apply, "undo": repo.undo}[verb]()

    assert repo.contents() == before
    lock.release()
    (other / "supervisor.json").write_text('{"state": "finished", "heartbeat_at": 0}')
    {"apply": repo.apply, "undo": repo.undo}[verb]()
    assert repo.contents() != before


@pytest.mark.rule("APL-24")
def test_answers_survive_a_disk_that_fails_and_go_with_an_undo(repo: Repo, new: dict[str, bytes]) -> None:
    said = Decision(stage_key="a_accuracy", metric_key="accuracy", choice="keep")
    answers.store_decisions(repo.run, repo.plan_id, [said])

    assert run(repo.apply, 60, errno.ENOSPC, repo.log) == REFUSED, repo.log.read_text()
    apply_recovery.settle(repo.project)
    assert list(answers.load(repo.run, repo.plan_id).decisions) == [said]
    repo.apply()
    repo.undo()

    assert answers.load(repo.run, repo.plan_id).decisions == ()


def test_a_plan_whose_files_were_put_back_by_hand_is_undone_first(repo: Repo, new: dict[str, bytes]) -> None:
    repo.apply()
    toy.git(repo.root, "checkout", "-q", "--", "tests", ".tune")
    keep = [
        Decision(stage_key=row.stage_key, metric_key=row.metric_key, choice="keep")
        for row in apply_plan(repo.project, repo.run.run_id).rows
    ]
    for decisions in ((), keep):
        with pytest.raises(Refusal, match=r"^STALE_PLAN .*--undo"):
            apply(repo.project, repo.run.run_id, repo.plan_id, "full", decisions, otherwise="apply")

    repo.undo()
    repo.apply()

    assert repo.whole(new)
