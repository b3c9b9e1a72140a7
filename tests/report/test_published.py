"""A report that was committed is a last calibration for every other clone."""

from __future__ import annotations

import shutil

import pytest

from tune_mcp.report import markdown, published


@pytest.mark.rule("PRF-01")
def test_what_is_written_is_read_back(case) -> None:
    facts = case.report()
    found = published.read(case.run.report_md.read_text())

    assert found is not None
    assert (found.model, found.run_id, found.repeats) == (facts.model, facts.run_id, 5)
    assert (found.calibration_git_sha, found.gpu_summary) == (facts.calibration_git_sha, facts.gpu_summary)
    assert found.generated_at == facts.generated_at
    assert found.worst == {f"{stage.key}/{metric.key}": metric.worst_raw for stage, metric in facts.metrics()}


@pytest.mark.parametrize("raw", [-0.25, 5, 1e-7, 123456789.25])
def test_every_kind_of_number_comes_back_as_itself(case, raw: float) -> None:
    facts = case.report()
    stage = facts.stages[0]
    changed = stage.model_copy(update={"metrics": (stage.metrics[0].model_copy(update={"worst_raw": raw}),)})
    found = published.read(markdown.render(facts.model_copy(update={"stages": (changed, *facts.stages[1:])})))

    assert found is not None and found.worst["tts_wer/corpus_wer"] == raw


@pytest.mark.parametrize(
    "change", [("# Calib", "# A summary of the calib"), ("- Report generated", "- Made"), ("`", "")]
)
def test_a_text_of_another_form_is_no_report(case, change: tuple[str, str]) -> None:
    assert published.read(case.markdown().replace(*change)) is None
    assert published.read("") is None


@pytest.mark.rule("PRF-01")
def test_a_clone_without_the_run_compares_with_the_published_report(workshop, values) -> None:
    before = workshop.make(stamp="20260301T050000Z")
    before.report()
    place = before.repo / published.FOLDER / f"{before.run.run_id}.md"
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
    folder = old.repo / published.FOLDER
    folder.mkdir(parents=True)
    shutil.copy(old.run.report_md, folder / f"{old.run.run_id}.md")
    assert workshop.make(stamp="20260402T050000Z").report().previous.comparable is True

    text = old.run.report_md.read_text().replace(old.run.run_id, "20260410T050000Z_speech-v1_all")
    (folder / "newer.md").write_text(text)
    (folder / "later.md").write_text(text.replace("20260410", "20270101"))
    (folder / "other.md").write_text(text.replace("20260410", "20260412").replace("— speech-v1", "— other-v1"))
    assert workshop.make().report().previous.run_id == "20260410T050000Z_speech-v1_all"
