"""A commit measures the same as another one if only thresholds of this very plan differ: proven, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tune_mcp.contract.resume_run import PurgeItem
from tune_mcp.errors import Refusal
from tune_mcp.run_dir import RunDir, utc_now
from tune_mcp.session import events, provenance
from tune_mcp.supervise import loop
from tune_mcp.verbs import equivalence
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.discover import discover
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report
from tune_mcp.verbs.resume_run import resume_run
from tune_mcp.verbs.start_run import start_run
from tune_mcp.verbs.strict_audit import strict_audit

pytestmark = pytest.mark.usefixtures("warm")

LITERALS = {
    "bare": ("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = {} "),
    "nested": ('"throughput_qps": 1.0', '"throughput_qps": {}'),
    "nested too": ('"latency_mean_s": 9.0', '"latency_mean_s": {}'),
}
LAYOUT = {
    "comment": ("# a bare threshold", "# a bare threshold, now with more words"),
    "comment before": ("CONCURRENCY = 2\n", "# how many at once\nCONCURRENCY = 2\n"),
    "line break": ("_TOY_P95 = {\n", "_TOY_P95 = {\n\n"),
    "parentheses": ("NUM_SAMPLES = 4 ", "NUM_SAMPLES = (4) "),
}
CODE = {
    "sample scope": ("NUM_SAMPLES = 4", "NUM_SAMPLES = 3"),
    "concurrency": ("CONCURRENCY = 2", "CONCURRENCY = 1"),
    "number in a function": ("time.sleep(0.01)", "time.sleep(0.02)"),
    "number in a list": ("VALUES = ((0.75,", "VALUES = ((0.5,"),
    "another key": ('{"throughput_qps": 1.0', '{"other": 1.0, "throughput_qps": 1.0'),
    "another concurrency": ("_TOY_P95 = {\n", '_TOY_P95 = {\n    4: {"throughput_qps": 1.0},\n'),
    "outer key": ("    2: {", "    +2: {"),
    "operator": (">= TOY_ACC_MIN", "> TOY_ACC_MIN"),
    "string": ('mktemp("toy")', 'mktemp("Toy")'),
    "docstring": ("A CI test", "The CI test"),
    "expression": ("TOY_ACC_MIN = 0.5", "TOY_ACC_MIN = 0.5 + 0"),
    "second assignment": ("VALUES = ((", "TOY_ACC_MIN = 0.1\nVALUES = (("),
    "new threshold": ("VALUES = ((", "TOY_WER_MAX = 0.1\nVALUES = (("),
    "fixture scope": ('scope="module"', 'scope="session"'),
    "f-string": ('f"run{k}.json"', 'f"run{k!s}.json"'),
}


@pytest.fixture(autouse=True)
def tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not strict stays open after one attempt, not after forty."""
    monkeypatch.setattr(loop, "MAX_TRIES", 1)
    monkeypatch.setattr(loop, "MAX_PASSES", 1)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return toy.make_toy(tmp_path / "repo", files={"batch.py": "BATCH = 64\nTEMPERATURE = 0.7\n", "data.json": "[1]"})


@pytest.fixture
def run(project: Project) -> RunDir:
    """Exhausted: repeat 2 is open."""
    return toy.finished_run(project, 3, lambda job: None if job.repeat == 2 else toy.measured(job))


def edit(project: Project, *edits: tuple[str, str], file: str = toy.TEST_FILE) -> None:
    path = project.repo_root / file
    text = path.read_text()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def discovered(project: Project) -> str:
    """A commit of the test files as they are and of what discover makes of them; its sha."""
    discover(project, toy.MODEL, with_coverage=False)
    return toy.commit(project)


def thresholds(project: Project, value: str = "0.625") -> str:
    """A commit that changes two thresholds and what discover makes of it; its sha."""
    edit(project, *((old, new.format(value)) for old, new in (LITERALS["bare"], LITERALS["nested"])))
    return discovered(project)


def refused(project: Project, run: RunDir) -> str:
    before = sorted((path, path.lstat().st_mtime_ns) for path in run.path.rglob("*"))
    with pytest.raises(Refusal) as caught:
        resume_run(project, run.run_id)
    assert sorted((path, path.lstat().st_mtime_ns) for path in run.path.rglob("*")) == before, "nothing was written"
    assert str(caught.value.code) == "COMMIT_MOVED"
    return caught.value.message


@pytest.mark.rule("RES-02", "SES-09", "SES-11", "SES-12")
def test_a_run_goes_on_over_a_commit_that_changes_only_its_thresholds(project: Project, run: RunDir) -> None:
    old = project.plan(run).calibration_git_sha
    kept = run.observation("toy_speed", 1).read_bytes()
    new = thresholds(project)

    with toy.supervised_here() as executor:
        reply = resume_run(project, run.run_id)

    assert f"{new} is measurement-equivalent to {old}: 2 threshold literals" in reply.text()
    assert f"{toy.TEST_FILE}:TOY_ACC_MIN 0.5 -> 0.625" in reply.text()
    assert [job.repeat for job in executor.jobs] == [2]
    assert run.observation("toy_speed", 1).read_bytes() == kept
    shas = [json.loads(run.observation("toy_speed", k).read_text())["git_sha"] for k in (1, 2, 3)]
    assert shas == [old, new, old], "each artifact names the commit that it was really measured on"
    audit = strict_audit(project, run.run_id)
    assert audit.ready and audit.git_provenance == "ok"
    (verdict,) = [event for event in events.read(run.events) if event.kind == "equivalent"]
    assert verdict.facts["git_sha"] == new and verdict.text in run.run_log.read_text()


FIRST = {
    "none": [(LITERALS["bare"][0], "TOY_ACC_MIN = None "), (LITERALS["bare"][0], "TOY_ACC_MIN = 0.625 ")],
    "a missing key": [(', "latency_mean_s": 9.0', ""), (', "latency_mean_s": 9.0', ', "latency_mean_s": 0.5')],
    "a key on top": [
        ('"throughput_qps": 1.0, "latency_mean_s": 9.0', '"latency_mean_s": 9.0'),
        ('"throughput_qps": 1.0, "latency_mean_s": 9.0', '"throughput_qps": 2.0, "latency_mean_s": 9.0'),
    ],
    "an empty table": [
        ('{\n    2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},\n}', "{}"),
        (
            '{\n    2: {"throughput_qps": 1.0, "latency_mean_s": 9.0},\n}',
            '{2: {"latency_mean_s": 0.5, "throughput_qps": 2.0}}',
        ),
    ],
}


def without_a_value(project: Project, name: str) -> tuple[RunDir, str]:
    """A run whose repeat 2 is open, measured without the value, and the test file's text from before."""
    path = project.repo_root / toy.TEST_FILE
    text = path.read_text()
    edit(project, FIRST[name][0])
    discovered(project)
    return toy.finished_run(project, 3, lambda job: None if job.repeat == 2 else toy.measured(job)), text


@pytest.mark.rule("RES-02", "APL-17")
@pytest.mark.parametrize("name", FIRST)
def test_a_commit_that_gives_a_threshold_its_first_value_measures_the_same(project: Project, name: str) -> None:
    run, text = without_a_value(project, name)
    (project.repo_root / toy.TEST_FILE).write_text(text.replace(*FIRST[name][1]))
    discovered(project)

    with toy.supervised_here() as executor:
        reply = resume_run(project, run.run_id)

    assert [job.repeat for job in executor.jobs] == [2]
    assert "none -> " in reply.text()
    assert strict_audit(project, run.run_id).ready
    report(project, run.run_id)
    assert not any(row.direction == "first baseline" for row in apply_plan(project, run.run_id).rows)


@pytest.mark.rule("RES-02")
@pytest.mark.parametrize("name", FIRST)
def test_a_first_value_hides_no_other_change(project: Project, name: str) -> None:
    run, text = without_a_value(project, name)
    for more in ("sample scope", "number in a list", "operator"):
        (project.repo_root / toy.TEST_FILE).write_text(text.replace(*FIRST[name][1]).replace(*CODE[more]))
        discovered(project)

        assert "differs in more than threshold literals" in refused(project, run), more


@pytest.mark.rule("RES-02")
def test_a_value_that_is_taken_away_or_a_key_that_nobody_tracks_is_another_measurement(project: Project) -> None:
    run, text = without_a_value(project, "a missing key")
    path = project.repo_root / toy.TEST_FILE
    untracked = text.replace(FIRST["a missing key"][1][0], ', "latency_mean_s": 0.5, "other": 1.0')
    for changed in (untracked, path.read_text().replace("TOY_ACC_MIN = 0.5 ", "TOY_ACC_MIN = None ")):
        path.write_text(changed)
        toy.commit(project)
        assert "differs in more than threshold literals" in refused(project, run)


@pytest.mark.rule("RES-02", "RTY-04")
@pytest.mark.parametrize(("then", "now"), [("None", "0.625"), ("0.5", "0.8")])
@pytest.mark.usefixtures("warm")
def test_each_repeat_is_held_against_the_threshold_that_it_was_measured_with(
    project: Project, then: str, now: str
) -> None:
    """A real pytest: with None it fails by a TypeError, and 0.75 passes 0.5 but not 0.8."""
    edit(project, (LITERALS["bare"][0], f"TOY_ACC_MIN = {then} "))
    discovered(project)
    run = toy.start(project, 2)
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)
    edit(project, (f"TOY_ACC_MIN = {then} ", f"TOY_ACC_MIN = {now} "))
    discovered(project)
    item = PurgeItem(stage="toy_accuracy", repeat=2, reason="a neighbour was busy")
    resume_run(project, run.run_id, [item], person="somebody at the terminal")
    assert toy.wait_until_rest(project, run.run_id).strict_complete, toy.told(run)

    told = report(project, run.run_id)
    row = next(row for row in apply_plan(project, run.run_id).rows if row.metric_key == "accuracy")

    assert told.failed_tests == ()
    assert "contradicts" not in row.reason and row.write_value == 0.625


@pytest.mark.rule("RES-02")
def test_a_commit_whose_measuring_code_reads_the_changed_threshold_measures_something_else(project: Project) -> None:
    steered = ("accuracy, throughput, latency = VALUES[(k - 1) % len(VALUES)]", "accuracy = serve(rate=TOY_ACC_MIN)")
    edit(project, steered)
    edit(project, ("def repeat():", "def serve(rate):\n    return os.cpu_count() * rate\n\n\ndef repeat():"))
    edit(project, ("    found = {", "    throughput, latency = 12.5, 0.125\n    found = {"))
    discovered(project)
    run = toy.finished_run(project, 3, lambda job: None if job.repeat == 2 else toy.measured(job))
    thresholds(project)

    message = refused(project, run)

    assert f"TOY_ACC_MIN is not only asserted: {toy.TEST_FILE}:" in message
    assert "_TOY_P95 is not only asserted" not in message


@pytest.mark.rule("SES-08", "RES-02")
def test_report_and_apply_work_on_the_proven_commit(project: Project, run: RunDir) -> None:
    new = thresholds(project)
    with toy.supervised_here():
        resume_run(project, run.run_id)

    report(project, run.run_id)
    proposal = apply_plan(project, run.run_id)

    assert {row.current_raw for row in proposal.rows if row.metric_key == "accuracy"} == {0.625}, "as it stands at HEAD"
    assert apply(project, run.run_id, proposal.plan_id, "full", otherwise="apply").applied
    assert toy.git(project.repo_root, "rev-parse", "HEAD") == new


@pytest.mark.rule("SES-08", "SES-07", "RES-02")
def test_a_commit_that_nobody_proved_is_refused_by_report_even_if_it_would_be_equivalent(project: Project) -> None:
    run = toy.finished_run(project)
    thresholds(project)

    with pytest.raises(Refusal, match=r"^COMMIT_MOVED \[SES-08\].*resume_run"):
        report(project, run.run_id)

    with toy.supervised_here() as executor:
        resume_run(project, run.run_id)
    assert executor.jobs == [], "every repeat is strict"
    assert report(project, run.run_id).metrics == 3


@pytest.mark.rule("RES-02", "SES-18")
def test_back_on_the_calibrated_commit_the_run_goes_on_there(project: Project, run: RunDir) -> None:
    old = project.plan(run).calibration_git_sha
    thresholds(project)
    with toy.supervised_here(lambda job: None):
        resume_run(project, run.run_id)
    toy.git(project.repo_root, "checkout", "-q", old)

    with toy.supervised_here() as executor:
        reply = resume_run(project, run.run_id)

    assert reply.equivalence is None and [job.tree.git_sha for job in executor.jobs] == [old]
    assert strict_audit(project, run.run_id).ready


@pytest.mark.rule("SES-09", "SES-12")
def test_an_artifact_of_any_other_commit_fails_provenance_also_beside_a_proof(project: Project, run: RunDir) -> None:
    thresholds(project)
    with toy.supervised_here():
        resume_run(project, run.run_id)

    toy.rewrite_observation(run, "toy_speed", 2, lambda o: o.update(git_sha="1" * 40))

    assert "GIT PROVENANCE: FAIL — 1 artifact of another commit" in strict_audit(project, run.run_id).text()


@pytest.mark.rule("SES-12", "SES-13")
def test_a_proof_is_proven_again_before_a_report_and_cannot_be_written_by_hand(project: Project, run: RunDir) -> None:
    new = thresholds(project)
    with toy.supervised_here():
        resume_run(project, run.run_id)
    plan = json.loads(run.plan.read_text())
    edit(project, ("BATCH = 64", "BATCH = 1"), file="batch.py")
    other = toy.commit(project)
    plan["equivalents"][0]["git_sha"] = other
    forged = json.dumps(plan)
    run.plan.write_text(forged)
    with pytest.raises(Refusal, match="PLAN_TAMPERED"):
        strict_audit(project, run.run_id)

    from tune_mcp.files import sha256_bytes

    events.append(run, "planned", utc_now(), "forged", sha256=sha256_bytes(forged.encode()))
    toy.rewrite_observation(run, "toy_speed", 2, lambda o: o.update(git_sha=other))
    with pytest.raises(equivalence.NotEquivalent, match=r"batch\.py differs"):
        equivalence.still_holds(project.repo_root, project.plan(run))
    assert new != other


@pytest.mark.rule("RES-02")
def test_a_report_is_refused_when_a_recorded_proof_no_longer_holds(project: Project, run: RunDir) -> None:
    thresholds(project)
    with toy.supervised_here():
        resume_run(project, run.run_id)
    old = project.plan(run).calibration_git_sha
    (project.repo_root / ".git/objects" / old[:2] / old[2:]).unlink()

    with pytest.raises(Refusal, match=r"^GIT_PROVENANCE.*cannot be compared"):
        report(project, run.run_id)


@pytest.mark.rule("RES-02")
@pytest.mark.parametrize("change", CODE.values(), ids=CODE)
def test_any_other_change_of_the_test_file_is_refused_although_thresholds_changed_too(
    project: Project, run: RunDir, change: tuple[str, str]
) -> None:
    edit(project, change)
    edit(project, (LITERALS["nested too"][0], LITERALS["nested too"][1].format("8.5")))
    toy.commit(project)

    assert f"{toy.TEST_FILE} differs in more than threshold literals of this plan" in refused(project, run)


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(text)


def linked(root: Path) -> None:
    (root / "batch.py").unlink()
    (root / "batch.py").symlink_to("data.json")


OTHER: dict[str, tuple[Callable[[Path], Any], str]] = {
    "batch size in another file": (write("batch.py", "BATCH = 1\nTEMPERATURE = 0.7\n"), "batch.py differs"),
    "temperature": (write("batch.py", "BATCH = 64\nTEMPERATURE = 0.0\n"), "batch.py differs"),
    "comment in another file": (write("batch.py", "BATCH = 64  # many\nTEMPERATURE = 0.7\n"), "batch.py differs"),
    "data": (write("data.json", "[2]"), "data.json differs"),
    "new file": (write("conftest.py", ""), "conftest.py differs"),
    "ignored names": (write(".gitignore", "*.py\n"), ".gitignore differs"),
    "attributes": (write(".gitattributes", "*.py text\n"), ".gitattributes differs"),
    "code among our config": (write(".tune/conftest.py", ""), ".tune/conftest.py differs"),
    "link": (linked, "batch.py differs"),
    "mode": (lambda root: (root / toy.TEST_FILE).chmod(0o755), f"{toy.TEST_FILE} differs"),
    "gone": (lambda root: (root / "batch.py").unlink(), "batch.py differs"),
    "renamed": (lambda root: (root / "batch.py").rename(root / "batches.py"), "batch.py differs"),
    "nothing": (lambda root: None, "the two trees are the same"),
}


@pytest.mark.rule("RES-02")
@pytest.mark.parametrize(("change", "told"), OTHER.values(), ids=OTHER)
def test_any_other_path_is_refused_by_name(
    project: Project, run: RunDir, change: Callable[[Path], Any], told: str
) -> None:
    change(project.repo_root)
    new = toy.commit(project)

    message = refused(project, run)

    assert told in message and new in message and project.plan(run).calibration_git_sha in message


@pytest.mark.rule("RES-02")
def test_a_submodule_that_points_elsewhere_is_refused(project: Project, run: RunDir) -> None:
    toy.git(
        project.repo_root,
        "update-index",
        "--add",
        "--cacheinfo",
        f"160000,{toy.git(project.repo_root, 'rev-parse', 'HEAD')},vendor",
    )
    (project.repo_root / "vendor").mkdir()
    toy.git(project.repo_root, "commit", "-q", "-m", "a submodule")

    assert "vendor differs" in refused(project, run)


@pytest.mark.rule("RES-02")
def test_a_threshold_of_a_stage_that_this_run_does_not_measure_is_no_threshold_of_its_plan(tmp_path: Path) -> None:
    project = toy.make_toy(tmp_path / "repo")
    with toy.supervised_here(lambda job: None):
        run = project.run(start_run(project, toy.MODEL, ["@speed"], 1).run_id)
    edit(project, (LITERALS["bare"][0], LITERALS["bare"][1].format("0.1")))
    discovered(project)

    assert "differs in more than threshold literals of this plan" in refused(project, run)


@pytest.mark.rule("RES-02")
def test_a_protected_threshold_is_never_blanked(tmp_path: Path) -> None:
    """Sample scope and load stay code even where a stage names them as its source."""
    project = toy.make_toy(tmp_path / "repo")
    run = toy.finished_run(project, 1, lambda job: None)
    plan = project.plan(run)
    speed = plan.catalogue["toy_speed"]
    scope = speed.metrics["throughput_qps"].model_copy(update={"source": "NUM_SAMPLES"})
    named = plan.model_copy(
        update={"catalogue": {**plan.catalogue, "toy_speed": speed.model_copy(update={"metrics": {"scope": scope}})}}
    )
    edit(project, CODE["sample scope"])
    toy.commit(project)

    with pytest.raises(equivalence.NotEquivalent, match="differs in more"):
        equivalence.prove(project.repo_root, named, provenance.read(project.repo_root), utc_now(), named.planned_tree)


@pytest.mark.rule("RES-02", "SES-11")
def test_dirt_that_the_plan_does_not_have_is_refused_on_a_proven_commit_and_on_the_same_one(
    project: Project, run: RunDir
) -> None:
    (project.repo_root / "batch.py").write_text("BATCH = 2\n")
    assert "batch.py was changed" in refused(project, run)
    toy.git(project.repo_root, "checkout", "-q", "--", "batch.py")
    (project.repo_root / "sitecustomize.py").write_text("")
    assert "sitecustomize.py appeared" in refused(project, run)

    (project.repo_root / "sitecustomize.py").unlink()
    thresholds(project)
    (project.repo_root / "batch.py").write_text("BATCH = 2\n")
    assert "batch.py was changed" in refused(project, run)
    toy.git(project.repo_root, "checkout", "-q", "--", "batch.py")
    edit(project, ("time.sleep(0.01)", "time.sleep(0.02)"))
    assert f"{toy.TEST_FILE} has changes that are in no commit" in refused(project, run)


@pytest.mark.rule("SES-11", "RES-02")
def test_the_dirt_that_the_plan_has_may_stay(project: Project) -> None:
    (project.repo_root / "batch.py").write_text("BATCH = 2\n")
    (project.repo_root / "extra.py").write_text("")
    run = toy.finished_run(project, 2, lambda job: None if job.repeat == 2 else toy.measured(job))
    edit(project, (LITERALS["bare"][0], LITERALS["bare"][1].format("0.1")))
    discover(project, toy.MODEL)
    toy.git(project.repo_root, "add", toy.TEST_FILE, ".tune")
    toy.git(project.repo_root, "commit", "-q", "-m", "threshold")

    with toy.supervised_here():
        resume_run(project, run.run_id)

    assert strict_audit(project, run.run_id).ready
    assert project.plan(run).dirty


@pytest.mark.rule("RES-02", "HLT-08")
def test_our_own_config_may_be_committed_with_a_fix(project: Project, run: RunDir) -> None:
    path = project.repo_root / ".tune/models/toy/config.yaml"
    path.write_text(json.dumps({**toy.CONFIG, "timeout_s": {"test_toy_ci.py": 60.0}}))
    toy.commit(project)

    with toy.supervised_here():
        reply = resume_run(project, run.run_id)

    assert "tune-mcp's configuration, nothing else" in reply.text()
    assert strict_audit(project, run.run_id).ready


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.integers(-(10**6), 10**6).map(str),
    st.sampled_from(["1_000", ".5", "5e-3", "-0.0", "+3"]),
)


@pytest.mark.rule("RES-02")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(st.sampled_from(sorted(LITERALS)), NUMBERS, max_size=3),
    layout=st.sets(st.sampled_from(sorted(LAYOUT))),
    code=st.sampled_from([None, None, *sorted(CODE)]),
)
@example(values={"bare": "0.1"}, layout=set(LAYOUT), code=None)
def test_equivalent_means_planned_literals_only_whatever_else_is_edited(
    project: Project, run: RunDir, values: dict[str, str], layout: set[str], code: str | None
) -> None:
    plan = project.plan(run)
    root = project.repo_root
    toy.git(root, "reset", "-q", "--hard", plan.calibration_git_sha)
    # Code first: some of its edits look for the thresholds as they were.
    chosen = ([CODE[code]] if code else []) + [LAYOUT[name] for name in layout]
    applied: list[tuple[str, str]] = []
    text = (root / toy.TEST_FILE).read_text()
    for old, new in (
        *chosen,
        *((LITERALS[name][0], LITERALS[name][1].format(value)) for name, value in values.items()),
    ):
        if text.count(old) == 1:
            text = text.replace(old, new)
            applied.append((old, new))
    (root / toy.TEST_FILE).write_text(text)
    toy.commit(project)

    def verdict() -> bool:
        try:
            equivalence.prove(root, plan, provenance.read(root), utc_now(), plan.planned_tree)
        except equivalence.NotEquivalent:
            return False
        return True

    differs = bool(toy.git(root, "diff", "--name-only", plan.calibration_git_sha, "HEAD"))
    changed_code = code is not None and CODE[code] in applied
    assert verdict() is (differs and not changed_code)
