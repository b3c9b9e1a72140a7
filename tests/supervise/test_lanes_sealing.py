"""Two lanes whose attempts end in the same moment: each sees what the other left, in the order of their seals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import laned
import pytest
import toy

from tune_mcp.files import alone, write_json
from tune_mcp.run_dir import RunDir
from tune_mcp.session import events, state
from tune_mcp.supervise import loaded
from tune_mcp.supervise.job import AttemptResult, Job, parse_result
from tune_mcp.supervise.loaded import Loaded
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.stop_run import stop_run


@contextmanager
def ended_at_once(project: Project, run: RunDir, *launches: tuple[str, int]) -> Iterator[None]:
    """These go on, and inside the block all of them have measured and none is sealed."""
    laned.wait_for(project, run, *launches)
    with alone(run.sealing):
        for name, repeat in launches:
            laned.let_go(project, name, repeat)
        toy.wait_for(lambda: waiting(run.sealing) == len(launches), 60, "the runners at the seal")
        yield


def waiting(lock: Path) -> int:
    """How many processes wait for the lock (``/proc/locks``)."""
    place = f":{lock.stat().st_ino} "
    return sum("-> FLOCK" in line and place in line for line in Path("/proc/locks").read_text().splitlines())


def results(run: RunDir, test: str) -> list[AttemptResult]:
    """What is sealed by now."""
    paths = [folder / "result.json" for repeat in (1, 2, 3) for _, folder in run.attempts(test, repeat)]
    return [parse_result(path.read_bytes()) for path in paths if path.exists()]


@pytest.mark.rule("STR-17")
@pytest.mark.usefixtures("warm")
def test_of_two_lanes_that_end_with_the_same_numbers_in_the_same_moment_one_is_told_a_copy(tmp_path: Path) -> None:
    project = laned.make(tmp_path / "repo", ["a"])
    same = {"summary": {"accuracy": 0.625}, "speed": {"throughput_qps": 10.123456789, "latency_mean_s": 0.2345678912}}
    for repeat in (2, 3):
        (toy.state_folder(project) / f"run{repeat}.json").write_text(json.dumps(same))
        laned.hold(project, "a", repeat)

    run = toy.start(project, 3, lanes=2)
    with ended_at_once(project, run, ("a", 2), ("a", 3)):
        pass

    now = toy.wait_until_rest(project, run.run_id)
    (why,) = [why for one in results(run, "test_a_ci") for why in one.strangers.values()]
    assert "so it was copied or cached" in why and ("repeat 2" in why or "repeat 3" in why)
    assert (now.state, now.whole_repeats) == ("halted", "2/3"), toy.told(run)


def importing(folder: Path) -> Project:
    """Each test file imports a module of its own that git ignores."""
    project = laned.make(folder, body="    __import__(Path(__file__).stem.replace('test', 'only'))\n")
    (folder / ".git" / "info" / "exclude").write_text("only_*.py\n")
    for name in ("a", "b"):
        (folder / "tests" / f"only_{name}_ci.py").write_text("SCALE = 1\n")
        laned.hold(project, name, 1)
        laned.hold(project, name, 2)
    return project


def in_second_repeats(project: Project) -> RunDir:
    """A run whose first repeats of both files ended at once, and whose second ones wait."""
    run = toy.start(project, 2, lanes=2)
    with ended_at_once(project, run, ("a", 1), ("b", 1)):
        pass
    laned.wait_for(project, run, ("a", 2), ("b", 2))
    return run


@pytest.mark.rule("SCP-02")
@pytest.mark.usefixtures("warm")
def test_what_one_lane_loaded_is_compared_on_the_other_although_both_ended_in_the_same_moment(tmp_path: Path) -> None:
    project = importing(tmp_path / "repo")
    run = in_second_repeats(project)
    record = loaded.recorded(run.loaded)
    assert record and {Path(name).name for name in record.files} >= {"only_a_ci.py", "only_b_ci.py"}
    (tmp_path / "repo" / "tests" / "only_a_ci.py").write_text("SCALE = 2\n")
    laned.let_go(project, "b", 2)
    toy.wait_for(lambda: "purged" in run.run_log.read_text(), 60, "b's verdict")
    laned.let_go(project, "a", 2)

    now = toy.wait_until_rest(project, run.run_id)
    halt = (found := state.conclude(run).record) and found.halt
    assert now.state == "halted" and halt and halt.code == "COMMIT_MOVED", toy.told(run)
    assert "only_a_ci.py" in halt.message and halt.test == "test_b_ci"


@pytest.mark.usefixtures("warm")
def test_a_resumed_run_takes_the_joined_record_back_when_its_own_is_gone(tmp_path: Path) -> None:
    project = importing(tmp_path / "repo")
    run = in_second_repeats(project)
    stop_run(project, run.run_id, "lunch")
    joined = run.loaded.read_bytes()
    assert [path.read_bytes() for path in run.path.glob(f"_pytest/*/attempts/*/{loaded.JOINED_FILE}")] == [joined]
    run.loaded.unlink()
    for name in ("a", "b"):
        laned.let_go(project, name, 2)

    resume_run(project, run.run_id)

    assert toy.wait_until_rest(project, run.run_id, 90).strict_complete, toy.told(run)
    record = loaded.recorded(run.loaded)
    assert record and {Path(name).name for name in record.files} >= {"only_a_ci.py", "only_b_ci.py"}
    assert len([*events.read(run.events, "sealed")]) == 4


# ---- the record itself -------------------------------------------------------------------------------------------


def state_of(path: Path, digest: str) -> tuple[str, int, int, int, int]:
    facts = path.stat()
    return digest, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def record_of(path: Path, began_ns: int, files: dict[str, tuple[str, int, int, int, int]]) -> Path:
    found = Loaded(began_ns=began_ns, interpreter=("python",), search_path=(), settings=(), files=files, site={})
    write_json(path, found.model_dump(mode="json"))
    return path


def test_a_joined_record_has_the_files_of_both_and_of_what_both_have_the_state_that_was_recorded_first(
    tmp_path: Path, job: Job
) -> None:
    both, only = tmp_path / "both.py", tmp_path / "only.py"
    both.write_text("")
    only.write_text("")
    first = {str(both): state_of(both, "first"), str(only): state_of(only, "x")}
    gone = {str(tmp_path / "gone.py"): state_of(both, "gone")}
    kept = record_of(tmp_path / "kept.json", 5, first | gone)
    mine = record_of(tmp_path / "mine.json", 7, {str(both): state_of(both, "mine")})

    path = loaded.joined(job, mine, kept)
    found = loaded.recorded(path)

    assert path == job.folder / loaded.JOINED_FILE and found is not None
    assert found.files == first and found.began_ns == 5


def test_a_record_that_lacks_nothing_is_left_as_it_is(tmp_path: Path, job: Job) -> None:
    both = tmp_path / "both.py"
    both.write_text("")
    mine = record_of(tmp_path / "mine.json", 7, {str(both): state_of(both, "mine")})
    same = record_of(tmp_path / "same.json", 5, {str(both): state_of(both, "mine")})

    assert loaded.joined(job, mine, same) == mine
    assert loaded.joined(job, mine, tmp_path / "none.json") == mine


@pytest.fixture
def job(tmp_path: Path) -> Job:
    project = toy.make_toy(tmp_path / "repo")
    jobs: list[Job] = []

    def attempt(job: Job) -> AttemptResult:
        jobs.append(job)
        return toy.measured(job)

    toy.finished_run(project, 1, attempt)
    return jobs[0]
