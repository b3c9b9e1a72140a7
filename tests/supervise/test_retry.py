"""The verdict on an attempt: keep it, try again, or halt. pytest's exit code proves nothing by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tune_mcp.config.stages import Display, Location, SampleCounts, Stage, StageMetric
from tune_mcp.observe.extract import Extraction
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.supervise.guard_record import Failure, GuardSummary
from tune_mcp.supervise.job import AttemptResult, Blocked
from tune_mcp.supervise.retry import MAX_TRIES, judge
from tune_mcp.supervise.verdict import Again, Keep, Stop, Verdict

IDS = ("t.py::test_a", "t.py::test_b")
PLACE = Location(json_file="r.json", json_path="x")
METRIC = StageMetric(source="X_MIN", json_file="r.json", json_path="x", worst="min", display=Display(label="x"))
SPEED = Stage(
    key="toy_speed",
    test="t.py",
    group="speed",
    test_file_sha256="0" * 64,
    expected_samples=4,
    sample_counts=SampleCounts(total=PLACE, ok=PLACE),
    metrics={"x": METRIC},
)
DOCS = Stage(key="toy_docs", test="t.py", group="docs", test_file_sha256="0" * 64, metrics={})
STAGES = {"toy_speed": SPEED, "toy_docs": DOCS}
WHOLE = GuardSummary(started=True, finished=True, exitstatus=0, collected=IDS, executed=IDS)
LOST = ("x: r.json::x: file missing (near: toy0/results.json)",)


def speed(total: int | None = 4, ok: int | None = 4, problems: tuple[str, ...] = ()) -> dict[str, Extraction]:
    return {"toy_speed": Extraction(metrics={"x": None if problems else 1.0}, total=total, ok=ok, problems=problems)}


def ended(guard: dict[str, Any] | None = None, **facts: Any) -> AttemptResult:
    values = {
        "key": "k", "started_at": "", "ended_at": "", "pytest_rc": 0, "stages": speed(),
        "guard": WHOLE.model_copy(update=guard or {}), **facts,
    }  # fmt: skip
    return AttemptResult.model_validate(values)


def verdict(result: AttemptResult | None, *earlier: Verdict) -> Verdict:
    return judge(result, {key: STAGES[key] for key in result.stages} if result else STAGES, earlier)


@pytest.mark.rule("RTY-04", "XPY-02", "STR-17", "RTY-05")
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, ""),
        ({"pytest_rc": 1, "guard": {"failed": IDS[:1]}}, "failed_assertion (1 test failed)"),
        ({"pytest_rc": 1, "guard": {"failed": IDS}, "signature": "CUDA out of memory: x"}, "failed_assertion"),
        ({"pytest_rc": 1}, "pytest ended with 1 after every test had passed"),
        ({"pytest_rc": -9, "signature": "killed (137)"}, "pytest ended with -9 after every test had passed"),
        ({"pytest_rc": 137}, "pytest ended with 137"),
        ({"leftovers": ("1 server",)}, ""),
    ],
)
def test_a_whole_attempt_with_every_number_is_kept_whatever_its_exit_code_and_log(
    facts: dict[str, Any], reason: str
) -> None:
    found = verdict(ended(**facts))

    assert isinstance(found, Keep)
    assert reason in found.reason and bool(reason) == bool(found.reason)


@pytest.mark.rule("XPY-05", "RTY-03", "WDG-01")
@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"pytest_rc": -9}, "signal 9"),
        ({"pytest_rc": 137}, "signal 9"),
        ({"pytest_rc": -11}, "signal 11"),
        ({"pytest_rc": 139}, "signal 11"),
        ({"pytest_rc": -1}, "signal 1"),
        ({"pytest_rc": 129}, "signal 1"),
        ({"pytest_rc": None, "signature": "Segmentation fault"}, "Segmentation fault"),
        ({"pytest_rc": -11}, "pytest crashed"),
        ({"pytest_rc": -15}, "killed from outside"),
        ({"pytest_rc": -9, "signature": "killed (137): oom"}, "did not send (killed (137): oom)"),
        ({"pytest_rc": 6, "guard": {"finished": False}}, "broke off"),
        ({"pytest_rc": 1, "signature": "CUDA out of memory: ..."}, "CUDA out of memory"),
        ({"pytest_rc": 2, "stopped_by": "timeout"}, "wall-clock limit"),
        ({"pytest_rc": 1, "guard": {"finished": False}}, "broke off"),
        ({"pytest_rc": 0, "guard": {"finished": False}}, "in the middle of its session"),
    ],
)
@pytest.mark.parametrize("problems", [LOST, ()], ids=["numbers missing", "tests missing"])
def test_an_attempt_that_was_ended_from_outside_is_tried_again_and_charged(
    facts: dict[str, Any], reason: str, problems: tuple[str, ...]
) -> None:
    guard = facts.get("guard", {}) | ({} if problems else {"executed": IDS[:1]})

    found = verdict(ended(**(facts | {"guard": guard, "stages": speed(problems=problems)})))

    assert isinstance(found, Again) and found.charged
    assert reason in found.reason


@pytest.mark.rule("XPY-06")
@pytest.mark.parametrize("rc", [2, 3, 4, 5])
def test_a_pytest_that_says_why_it_broke_off_is_no_crash(rc: int) -> None:
    found = verdict(ended(pytest_rc=rc, guard={"finished": False, "executed": IDS[:1]}, stages=speed(problems=LOST)))

    assert isinstance(found, Stop) and found.halt.rule == "XPY-06"


@pytest.mark.parametrize(("rc", "shown"), [(-1, False), (129, True)])
def test_the_exit_code_of_a_signal_is_shown_where_a_shell_made_one(rc: int, shown: bool) -> None:
    found = verdict(ended(pytest_rc=rc, guard={"finished": False}, stages=speed(problems=LOST)))

    assert isinstance(found, Again) and "signal 1 (SIGHUP)" in found.reason
    assert ("(exit code 129)" in found.reason, "(exit code" in found.reason) == (shown, shown)


@pytest.mark.rule("XPY-06", "RTY-03")
def test_a_pytest_that_ends_silently_in_the_middle_twice_halts() -> None:
    silent = ended(pytest_rc=0, guard={"finished": False}, stages=speed(problems=LOST))
    first = verdict(silent)
    crash = verdict(ended(pytest_rc=-9, stages=speed(problems=LOST)), first)
    second = verdict(silent, first, crash)

    assert isinstance(first, Again) and isinstance(crash, Again)
    assert isinstance(second, Stop) and "os._exit" in second.halt.next


def test_a_runner_that_died_is_an_attempt_that_is_tried_again() -> None:
    found = verdict(None)
    assert isinstance(found, Again) and found.charged


@pytest.mark.parametrize("number", [9, 15])
def test_a_runner_that_somebody_killed_is_named_and_tried_again(number: int) -> None:
    first = judge(None, {}, (), -number)
    second = judge(None, {}, (first,), -number)
    for found in (first, second):
        assert isinstance(found, Again)
        assert "killed from outside" in found.reason
        assert f"signal {number}" in found.reason


@pytest.mark.rule("XPY-06")
def test_a_runner_that_fails_by_a_bug_twice_halts() -> None:
    first = judge(None, {}, (), 1)
    second = judge(None, {}, (first,), 1)
    assert isinstance(first, Again)
    assert isinstance(second, Stop)
    assert "runner.log" in second.halt.next
    assert judge(None, {}, (), 0) == Again("the runner ended without a result (exit code 0); its runner.log says why")


def not_launched(*, retryable: bool = True) -> AttemptResult:
    blocked = Blocked(
        code="GPU_NOT_CLEAR", rule="GPU-02", reason="2 GPUs needed, 0 free", next="free the GPUs", retryable=retryable
    )
    return ended(blocked=blocked, pytest_rc=None, guard={"started": False}, stages={})


@pytest.mark.rule("GPU-06", "GPU-15")
def test_an_attempt_that_was_never_launched_is_not_charged() -> None:
    assert verdict(not_launched()) == Again("2 GPUs needed, 0 free", AttemptVerdict.NOT_STARTED)


@pytest.mark.rule("GPU-02", "GPU-06")
def test_a_machine_that_is_not_ready_four_times_over_halts_with_the_cause_and_what_to_do() -> None:
    again = Again("2 GPUs needed, 0 free", AttemptVerdict.NOT_STARTED)

    assert verdict(not_launched(), again, again) == again
    found = verdict(not_launched(), again, Again("killed"), again, again)

    assert isinstance(found, Stop)
    assert (found.halt.code, found.halt.rule, found.halt.next) == ("GPU_NOT_CLEAR", "GPU-02", "free the GPUs")
    assert found.halt.message == "2 GPUs needed, 0 free"


@pytest.mark.rule("GPU-19")
def test_what_another_try_cannot_change_halts_at_once() -> None:
    assert isinstance(verdict(not_launched(retryable=False)), Stop)


@pytest.mark.rule("SCP-02")
def test_numbers_of_another_kind_of_machine_halt_in_quarantine_and_only_an_engine_has_other_nodes() -> None:
    here = verdict(ended(incomparable="torch is 2.9 instead of 2.8"))
    node = ended(incomparable="another CUDA", engine={"node": "n7", "job_id": "1"})
    again = verdict(node)

    assert isinstance(here, Stop) and here.quarantined and "torch is 2.9" in here.halt.message
    assert isinstance(again, Again) and not again.charged and "n7 is not of the run's kind" in again.reason
    last = verdict(node, again, again, again)
    assert isinstance(last, Stop) and not last.quarantined
    assert verdict(ended(engine={"node": "n7", "job_id": "1"})) == Keep("")


@pytest.mark.rule("XPY-06")
def test_tests_that_only_one_repeat_ran_are_named_two_on_each_side_and_the_others_counted() -> None:
    new, lost = (tuple(f"t.py::test_{side}{k}" for k in range(3)) for side in ("new", "lost"))
    guard = {"collected": (*IDS, *new), "executed": (*IDS, *new)}

    found = judge(ended(guard=guard), {"toy_speed": SPEED}, counted=(*IDS, *lost))

    assert isinstance(found, Stop)
    named = [f"{name} ran only now" for name in new[:2]] + [f"{name} ran only then" for name in lost[:2]]
    assert found.halt.message.endswith(f"another repeat: {'; '.join(named)}; and 2 more")


@pytest.mark.rule("SES-11", "SES-09")
def test_a_commit_that_moved_halts_even_when_everything_else_is_well() -> None:
    found = verdict(ended(moved="HEAD is b, the run calibrates a"))
    assert isinstance(found, Stop)
    assert (found.halt.code, found.halt.rule) == ("COMMIT_MOVED", "SES-11")
    assert found.halt.next.startswith("put the tree back (a commit that "), "this is what a resume follows"
    by_a_test = verdict(ended(key="tune.r.test_x_ci.r2.a3", moved="a.txt is another one", way_out="name it"))
    assert isinstance(by_a_test, Stop) and by_a_test.halt.next.startswith("name it; if somebody else wrote it, ")
    assert by_a_test.halt.message == "while test_x_ci run 2 attempt 3 ran: a.txt is another one"


@pytest.mark.rule("HLT-01", "GAP-08", "STR-17", "HLT-05", "XPY-04")
@pytest.mark.parametrize("rc", [0, 1, 128])
def test_numbers_missing_after_a_whole_pytest_halt_and_are_named(rc: int) -> None:
    found = verdict(ended(pytest_rc=rc, stages=speed(problems=LOST)))

    assert isinstance(found, Stop)
    assert found.halt.rule == "HLT-01"
    assert all(word in found.halt.message for word in ("r.json::x", "file missing", "near: toy0/results.json"))


@pytest.mark.rule("XPY-01", "XPY-06", "RTY-05")
@pytest.mark.parametrize(
    ("guard", "rc", "why"),
    [
        ({"started": False, "collected": (), "executed": ()}, 4, "never loaded tune-mcp"),
        ({"worker": True}, 0, "xdist"),
        ({"collect_only": True, "executed": ()}, 0, "--collect-only"),
        ({"collect_errors": ("t.py: boom",)}, 2, "collection failed"),
        ({"dropped": IDS[:1]}, 0, "deselected"),
        ({"skipped": IDS[:1]}, 0, "skipped"),
        ({"repeated": IDS}, 0, "more than once (a rerun plugin): t.py::test_a and 1 more"),
        ({"executed": IDS[:1]}, 1, "did not run: t.py::test_b"),
        ({"executed": IDS[:1], "stop_reason": "stopping after 1 failures"}, 1, "(stopping after 1 failures)"),
        ({"collected": (), "executed": ()}, 5, "no test was collected"),
        ({"collected": (), "executed": (), "finished": False}, 5, "no test was collected"),
    ],
)
@pytest.mark.parametrize("problems", [(), LOST], ids=["numbers there", "numbers missing"])
def test_a_file_that_did_not_run_whole_halts_even_with_every_number(
    guard: dict[str, Any], rc: int, why: str, problems: tuple[str, ...]
) -> None:
    found = verdict(ended(pytest_rc=rc, guard=guard, stages=speed(problems=problems)))

    assert isinstance(found, Stop) and not found.quarantined
    assert found.halt.rule == "XPY-06" and why in found.halt.message and not found.halt.message.endswith(": ")


@pytest.mark.rule("SMP-06", "SMP-01", "STR-14")
@pytest.mark.parametrize(("total", "ok"), [(5, 5), (3, 3), (0, 0), (4, 5)])
def test_a_wrong_sample_scope_halts_at_once(total: int, ok: int) -> None:
    found = verdict(ended(stages=speed(total, ok)))

    assert isinstance(found, Stop)
    assert found.halt.rule == "SMP-06" and f"{ok}/{total} samples, 4 expected" in found.halt.message


@pytest.mark.rule("SMP-11", "GAP-03", "GAP-07", "STR-05")
def test_missing_samples_are_tried_again_until_the_same_are_missing_twice() -> None:
    first = verdict(ended(stages=speed(ok=3)))
    other = verdict(ended(stages=speed(ok=2)), first)
    same = verdict(ended(stages=speed(ok=3)), first, other)
    well = verdict(ended(), first, other)

    assert first == Again("partial: toy_speed 3/4")
    assert isinstance(other, Again)
    assert isinstance(same, Stop) and same.halt.rule == "SMP-11"
    assert isinstance(well, Keep)


def test_a_crash_between_two_equal_shortfalls_does_not_hide_them() -> None:
    first = verdict(ended(stages=speed(ok=3)))
    crash = verdict(ended(pytest_rc=-9, stages=speed(problems=LOST)), first)
    assert isinstance(verdict(ended(stages=speed(ok=3)), first, crash), Stop)


@pytest.mark.rule("STR-16", "GAP-05")
def test_one_partial_stage_spoils_its_siblings() -> None:
    both = speed() | {"toy_wer": Extraction(metrics={"x": 1.0}, total=4, ok=3)}
    stages = STAGES | {"toy_wer": SPEED.model_copy(update={"key": "toy_wer"})}

    found = judge(ended(stages=both), {key: stages[key] for key in both})

    assert isinstance(found, Again) and found.reason == "partial: toy_wer 3/4"


@pytest.mark.rule("STG-09")
def test_a_docs_stage_stands_or_halts_by_its_exit_code() -> None:
    docs = {"toy_docs": Extraction(metrics={}, total=None, ok=None)}

    assert verdict(ended(stages=docs)) == Keep("")
    found = verdict(ended(pytest_rc=1, stages=docs, guard={"failed": IDS[:1]}))
    assert isinstance(found, Stop) and found.halt.rule == "STG-09"


@pytest.mark.rule("STR-06", "STR-17")
@pytest.mark.parametrize("stages", [{}, speed()], ids=["none", "one of two"])
def test_an_attempt_that_lacks_a_planned_stage_is_never_kept(stages: dict[str, Extraction]) -> None:
    found = judge(ended(stages=stages), STAGES)
    assert isinstance(found, Stop) and "no result for this stage" in found.halt.message


@pytest.mark.rule("SMP-01")
@pytest.mark.parametrize(("total", "ok"), [(None, None), (4, None), (None, 4)])
def test_counts_that_could_not_be_read_are_never_kept(total: int | None, ok: int | None) -> None:
    problems = ("sample_counts.ok: r.json::x: not a number but null",)
    assert isinstance(verdict(ended(stages=speed(total, ok, problems))), Stop)


def failed(when: str, exception: str = "RuntimeError", message: str = "it fell", name: str = IDS[1]) -> dict[str, Any]:
    one = Failure(nodeid=name, when=when, exception=exception, assertion=exception == "AssertionError", message=message)
    return {"failed": (name,), "failures": (one,)}


NO_FILE = {"toy_speed": Extraction(metrics={"x": None}, total=None, ok=None, problems=LOST, absent=("r.json",))}


@pytest.mark.rule("RTY-03", "XPY-05", "RTY-04")
@pytest.mark.parametrize("stages", [speed(), speed(problems=LOST), NO_FILE], ids=["all there", "unreadable", "no file"])
def test_a_fixture_that_failed_is_no_observation_and_is_tried_again(stages: dict[str, Extraction]) -> None:
    found = verdict(ended(pytest_rc=1, guard=failed("setup"), stages=stages))

    assert found == Again(f"a fixture failed before its test ran: {IDS[1]}: RuntimeError: it fell")
    again = verdict(ended(pytest_rc=1, guard=failed("setup"), stages=stages), found, found)
    assert isinstance(again, Again), "bounded by the tries, like a crash"


@pytest.mark.rule("RTY-03", "WDG-01")
def test_a_failed_start_is_named_by_its_own_line() -> None:
    line = "server did not start: worker 0 exited before becoming healthy"
    found = verdict(ended(pytest_rc=1, guard=failed("setup"), stages=speed(), signature=line))
    assert found == Again(f"known crash in the log: {line}")


@pytest.mark.rule("STG-09")
def test_a_docs_test_whose_server_did_not_start_is_tried_again() -> None:
    docs = {"toy_docs": Extraction(metrics={}, total=None, ok=None)}
    guard = failed("call", message="Server exited with code 1")

    assert isinstance(verdict(ended(pytest_rc=1, stages=docs, guard=guard, signature="server did not start: x")), Again)
    plain = verdict(ended(pytest_rc=1, stages=docs, guard=guard))
    assert isinstance(plain, Stop) and "RuntimeError: Server exited with code 1" in plain.halt.message


@pytest.mark.rule("XPY-06", "RTY-03")
def test_a_test_that_broke_off_before_it_wrote_is_tried_again_once_and_halts_in_the_same_words() -> None:
    first = verdict(ended(pytest_rc=1, guard=failed("call", "KeyError", "'a'"), stages=NO_FILE))
    other = verdict(ended(pytest_rc=1, guard=failed("call", "OSError", "b"), stages=NO_FILE), first)
    same = verdict(ended(pytest_rc=1, guard=failed("call", "KeyError", "'a'"), stages=NO_FILE), first, other)

    assert first == Again(f"a test ended before r.json was written: {IDS[1]}: KeyError: 'a'")
    assert isinstance(other, Again)
    assert isinstance(same, Stop) and "KeyError" in same.halt.message and "metric_sources" not in same.halt.next


@pytest.mark.rule("HLT-01", "XPY-04")
@pytest.mark.parametrize(
    ("guard", "stages"),
    [
        (failed("call", "AssertionError", "assert 1 >= 2"), NO_FILE),
        (failed("call", "KeyError", "'a'"), speed(problems=LOST)),
        (failed("teardown"), NO_FILE),
        ({}, NO_FILE),
    ],
    ids=["a threshold", "the file is there", "teardown", "green"],
)
def test_a_test_that_finished_and_left_unreadable_numbers_is_a_matter_of_configuration(
    guard: dict[str, Any], stages: dict[str, Extraction]
) -> None:
    found = verdict(ended(pytest_rc=1, guard=guard, stages=stages))

    assert isinstance(found, Stop) and found.halt.rule == "HLT-01" and "metric_sources" in found.halt.next
    assert all(one.sentence() in found.halt.message for one in guard.get("failures", ()))


@pytest.mark.rule("HLT-01", "XPY-04", "WDG-01")
def test_unreadable_numbers_of_tests_that_all_passed_halt_although_a_stopped_server_left_its_line() -> None:
    signature = "killed (137): worker process exited with code -9"

    found = verdict(ended(signature=signature, stages=speed(problems=LOST)))

    assert isinstance(found, Stop) and found.halt.rule == "HLT-01"
    assert signature in found.halt.message
    for other in ({"pytest_rc": 1}, {"pytest_rc": -9}, {"stopped_by": "watchdog", "stop_reason": "x"}):
        assert isinstance(verdict(ended(**{"signature": signature, "stages": speed(problems=LOST), **other})), Again)


@pytest.mark.rule("HLT-01", "XPY-04", "WDG-01")
def test_the_same_unreadable_numbers_twice_behind_failed_thresholds_are_no_crash() -> None:
    guard = failed("call", "AssertionError", "assert 1 >= 2")
    crash = ended(pytest_rc=1, guard=guard, signature="killed (137): x", stages=speed(problems=LOST))
    first = verdict(crash)
    other = verdict(crash.model_copy(update={"stages": speed(problems=("y: r.json::y: not finite",))}), first)
    twice = verdict(crash, first, other)
    raised = crash.model_copy(update={"guard": WHOLE.model_copy(update=failed("call", "OSError", "b"))})

    assert isinstance(first, Again) and isinstance(other, Again)
    assert isinstance(twice, Stop) and twice.halt.rule == "HLT-01"
    assert isinstance(verdict(raised, first), Again)


@pytest.mark.rule("HLT-01")
def test_what_is_wrong_with_a_whole_file_is_said_once_and_counted_for_each_value() -> None:
    said = "toy0/result.json: not JSON that can be read: duplicate key 'a'"

    found = verdict(ended(stages=speed(problems=(said, said, said))))

    assert isinstance(found, Stop)
    assert found.halt.message.count(said) == 1 and "3 values" in found.halt.message


@pytest.mark.rule("XPY-06", "RTY-03")
@pytest.mark.parametrize(
    "exception",
    ["NameError", "ImportError", "ModuleNotFoundError", "SyntaxError", "_pytest.fixtures.FixtureLookupError"],
)
def test_a_fixture_that_is_written_wrongly_is_tried_twice_and_not_forty_times(exception: str) -> None:
    broken = ended(pytest_rc=1, guard=failed("setup", exception, "x"), stages=NO_FILE)
    first = verdict(broken)
    again = verdict(broken, first)
    server = ended(pytest_rc=1, guard=failed("setup", "RuntimeError", "x"), stages=NO_FILE)

    assert isinstance(first, Again)
    assert isinstance(again, Stop) and "metric_sources" not in again.halt.next
    assert isinstance(verdict(server, verdict(server)), Again)


@pytest.mark.rule("RTY-04")
def test_an_error_that_is_no_assertion_is_not_recorded_as_a_threshold() -> None:
    found = verdict(ended(pytest_rc=1, guard=failed("call", "NameError", "name 'x'")))
    assert isinstance(found, Keep)
    assert found.reason.startswith("test_error (1 test failed") and "NameError: name 'x'" in found.reason
    missed = verdict(ended(pytest_rc=1, guard=failed("call", "AssertionError", "assert 1 >= 2")))
    assert missed == Keep(f"failed_assertion (1 test failed: {IDS[1]}: AssertionError: assert 1 >= 2)")


@pytest.mark.rule("RTY-04")
@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        ({}, "it hung"),
        (
            failed("call", "AssertionError", "x"),
            f"failed_assertion (1 test failed: {IDS[1]}: AssertionError: x); it hung",
        ),
    ],
)
def test_a_session_that_had_to_be_ended_after_its_tests_says_so_beside_a_failure(
    guard: dict[str, Any], reason: str
) -> None:
    facts = {"stopped_by": "exit", "stop_reason": "it hung", "pytest_rc": -9}
    assert verdict(ended(guard={"exitstatus": int(bool(guard)), **guard}, **facts)) == Keep(reason)


@pytest.mark.rule("RTY-04")
def test_a_red_teardown_after_every_number_is_kept_under_its_own_name() -> None:
    found = verdict(ended(pytest_rc=1, guard=failed("teardown")))
    assert found == Keep("teardown_error (1 test failed after they had measured)")


@pytest.mark.rule("RTY-03")
def test_a_repeat_that_the_test_itself_calls_invalid_is_never_kept() -> None:
    said = {"toy_speed": speed()["toy_speed"].model_copy(update={"invalid": "v.json::valid is false"})}

    found = verdict(ended(stages=said), Again("a crash"))

    assert found == Again("the test itself calls this repeat invalid: v.json::valid is false")


def invalid() -> AttemptResult:
    return ended(stages={"toy_speed": speed()["toy_speed"].model_copy(update={"invalid": "v.json::valid is false"})})


WITHOUT_END = {
    "invalid by its own word": (lambda _k: invalid(), "observation_validity"),
    "the clock is set each time": (lambda k: ended(clock_moved=f"the clock was set ({k} s)"), "sets the clock"),
}


@pytest.mark.rule("RTY-01", "RTY-03")
@pytest.mark.parametrize(("attempt", "remedy"), WITHOUT_END.values(), ids=WITHOUT_END)
def test_what_spoils_every_try_of_a_pass_halts_and_says_what_to_do(
    attempt: Callable[[int], AttemptResult], remedy: str
) -> None:
    *before, last = judged(*[attempt(k) for k in range(MAX_TRIES)])

    assert all(isinstance(one, Again) for one in before)
    assert isinstance(last, Stop) and (last.halt.code, last.halt.rule) == ("START_FAILED", "RTY-01")
    assert last.halt.message.startswith("4 launches in a row failed alike: ") and remedy in last.halt.next
    crash = started_badly(pytest_rc=-11)
    others = judged(*[attempt(k) for k in range(MAX_TRIES - 1)], crash, attempt(9))
    assert all(isinstance(one, Again) for one in others)


@pytest.mark.rule("RTY-01", "RTY-03")
@pytest.mark.parametrize("ends", [(-9,) * 4, (None,) * 4, (-9, None, -15, -9)], ids=["killed", "unknown", "mixed"])
def test_a_runner_that_is_ended_in_every_try_of_a_pass_halts(ends: tuple[int | None, ...]) -> None:
    made: tuple[Verdict, ...] = ()
    for end in ends:
        made += (judge(None, {}, made, end),)

    assert all(isinstance(one, Again) for one in made[:-1])
    last = made[-1]
    assert isinstance(last, Stop) and last.halt.code == "START_FAILED" and "runner.log" in last.halt.next


@pytest.mark.rule("RTY-01", "RTY-03")
def test_a_launch_that_is_not_charged_does_not_part_tries_that_failed_alike() -> None:
    crash = started_badly(pytest_rc=-11)
    *before, last = judged(crash, ended(disturbed="a build"), crash, not_launched(), crash, crash)

    assert all(isinstance(one, Again) for one in before)
    assert isinstance(last, Stop)


def started_badly(**facts: Any) -> AttemptResult:
    return ended(**{"pytest_rc": 1, "guard": failed("setup"), "stages": NO_FILE, **facts})


SAME_START = {
    "a signature, its line another one each time": lambda k: started_badly(signature=f"server did not start: pid {k}"),
    "a fixture's error, in other words each time": lambda k: started_badly(guard=failed("setup", message=f"port {k}")),
    "the watchdog's": lambda k: started_badly(stopped_by="watchdog", stopped_for="no progress", stop_reason=f"{k} s"),
    "a crash of its own": lambda k: started_badly(pytest_rc=-11),
}


@pytest.mark.rule("RTY-01", "RTY-03")
@pytest.mark.parametrize("start", SAME_START.values(), ids=SAME_START)
def test_a_start_that_fails_alike_in_all_tries_of_a_pass_halts(start: Callable[[int], AttemptResult]) -> None:
    made: tuple[Verdict, ...] = ()
    for number in range(MAX_TRIES):
        made += (verdict(start(number), *made),)

    assert all(isinstance(one, Again) for one in made[:-1])
    last = made[-1]
    assert isinstance(last, Stop)
    assert (last.halt.code, last.halt.rule) == ("START_FAILED", "RTY-01")
    assert last.halt.message.startswith("4 launches in a row failed alike, and none measured anything: ")


def two_failed(when: str, second: str, **facts: Any) -> dict[str, Any]:
    """Two failed phases; the second one's exception is another one each time."""
    one, other = failed(when, "OSError", "a", IDS[0]), failed(when, second, "b", IDS[1])
    return {"failed": IDS, "failures": (*one["failures"], *other["failures"]), **facts}


@pytest.mark.rule("RTY-01", "XPY-06")
def test_the_first_failure_tells_whether_two_attempts_failed_alike() -> None:
    starts = judged(*[started_badly(guard=two_failed("setup", f"Error{k}")) for k in range(MAX_TRIES)])
    ends = [ended(pytest_rc=1, guard=two_failed("call", f"Error{k}"), stages=NO_FILE) for k in range(2)]

    assert isinstance(starts[-1], Stop) and isinstance(judged(*ends)[-1], Stop)
    other = ended(pytest_rc=1, guard=two_failed("call", "Error0"), stages=NO_FILE)
    named = [one.model_copy(update={"nodeid": "t.py::test_c"}) for one in other.guard.failures[:1]]
    elsewhere = other.guard.model_copy(update={"failures": (*named, *other.guard.failures[1:])})
    assert isinstance(judged(ends[0], other.model_copy(update={"guard": elsewhere}))[-1], Again)


@pytest.mark.rule("RTY-01", "RTY-03")
@pytest.mark.parametrize(
    "other",
    [
        started_badly(signature="CUDA out of memory: x"),
        started_badly(signature="server did not start: x", stages=speed()),
        started_badly(pytest_rc=-9, guard={"finished": False}),
        None,
    ],
    ids=["another cause", "it measured", "killed from outside", "no runner"],
)
def test_one_other_end_among_the_failed_starts_keeps_all_passes(other: AttemptResult | None) -> None:
    same = started_badly(signature="server did not start: x")
    made: tuple[Verdict, ...] = ()
    for result in (same, other, same, same, same):
        made += (verdict(result, *made),)

    assert all(isinstance(one, Again) for one in made)


def judged(*results: AttemptResult | None) -> tuple[Verdict, ...]:
    """The verdicts on attempts at one repeat, one after the other."""
    made: tuple[Verdict, ...] = ()
    for result in results:
        made += (verdict(result, *made),)
    return made


def killed(where: str, **facts: Any) -> AttemptResult:
    return ended(**{"pytest_rc": -9, "guard": {"finished": False, "at": where}, "stages": NO_FILE, **facts})


CALL = f"the call of {IDS[0]}"


@pytest.mark.rule("RTY-01", "RTY-03", "XPY-05")
@pytest.mark.parametrize("rc", [-9, -15, 137])
@pytest.mark.parametrize("stages", [NO_FILE, speed(problems=LOST), speed()], ids=["no file", "no value", "a value"])
def test_the_same_signal_in_the_same_phase_of_the_same_test_in_all_tries_of_a_pass_halts(
    rc: int, stages: dict[str, Extraction]
) -> None:
    *before, last = judged(*[killed(CALL, pytest_rc=rc, stages=stages)] * MAX_TRIES)

    assert all(isinstance(one, Again) for one in before)
    assert isinstance(last, Stop) and (last.halt.code, last.halt.rule) == ("START_FAILED", "RTY-01")
    assert f"signal {rc - 128 if rc > 0 else -rc}" in last.halt.message and CALL in last.halt.message
    assert ("dmesg" in last.halt.next) == (rc != -15)


@pytest.mark.rule("RTY-01", "XPY-05")
@pytest.mark.parametrize(
    "other",
    [
        killed(f"the setup of {IDS[0]}"),
        killed(f"the call of {IDS[1]}"),
        killed("its start, before any test"),
        killed(CALL, stages=speed()),
        killed(CALL, pytest_rc=-15),
        None,
    ],
    ids=["another phase", "another test", "no test", "it measured", "another signal", "the runner"],
)
def test_kills_that_come_at_different_moments_keep_all_passes(other: AttemptResult | None) -> None:
    same = killed(CALL)
    assert all(isinstance(one, Again) for one in judged(*[same, same, same, other] * 3))


@pytest.mark.rule("RTY-01")
def test_a_failure_tells_where_an_attempt_ended_that_had_measured() -> None:
    def crash(name: str) -> AttemptResult:
        guard = {**failed("call", name=name), "executed": IDS[:1]}
        return ended(pytest_rc=1, stages=speed(), signature="CUDA out of memory: x", guard=guard)

    assert isinstance(judged(*[crash(IDS[0])] * MAX_TRIES)[-1], Stop)
    assert all(isinstance(one, Again) for one in judged(*[crash(IDS[0]), crash(IDS[1])] * MAX_TRIES))


def test_a_kill_of_which_nobody_knows_where_it_came_keeps_all_passes() -> None:
    unknown = ended(pytest_rc=-9, guard={"finished": False}, stages=NO_FILE)
    assert all(isinstance(one, Again) for one in judged(*[unknown] * 2 * MAX_TRIES))


def test_a_kernel_that_ended_processes_for_lack_of_memory_is_named_beside_a_kill_alone() -> None:
    found = verdict(killed(CALL, oom_kills=1))
    other = verdict(killed(CALL, oom_kills=1, pytest_rc=-15))

    assert isinstance(found, Again) and found.reason.endswith("for lack of memory the kernel ended 1 process meanwhile")
    assert isinstance(other, Again) and "memory" not in other.reason


AFTER_A_VALUE = {
    "a fixture": lambda: started_badly(stages=speed()),
    "a signature": lambda: started_badly(stages=speed(), signature="CUDA out of memory: x"),
    "a signature in the call": lambda: ended(
        pytest_rc=1, stages=speed(), signature="CUDA out of memory: x",
        guard={**failed("call"), "executed": IDS[:1], "at": CALL},
    ),
    "the watchdog": lambda: ended(
        stopped_by="watchdog", stopped_for="no progress", stages=speed(), guard={"finished": False, "at": CALL}
    ),
    "a crash of its own": lambda: killed(CALL, pytest_rc=-11, stages=speed()),
}  # fmt: skip


@pytest.mark.rule("RTY-01", "RTY-03", "RTY-04")
@pytest.mark.parametrize("fails", AFTER_A_VALUE.values(), ids=AFTER_A_VALUE)
def test_what_fails_alike_in_all_tries_of_a_pass_halts_although_a_value_was_written_before(
    fails: Callable[[], AttemptResult],
) -> None:
    *before, last = judged(*[fails()] * MAX_TRIES)

    assert all(isinstance(one, Again) for one in before)
    assert isinstance(last, Stop) and last.halt.code == "START_FAILED"
    assert last.halt.message.startswith("4 launches in a row failed alike, each in the ")
    further = fails().model_copy(update={"stages": {"toy_speed": Extraction(metrics={"x": None}, total=1, ok=1)}})
    assert all(isinstance(one, Again) for one in judged(*[fails(), further] * MAX_TRIES)), "it got further at times"
