"""``init`` on test files of other projects' shapes: config from the tests, paths from one run, thresholds applied."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
from five_forms import COMPILE_TIME, FORMS, THROUGHPUT, UNITTEST_ACCURACY, Form
from toy import git, open_project, wait_until_rest

from tune_mcp.contract.apply import ApplyReply
from tune_mcp.discover.constants import parse_module
from tune_mcp.errors import Code, Refusal
from tune_mcp.gpus import GpuReading, Presence
from tune_mcp.supervise import host_lock
from tune_mcp.verbs.apply import apply, undo
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.init import Asked, init
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.start_run import start_run

pytestmark = pytest.mark.usefixtures("warm")


def repository(folder: Path, monkeypatch: pytest.MonkeyPatch, *forms: Form) -> Project:
    """A repository of these test files and nothing else, with one commit."""
    monkeypatch.setenv("TUNE_VENV_PYTHON", sys.executable)
    for form in forms:
        file = folder / form.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(form.text)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "tests")
    return open_project(folder)


def calibrated(project: Project, model: str, repeats: int) -> ApplyReply:
    """Run, report, apply everything."""
    run_id = start_run(project, model, ("ALL",), repeats).run_id
    ended = wait_until_rest(project, run_id, 240)
    assert ended.strict_complete, ended.text()
    report(project, run_id)
    plan = apply_plan(project, run_id)
    return apply(project, run_id, plan.plan_id, "full", otherwise="apply")


def test_five_forms_of_other_projects_are_calibrated_without_touching_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, *FORMS)

    proposed = init(project, [form.file for form in FORMS], "ours", Asked(run=True))

    assert not proposed.missing, proposed.text()
    assert "start_run with model=ours and repeats=5" in proposed.next
    calibrated(project, "ours", 2)
    for form in FORMS:
        module = parse_module((project.repo_root / form.file).read_bytes(), form.file)
        assert {source: module.find(source, None).value for source in form.worst} == form.worst


def test_without_a_run_the_proposal_is_written_and_says_what_is_still_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, THROUGHPUT, COMPILE_TIME)

    proposed = init(project, [], "ours")

    assert [line.partition(" (")[0] for line in proposed.missing] == ["request_throughput", "median_ttft_ms"]
    assert "--run" in proposed.next
    assert "cold_compile_s" in proposed.config and "tune_record.json::cold_compile_s" in proposed.config
    found = discover(project, "ours")
    assert {line.rpartition(": ")[2] for line in found.needs_config} == {
        "LIMITS.request_throughput",
        "LIMITS.median_ttft_ms",
    }


def test_a_configured_model_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = repository(tmp_path / "repo", monkeypatch, COMPILE_TIME)
    first = init(project, [], "ours")
    before = Path(first.path).read_bytes()

    with pytest.raises(Refusal, match="is there already") as caught:
        init(project, [], "ours")

    assert caught.value.code is Code.INVALID_ARGUMENT
    assert Path(first.path).read_bytes() == before
    assert init(project, [], "ours", Asked(replace=True)).written


@pytest.mark.parametrize("name", ["../y", "a b", "", ".hidden", "a/b", "é"])
def test_a_name_that_no_model_may_have_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, THROUGHPUT)
    before = _files(tmp_path)

    with pytest.raises(Refusal, match="cannot be the name of a model"):
        init(project, [], name, Asked(replace=True))

    assert _files(tmp_path) == before


def _files(root: Path) -> dict[str, bytes | None]:
    """Every path outside .git and .tune-runs, with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if not {".git", ".tune-runs"} & set(path.relative_to(root).parts)
    }


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "new"])
def test_where_no_run_can_start_the_files_are_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: bool
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, THROUGHPUT, COMPILE_TIME)
    if configured:
        init(project, [], "ours")
        config = project.repo_root / ".tune/models/ours/config.yaml"
        config.write_text(config.read_text() + "# a line of its owner\n")
    before = _files(project.repo_root)

    held = host_lock.take(host_lock.LockHolder("20260423T050000Z_x", "/d", "/elsewhere"))
    assert not isinstance(held, host_lock.LockHolder)
    try:
        with pytest.raises(Refusal) as caught:
            init(project, [], "ours", Asked(run=True, replace=True))
    finally:
        held.release()

    assert caught.value.code is Code.HOST_BUSY
    assert _files(project.repo_root) == before


def test_what_the_first_test_showed_is_kept_when_the_second_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, UNITTEST_ACCURACY, THROUGHPUT)
    started = itertools.count()

    def once(*arguments: Any) -> Any:
        if next(started):
            raise Refusal(Code.HOST_BUSY, "GPU-14", "another run is measuring", "wait")
        return start_run(*arguments)

    monkeypatch.setattr("tune_mcp.verbs.init.start_run", once)
    with pytest.raises(Refusal, match="another run is measuring"):
        init(project, [UNITTEST_ACCURACY.file, THROUGHPUT.file], "ours", Asked(run=True))

    found = discover(project, "ours")
    assert {line.rpartition(": ")[2] for line in found.needs_config} == {
        "LIMITS.request_throughput",
        "LIMITS.median_ttft_ms",
    }


def test_a_test_that_asserts_only_bare_numbers_is_refused_with_the_line_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Form("tests/test_bare.py", "def test_a(tmp_path):\n    assert measure(tmp_path) >= 0.8\n", {})
    project = repository(tmp_path / "repo", monkeypatch, bare)

    with pytest.raises(Refusal, match=r"tests/test_bare.py:2: a number is asserted as a lower bound") as caught:
        init(project, [], "ours")

    assert caught.value.code is Code.NO_THRESHOLDS
    assert "constant" in caught.value.next
    assert not (project.repo_root / ".tune").exists()


def test_a_test_that_leaves_no_number_gets_the_lines_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = COMPILE_TIME.text.replace('    tune_record("cold_compile_s", seconds)\n', "")
    silent = silent.replace("(tune_record)", "()").replace("moved([1.25, 2.5, 2.0])", "time.process_time()")
    project = repository(tmp_path / "repo", monkeypatch, Form(COMPILE_TIME.file, silent, {}))

    proposed = init(project, [], "ours", Asked(run=True))

    (line,) = proposed.missing
    assert 'tune_record("cold_compile_s", <the measured value>)' in line
    assert "def tune_record(record_property): return record_property" in line
    assert "config.yaml" in proposed.next


def test_a_name_that_the_asserting_test_records_is_offered_where_it_is_not_seen_to_be_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _MEASURES.format("\nACC_MIN = 0.5", "    tune_record('acc', round(acc, 2))\n    assert acc >= ACC_MIN\n")
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    proposed = init(project, [], "ours", Asked(run=True))

    assert len(proposed.missing) == 1 and "it may be at tune_record.json::acc (0.8" in proposed.missing[0]


@pytest.mark.rule("MOD-06")
@pytest.mark.parametrize("huge", ["10 ** 400", "-float('inf')", "[1, float('nan')]"])
def test_a_result_file_with_a_number_that_no_float_holds_shows_where_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: str
) -> None:
    text = _MEASURES.replace("tune_record", "tmp_path").format(
        "import json\n\nACC_MIN = 0.5",
        f"    r = {{'acc': acc, 'seed': {huge}}}\n    (tmp_path / 'r.json').write_text(json.dumps(r))\n"
        "    assert r['acc'] >= ACC_MIN\n",
    )
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    proposed = init(project, [], "ours", Asked(run=True))

    assert 'acc: "test_a0/r.json::acc"' in proposed.config and not proposed.missing


@pytest.mark.rule("MOD-06", "DSC-10")
@pytest.mark.parametrize("other", ["LOOP_ACC_MIN", "limits.py"])
def test_a_constant_that_is_left_out_is_no_threshold_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    head = "from limits import LOOP_ACC_MIN\n" if other == "limits.py" else "\nLOOP_ACC_MIN = 0.1\n"
    text = _MEASURES.format(f"{head}MY_ACC_MIN = 0.5", _ASSERTS.format("MY_ACC_MIN"))
    text += "\n\ndef test_b(tune_record):\n    acc = random.random()\n    tune_record('one', acc)\n"
    text += "    assert abs(acc - LOOP_ACC_MIN) < 1\n"
    forms = [Form("tests/test_a.py", text, {}), Form("tests/limits.py", "LOOP_ACC_MIN = 0.1\n", {})]
    project = repository(tmp_path / "repo", monkeypatch, *forms)

    proposed = init(project, ["tests/test_a.py"], "ours", Asked(run=True))

    assert not proposed.missing and "start_run" in proposed.next
    stages = open_project(project.repo_root).places.stages("ours").values()
    assert [metric.source for one in stages for metric in one.metrics.values()] == ["MY_ACC_MIN"]
    assert "    ignored_constants:" in proposed.config and '      - "LOOP_ACC_MIN"' in proposed.config


def test_a_place_that_a_person_names_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = repository(tmp_path / "repo", monkeypatch, COMPILE_TIME)

    proposed = init(project, [], "ours", Asked(places={"cold_compile_s": "mine.json::a.b"}))

    assert 'cold_compile_s: "mine.json::a.b"' in proposed.config


@pytest.mark.rule("MOD-06")
def test_a_run_that_comes_to_no_test_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice to record the values is for tests that ran."""
    text = (
        "from json import no_such_module as one\n\nACC_MIN = 0.5\n\n\ndef test_a():\n    assert one.run() >= ACC_MIN\n"
    )
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    proposed = init(project, ["tests/test_a.py"], "ours", Asked(run=True))

    (line,) = proposed.missing
    assert "no test of that file was measured" in line and "no_such_module" in line and "tune_record" not in line


@pytest.mark.rule("MOD-06", "XPY-06")
def test_what_would_halt_every_run_is_told_before_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _MEASURES.format("\nimport pytest\n\nACC_MIN = 0.5", _ASSERTS.format("ACC_MIN"))
    text += "\n\n@pytest.mark.skip(reason='not here')\ndef test_later():\n    pass\n"
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    proposed = init(project, [], "ours", Asked(run=True))

    (note,) = [note for note in proposed.notes if "halts" in note]
    assert "test_later" in note and "skipped" in note
    assert "fix the test file" in str(proposed.next) and "start_run" not in str(proposed.next)


_MEASURES = "import random\n{}\n\n\ndef test_a(tune_record):\n    acc = random.uniform(0.8, 0.9)\n{}"
_ASSERTS = "    tune_record('acc', acc)\n    assert acc >= {}\n"


@pytest.mark.rule("DSC-13", "MOD-06")
@pytest.mark.parametrize(
    ("imported", "asserted", "files"),
    [
        ("from limits import ACC_MIN", "ACC_MIN", ()),
        ("from limits import ACC_MIN as BOUND", "BOUND", ()),
        ("from limits import *", "ACC_MIN", ()),
        ("import limits", "limits.ACC_MIN", ()),
        ("from tests.limits import ACC_MIN", "ACC_MIN", ("tests/__init__.py",)),
        ("from tests import limits", "limits.ACC_MIN", ("tests/__init__.py",)),
        ("from . import limits", "limits.ACC_MIN", ("tests/__init__.py",)),
        ("from .limits import ACC_MIN", "ACC_MIN", ("tests/__init__.py",)),
    ],
)
def test_thresholds_of_another_module_are_found_and_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: str, asserted: str, files: tuple[str, ...]
) -> None:
    test = Form("tests/test_a.py", _MEASURES.format(imported, _ASSERTS.format(asserted)), {})
    limits = Form("tests/limits.py", "ACC_MIN = 0.5\n", {})
    project = repository(tmp_path / "repo", monkeypatch, test, limits, *(Form(file, "", {}) for file in files))

    proposed = init(project, [], "ours")

    assert proposed.written and not proposed.missing, proposed.text()
    found = discover(project, "ours")
    assert not found.problems and not found.unrecognised, found.text()
    (stage,) = project.places.stages("ours").values()
    assert (stage.threshold_file, [one.source for one in stage.metrics.values()]) == ("tests/limits.py", ["ACC_MIN"])


@pytest.mark.rule("DSC-13", "MOD-06")
def test_a_test_of_two_threshold_files_is_told_which_numbers_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asserts = _ASSERTS.format("ACC_MIN") + "    assert acc <= ACC_MAX\n"
    test = Form("tests/test_a.py", _MEASURES.format("from limits import ACC_MAX\n\nACC_MIN = 0.5", asserts), {})
    project = repository(tmp_path / "repo", monkeypatch, test, Form("tests/limits.py", "ACC_MAX = 1.5\n", {}))

    proposed = init(project, [], "ours")

    assert [line.partition(" is ")[0] for line in proposed.thresholds] == ["test_a.py: ACC_MIN"]
    (note,) = proposed.notes
    assert "ACC_MAX" in note and "threshold_file: tests/limits.py" in note


@pytest.mark.rule("DSC-13", "MOD-06")
@pytest.mark.parametrize(
    ("test", "product", "imported", "taken"),
    [
        ("tests/test_a.py", "serving/limits.py", "from serving.limits import ACC_MIN", False),
        ("serving/tests/test_a.py", "serving/limits.py", "from serving.limits import ACC_MIN", False),
        ("serving/tests/unit/test_a.py", "serving/tests/limits.py", "from serving.tests.limits import ACC_MIN", True),
        ("test_a.py", "limits.py", "from limits import ACC_MIN", True),
        ("test_a.py", "serving.py", "from serving import ACC_MIN", False),
        ("evals/test_a.py", "serving/limits.py", "from serving.limits import ACC_MIN", False),
    ],
)
def test_a_constant_of_the_program_is_named_and_not_proposed_as_a_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str, product: str, imported: str, taken: bool
) -> None:
    text = _MEASURES.format(imported, _ASSERTS.format("ACC_MIN"))
    code = "ACC_MIN = 0.5\n" + ("def serve():\n    return ACC_MIN\n" if product == "serving.py" else "")
    project = repository(tmp_path / "repo", monkeypatch, Form(test, text, {}), Form(product, code, {}))

    if taken:
        assert [line.partition(" is ")[0] for line in init(project, [], "ours").thresholds] == ["test_a.py: ACC_MIN"]
    else:
        with pytest.raises(Refusal, match=f"ACC_MIN. That is no file of the tests.*threshold_file: {product}"):
            init(project, [], "ours")


@pytest.mark.rule("MOD-06")
def test_without_a_gpu_the_line_to_write_is_named_and_stays_when_the_config_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_mcp.verbs.init.read_gpus", lambda: GpuReading(Presence.NONE))
    may_use_one = _MEASURES.format("import subprocess\n\nACC_MIN = 0.5", _ASSERTS.format("ACC_MIN"))
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", may_use_one, {}))

    first = init(project, [], "ours")
    config = Path(first.path)
    config.write_text(config.read_text().replace("test_a.py: 1", "test_a.py: 0"))
    again = init(project, [], "ours", Asked(run=True, replace=True))

    assert "write test_a.py: 0 below gpus_per_test" in first.next
    assert "test_a.py: 0" in again.config and not again.missing and not again.notes
    assert "start_run" in again.next


@pytest.mark.rule("MOD-06", "SES-11")
def test_a_test_that_rewrites_a_tracked_file_is_told_the_key_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = "    __import__('pathlib').Path('last.json').write_text(str(acc))\n" + _ASSERTS.format("ACC_MIN")
    test = Form("tests/test_a.py", _MEASURES.format("\nACC_MIN = 0.5", writes), {})
    project = repository(tmp_path / "repo", monkeypatch, test, Form("last.json", "{}", {}))

    first = init(project, [], "ours", Asked(run=True))
    config = Path(first.path)
    config.write_text(config.read_text() + 'test_outputs: ["last.json"]\n')
    again = init(project, [], "ours", Asked(run=True, replace=True))

    assert 'add test_outputs: ["last.json"]' in first.next and "--replace" in first.next
    assert 'acc: "tune_record.json::acc"' in first.config and not first.missing
    assert any("no test of test_a.py was measured" in one and "last.json was changed" in one for one in first.notes)
    assert not again.missing and "test_outputs" in again.config and "start_run" in again.next


_LEFT = """import json, random
import pytest

LAST_MIN = 0.1
HOT_MIN = 0.2
READ_MIN = 0.3


def run():
    return {"acc": random.uniform(0.8, 0.9), "hot": {"score": random.uniform(0.8, 0.9)}}


@pytest.fixture
def warm_up(tmp_path):
    (tmp_path / "warm.json").write_text(json.dumps(run()))


def test_last(tmp_path, warm_up):
    runs = [run(), run()]
    (tmp_path / "r.json").write_text(json.dumps(runs[0]))
    assert runs[-1]["acc"] >= LAST_MIN


def test_hot(tmp_path, warm_up):
    out = run()
    (tmp_path / "r.json").write_text(json.dumps(out))
    assert out["hot"]["score"] >= HOT_MIN


@pytest.mark.parametrize("case", ["a", "b"])
def test_read(tmp_path, case):
    (tmp_path / "r.json").write_text(json.dumps(run()))
    assert json.loads((tmp_path / "r.json").read_text())["acc"] >= READ_MIN
"""


@pytest.mark.rule("MOD-06")
def test_after_a_real_run_only_a_value_that_is_the_asserted_one_has_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", _LEFT, {}))

    proposed = init(project, [], "ours", Asked(run=True))

    places = [line.rpartition("read from ")[2] for line in proposed.thresholds]
    assert places == ["a place not known yet", "test_hot0/r.json::hot.score", "a place not known yet"]
    last, read = proposed.missing
    assert "test_last0/r.json::acc" in last and "does not show" in last and "tune_record" in last
    assert "more than one file of the run has such a value: test_read_a_0/r.json, test_read_b_0/r.json" in read


_GUARDED = "    tune_record('acc', acc)\n    if {0} is not None:\n        assert acc >= {0}\n"


@pytest.mark.rule("APL-15", "APL-16", "RTY-06")
@pytest.mark.parametrize(
    ("assigned", "place", "body"),
    [
        ("class Limits:\n    ACC_MIN = {}", "Limits.ACC_MIN", _ASSERTS.format("Limits.ACC_MIN")),
        ("LIMITS = {{'acc': {}}}", "LIMITS['acc']", _ASSERTS.format("LIMITS['acc']")),
        (
            "class Limits:\n    ACC_MIN = {}",
            "Limits.ACC_MIN",
            "    tune_record('acc', acc)\n    bound = Limits.ACC_MIN\n    assert acc >= bound\n",
        ),
        (
            "LIMITS = {{'acc': {}}}",
            "LIMITS['acc']",
            "    tune_record('acc', acc)\n    assert acc >= LIMITS.get('acc')\n",
        ),
    ],
)
def test_a_test_that_fails_for_want_of_a_first_value_inside_something_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: str, place: str, body: str
) -> None:
    """A comparison with None raises TypeError; that is the missing value's failure and no other's."""
    text = _MEASURES.format(assigned, body)
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text.format("None"), {}))

    init(project, [], "ours")
    reply = calibrated(project, "ours", 2)

    (one,) = reply.applied
    module = parse_module((project.repo_root / "tests/test_a.py").read_bytes(), "tests/test_a.py")
    assert one.old is None and 0.8 <= one.new <= 0.9 and module.find(place, None).value == one.new


@pytest.mark.rule("APL-15", "APL-16", "MOD-06")
@pytest.mark.parametrize(
    ("assigned", "place"),
    [
        ("class Limits:\n    ACC_MIN = {}", "Limits.ACC_MIN"),
        ("LIMITS = {{'acc': {}, 'wer': 0.5}}", "LIMITS['acc']"),
        ("LIMITS = {{'model-a': {{'acc': {}}}}}", "LIMITS['model-a']['acc']"),
        ("LIMITS = {{8: {}}}", "LIMITS[8]"),
    ],
)
def test_a_limit_inside_something_that_has_no_value_yet_gets_its_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: str, place: str
) -> None:
    text = _MEASURES.format(assigned, _GUARDED.format(place))
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text.format("None"), {}))
    file = project.repo_root / "tests/test_a.py"
    before = file.read_text()

    proposed = init(project, [], "ours")

    assert [line.partition(" is ")[0] for line in proposed.thresholds] == [f"test_a.py: {place}"]
    run_id = start_run(project, "ours", ("ALL",), 2).run_id
    assert wait_until_rest(project, run_id, 240).strict_complete
    report(project, run_id)
    plan = apply_plan(project, run_id)
    with pytest.raises(Refusal) as caught:
        apply(project, run_id, plan.plan_id, "full")
    assert caught.value.code is Code.DECISION_MISSING
    reply = apply(project, run_id, plan.plan_id, "full", otherwise="apply")
    ((old, new),) = [(one.old, one.new) for one in reply.applied]
    assert old is None and file.read_text() == text.format(repr(new))
    undo(project, run_id, plan.plan_id)
    assert file.read_text() == before


@pytest.mark.rule("APL-17")
def test_a_limit_that_the_module_fills_while_it_is_loaded_is_no_first_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assigned = "class Limits:\n    ACC_MIN = None\n\n\nglobals_of = vars\nsetter = type.__setattr__\n"
    assigned += "setter(globals_of()['Limits'], 'ACC' + '_MIN', 0.5)"
    text = _MEASURES.format(assigned, _GUARDED.format("Limits.ACC_MIN"))
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))
    init(project, [], "ours")
    run_id = start_run(project, "ours", ("ALL",), 2).run_id
    assert wait_until_rest(project, run_id, 240).strict_complete
    report(project, run_id)
    plan = apply_plan(project, run_id)

    with pytest.raises(Refusal, match=r"the loaded module has 0\.5"):
        apply(project, run_id, plan.plan_id, "full", otherwise="apply")


@pytest.mark.rule("MOD-06", "DSC-14")
@pytest.mark.parametrize("asked", ["TABLE['acc']", "TABLE.get('acc')"])
def test_an_entry_that_an_empty_table_lacks_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    text = _MEASURES.format("TABLE = {}", f"    if 'acc' in TABLE:\n        assert acc >= {asked}\n")
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    with pytest.raises(Refusal, match=r"TABLE\['acc'\] has no value and no place: write a first one"):
        init(project, [], "ours")


@pytest.mark.rule("DSC-14", "MOD-06")
@pytest.mark.parametrize(
    "computed",
    [
        "acc = bench()",
        "acc = 0.8",
        "ok = [1, 1, 0]\n    acc = sum(ok) / len(ok)",
        "acc = {'acc': 0.8}['acc']",
    ],
)
def test_a_limit_beside_a_number_that_the_code_holds_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: str
) -> None:
    text = "ACC_MIN = 0.5\n\n\ndef bench():\n    return 0.8\n\n\n"
    text += f"def test_a():\n    {computed}\n    assert acc >= ACC_MIN\n"
    project = repository(tmp_path / "repo", monkeypatch, Form("tests/test_a.py", text, {}))

    with pytest.raises(Refusal, match="ACC_MIN is asserted, but no measured value is seen beside it") as caught:
        init(project, [], "ours")

    assert "no number with a name" not in caught.value.message
