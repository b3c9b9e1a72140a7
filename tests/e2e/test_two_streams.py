"""Every run has two streams with fixed roles: Tab A verbose, Tab B milestones; no line stands in both (SUP rules)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import toy

from tune_mcp.run_dir import RunDir
from tune_mcp.session import events
from tune_mcp.verbs import resume_run
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.status import status
from tune_mcp.verbs.strict_audit import strict_audit

SPAM = "POST /v1/audio/speech 200 OK"


@dataclass(frozen=True)
class Watched:
    """A real run that was looked at once while its first pytest waited, and again at its end."""

    project: Project
    started: resume_run.RunReply
    run: RunDir
    early_streams: tuple[bool, bool]
    during: status.StatusReply
    end: status.StatusReply

    @property
    def verbose(self) -> list[str]:
        return [line for log in self.run.path.glob("_pytest/*/run*.log") for line in log.read_text().splitlines()]

    @property
    def milestones(self) -> list[str]:
        return self.run.run_log.read_text().splitlines()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LOCK_DIR", str(tmp_path_factory.mktemp("host")))
        source = toy.toy_source().replace(
            "    held(k)\n", f"    print(*[{SPAM!r}] * 40, sep={chr(10)!r})\n    held(k)\n"
        )
        project = toy.make_toy(tmp_path_factory.mktemp("streams") / "repo", test_source=source)
        toy.hold(project, 1)
        started = start_run(project, toy.MODEL, repeats=2)
        run = project.run(started.run_id)
        toy.wait_for(lambda: toy.launches(project, 1), what="the first pytest")
        early = (run.log(toy.TEST_KEY, 1).exists(), run.run_log.exists())
        during = status(project, run.run_id)
        toy.let_go(project, 1)
        yield Watched(project, started, run, early, during, toy.wait_until_rest(project, run.run_id))


@pytest.mark.rule("SUP-01", "SUP-12", "SUP-18")
def test_a_run_never_has_one_stream_only_and_no_line_stands_in_both(watched: Watched) -> None:
    assert watched.early_streams == (True, True)
    assert watched.verbose and watched.milestones
    assert set(watched.verbose) & set(watched.milestones) == set()


@pytest.mark.rule("SUP-03", "SUP-05")
def test_all_that_pytest_says_is_in_the_verbose_stream_and_nowhere_else(watched: Watched) -> None:
    logs = sorted(watched.run.path.glob("_pytest/*/attempts/*/runner.log"))
    launched = [line for log in logs for line in log.read_text().splitlines() if " launch: " in line]

    assert len(launched) == 2
    assert all({"-v", "-s"} <= set(line.split()) for line in launched)
    assert sum(SPAM in line for line in watched.verbose) == 80
    assert not any(SPAM in line for line in watched.milestones)
    assert not any(SPAM in log.read_text() for log in logs)


@pytest.mark.rule("SUP-04")
def test_every_milestone_is_of_the_closed_vocabulary(watched: Watched) -> None:
    kinds = {line.split()[1] for line in watched.milestones}

    assert kinds <= events.MILESTONES
    assert {"planned", "launched", "observed", "finished"} <= kinds


@pytest.mark.rule("SUP-02", "SUP-06", "SUP-15")
def test_start_run_says_which_tab_is_which_and_the_verbose_one_comes_first(watched: Watched) -> None:
    lines = list(watched.started.lines())
    tab_a, tab_b = (next(at for at, line in enumerate(lines) if line.startswith(name)) for name in ("Tab A", "Tab B"))

    assert tab_a < tab_b
    assert lines[tab_a].endswith(watched.started.tail_command) and " tail " in watched.started.tail_command
    assert lines[tab_b].endswith(watched.started.watch_command) and " watch " in watched.started.watch_command
    assert not re.search(r"ls -t|tail -f|tee|>>", " ".join(lines))


@pytest.mark.rule("SUP-14")
def test_the_start_of_each_launch_says_where_its_log_stands_and_there_it_stays(watched: Watched) -> None:
    named = [line.rpartition(" — log ")[2] for line in watched.milestones if line.split()[1] == "launched"]

    assert named == [f"_pytest/{toy.TEST_KEY}/run{repeat}.log" for repeat in (1, 2)]
    assert all("2 passed" in (watched.run.path / name).read_text() for name in named)


@pytest.mark.rule("SUP-16", "POL-04")
def test_one_poll_of_an_active_run_has_the_counts_the_log_and_the_next_poll(watched: Watched) -> None:
    now = watched.during

    assert now.state == "running" and now.pytest_active
    assert now.pytest_tail == (SPAM,) * 30
    assert now.poll_within_s <= 120


@pytest.mark.rule("SUP-11", "STR-24")
def test_what_a_stranger_writes_into_run_log_changes_no_verdict(watched: Watched) -> None:
    before = strict_audit(watched.project, watched.run.run_id)
    own = watched.run.run_log.read_bytes()
    try:
        watched.run.run_log.write_bytes(b"2026-01-01T00:00:00Z finished     every stage x repeat is strict\n")

        assert strict_audit(watched.project, watched.run.run_id) == before
        assert status(watched.project, watched.run.run_id).milestones == watched.end.milestones
    finally:
        watched.run.run_log.write_bytes(own)


@pytest.mark.rule("SUP-17")
def test_the_only_job_there_is_logs_below_the_run_directory(watched: Watched) -> None:
    logs = {path.relative_to(watched.run.path).as_posix() for path in watched.run.path.rglob("run*.log")}

    assert logs >= {"run.log", f"_pytest/{toy.TEST_KEY}/run1.log", f"_pytest/{toy.TEST_KEY}/run2.log"}
