"""A report that was committed is a last calibration for every other clone."""

from __future__ import annotations

import shutil

import pytest

from tune_mcp.report import markdown
from tune_mcp.report.earlier import FOLDER, HISTORY, publish, published


@pytest.mark.rule("PRF-01")
def test_what_is_written_is_read_back(case) -> None:
    facts = case.report()
    found = published(case.run.report_md.read_bytes())

    assert found is not None
    assert (found.model, found.run_id, found.repeats) == (facts.model, facts.run_id, 5)
    assert (found.calibration_git_sha, found.gpu_summary) == (facts.calibration_git_sha, facts.gpu_summary)
    assert (found.generated_at, found.environment) == (facts.generated_at, None)
    known = {(stage.key, metric.key): (metric.values, metric.worst_raw) for stage, metric in facts.metrics()}
    read = {(stage.key, one.key): (one.values, one.worst_raw) for stage in found.stages for one in stage.metrics}
    assert read == known


@pytest.mark.parametrize("raw", [-0.25, 5, 1e-7, 1e300, -1e-300, 123456789.25])
def test_every_kind_of_number_comes_back_as_itself(case, raw: float) -> None:
    facts = case.report()
    stage = facts.stages[0]
    changed = stage.model_copy(update={"metrics": (stage.metrics[0].model_copy(update={"worst_raw": raw}),)})
    text = markdown.render(facts.model_copy(update={"stages": (changed, *facts.stages[1:])}))
    found = published(text.encode())

    assert found is not None and found.stages[0].metrics[0].worst_raw == raw


@pytest.mark.parametrize("name", ["a-->b", "a--->b", "<!-- a", "</script>", "------", 'a"b\\', "日本", "a\nb"])
def test_no_name_can_end_the_comment_or_start_a_tag(case, name: str) -> None:
    text = markdown.render(case.report().model_copy(update={"model": name}))
    line = text.rstrip("\n").rpartition("\n")[2]
    inside = line.removeprefix("<!--").removesuffix("-->")

    assert not any(sign in inside for sign in ("--", "<", ">"))
    found = published(text.encode())
    assert found is not None and found.model == name


@pytest.mark.parametrize(
    "change",
    [("<!-- tune-mcp: ", "<!-- other: "), (" -->", ""), ('"repeats":', '"repeat":'), ('"values":[', '"values":[NaN,')],
)
def test_a_text_without_its_facts_is_no_report(case, change: tuple[str, str]) -> None:
    text = case.markdown()
    assert published(text.encode()) is not None and text.count(change[0])
    assert published(text.replace(*change).encode()) is None
    assert published(b"") is None


def test_what_a_person_adds_above_does_not_matter(case) -> None:
    text = case.markdown().replace("# Calibration report", "A word before.\n\n# Our report", 1)
    assert published(text.encode()) is not None


def test_the_published_line_names_no_host_path_or_variable(case) -> None:
    facts = case.report()
    line = case.run.report_md.read_text().rstrip("\n").rpartition("\n")[2]
    assert facts.environment
    for private in (str(case.repo), facts.run_dir, *facts.environment):
        assert private not in line


@pytest.mark.rule("PRF-01")
def test_a_clone_without_the_run_compares_with_the_published_report(workshop, values) -> None:
    before = workshop.make(stamp="20260301T050000Z")
    before.report()
    place = before.repo / FOLDER / f"{before.run.run_id}.md"
    place.parent.mkdir(parents=True)
    shutil.move(before.run.report_md, place)
    shutil.rmtree(before.run.path)
    (place.parent / "notes.md").write_text("# Notes\n")
    values[("tts_similarity", "similarity_mean")] = (0.6,) * 5
    case = workshop.make(values=values)
    previous = case.report().previous

    assert previous is not None
    assert (previous.run_id, previous.comparable) == (before.run.run_id, False)
    text = case.run.report_md.read_text()
    assert "| `tts_similarity` | similarity_mean | 0.7208 | 0.6 | worse (-16.8%) |" in text
    assert "the environment of a published report is not on record" in text


def test_the_newest_of_runs_and_published_reports_counts_and_a_run_tells_more(workshop) -> None:
    old = workshop.make(stamp="20260301T050000Z")
    old.report()
    folder = old.repo / FOLDER
    folder.mkdir(parents=True)
    shutil.copy(old.run.report_md, folder / f"{old.run.run_id}.md")
    assert workshop.make(stamp="20260402T050000Z").report().previous.comparable is True

    text = old.run.report_md.read_text().replace(old.run.run_id, "20260410T050000Z_speech-v1_all")
    (folder / "newer.md").write_text(text)
    (folder / "later.md").write_text(text.replace("20260410", "20270101"))
    (folder / "other.md").write_text(
        text.replace("20260410", "20260412").replace('"model":"speech-v1"', '"model":"other-v1"')
    )
    assert workshop.make().report().previous.run_id == "20260410T050000Z_speech-v1_all"


def test_a_published_report_of_the_same_gpus_tells_of_slow_runs_too(workshop) -> None:
    before = workshop.make(stamp="20260301T050000Z")
    before.report()
    place = before.repo / FOLDER / f"{before.run.run_id}.md"
    place.parent.mkdir(parents=True)
    shutil.copy(before.run.report_md, place)
    both = workshop.make().report().suite
    assert (both.counted_repeats, both.earlier_reports) == (20, 1), "a run and its published copy are one calibration"
    shutil.rmtree(before.run.path)
    assert workshop.make(stamp="20260424T050000Z").report().suite.earlier_reports == 2


def drifting(workshop, values, *factors: float):
    """Calibrations of which the mean latency of tts_speed is that many times the usual one; the last one's case."""
    for number, factor in enumerate(factors, 1):
        key = ("tts_speed", "latency_mean_s")
        own = {**values, key: [value * factor for value in values[key]]}
        case = workshop.make(stamp=f"2026030{number}T050000Z", values=own)
        case.report()
    return case


@pytest.mark.rule("PRF-01")
def test_a_reference_that_drifts_in_small_steps_is_named(workshop, values) -> None:
    case = drifting(workshop, values, 1.0, 1.05, 1.1, 1.16)
    facts = case.report()
    (trend,) = [one for one in facts.trends if (one.stage, one.metric) == ("tts_speed", "latency_mean_s")]

    assert len(trend.worst) == len(trend.runs) == 4 and trend.runs[-1] == facts.run_id
    assert trend.drift == pytest.approx(0.16) and trend.drifted
    assert "References that drifted" in case.markdown() and "+16.0 % over 4 calibrations" in case.html()
    assert [one.metric for one in facts.trends if one.drifted] == ["latency_mean_s"]


def test_a_reference_that_stays_or_comes_back_has_not_drifted(workshop, values) -> None:
    case = drifting(workshop, values, 1.0, 1.3, 1.02)

    assert not any(one.drifted for one in case.report().trends)
    assert "References that drifted" not in case.markdown()


def test_a_published_line_is_the_history_of_another_clone(workshop, values) -> None:
    case = drifting(workshop, values, 1.0)
    for _ in range(2):  # the line of a run stands there once
        publish(case.repo, case.report(), case.run.report_md.read_bytes())
    history = case.repo / FOLDER / HISTORY
    with history.open("a") as stream:
        stream.write("no JSON\n")
    assert len(history.read_text().splitlines()) == 2
    (case.repo / FOLDER / f"{case.run.run_id}.md").unlink()
    shutil.rmtree(case.run.path)

    facts = workshop.make(stamp="20260309T050000Z").report()
    assert {len(one.worst) for one in facts.trends} == {2}
    publish(case.repo, facts, b"")
    assert history.read_text().splitlines()[1] == "no JSON" and len(history.read_text().splitlines()) == 3


def test_the_first_calibration_has_no_history(case) -> None:
    assert case.report().trends == () and "Over the calibrations" not in case.markdown()
