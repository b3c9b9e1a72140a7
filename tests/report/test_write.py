from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest
from speech_run import applied

from tune_mcp.files import parse_json
from tune_mcp.report import wording
from tune_mcp.report.write import by_hand, read_report, read_whole, report_digest
from tune_mcp.run_dir import RunDir

ROW = applied("tts_wer", "TTS_WER_MAX_CORPUS", 0.0122, 0.0131, "max")


def test_three_files_are_written_and_report_json_reads_back_as_the_same_facts(case) -> None:
    facts = case.report()
    run = case.run
    assert all(path.is_file() for path in (run.report_md, run.report_json, run.report_html))
    assert read_report(case.run) == facts
    parse_json(run.report_json.read_bytes())


def test_the_same_calibration_renders_to_the_same_bytes(case) -> None:
    case.report()
    first = [path.read_bytes() for path in (case.run.report_md, case.run.report_json, case.run.report_html)]
    case.report()
    assert [path.read_bytes() for path in (case.run.report_md, case.run.report_json, case.run.report_html)] == first


def test_only_the_time_of_the_report_differs_later(case) -> None:
    def lines() -> list[str]:
        case.report()
        files = (case.run.report_md, case.run.report_html, case.run.report_json)
        return "\n".join(path.read_text() for path in files).splitlines()

    before = lines()
    case.now += timedelta(hours=1)
    differing = [(old, new) for old, new in zip(before, lines(), strict=True) if old != new]

    assert len(differing) == 4
    assert all(old.replace("T08:00:00Z", "T09:00:00Z") == new for old, new in differing)


def test_another_process_renders_the_same_bytes_whatever_its_hash_seed(case) -> None:
    case.report()
    facts = case.run.report_json
    program = (
        "import sys, hashlib, pathlib; from tune_mcp.report import html, markdown; "
        "from tune_mcp.report.facts import ReportFacts; "
        "facts = ReportFacts.model_validate_json(pathlib.Path(sys.argv[1]).read_text()); "
        "print(hashlib.sha256((markdown.render(facts) + html.render(facts)).encode()).hexdigest())"
    )
    written = (case.run.report_md.read_text() + case.run.report_html.read_text()).encode()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(facts)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stdout.strip() == hashlib.sha256(written).hexdigest()


@pytest.mark.rule("RPT-10", "RPT-02")
def test_no_report_is_written_while_a_repeat_is_not_strict(case) -> None:
    applied = case.applied
    case.run.observation("tts_wer", 3).unlink()
    from tune_mcp.report.write import write_report

    with pytest.raises(ValueError, match="has not passed both gates"):
        write_report(case.run, case.repo, case.audit, applied, case.now)
    assert not case.run.report_md.exists()


@pytest.mark.rule("POL-09")
def test_the_digest_recognises_a_report_of_other_artifacts(case, remeasure) -> None:
    case.report()
    assert read_whole(case.run).artifacts_digest == report_digest(case.audit)
    assert json.loads(case.run.report_json.read_text())["artifacts_digest"] == report_digest(case.audit)
    remeasure(case, "test_asr_ci", 2, "partial", "session", shift=0.001)
    assert read_whole(case.run).artifacts_digest != report_digest(case.audit)
    case.report()
    assert read_whole(case.run).artifacts_digest == report_digest(case.audit)


@pytest.mark.rule("POL-09")
@pytest.mark.parametrize("name", ["report.md", "report.html", "report.json"])
def test_a_report_with_a_missing_file_counts_as_none(case, name: str) -> None:
    case.report()
    (case.run.path / name).unlink()
    assert read_whole(case.run) is None


def untouched(run: RunDir) -> bool:
    facts = read_whole(run)
    return facts is not None and not by_hand(run, facts)


@pytest.mark.rule("RPT-04")
@pytest.mark.parametrize("name", ["report.md", "report.html", "report.json"])
def test_a_report_that_was_rewritten_by_hand_is_seen(case, name: str) -> None:
    case.report()
    assert untouched(case.run)
    path = case.run.path / name
    text = path.read_text()
    for other in ("# A short summary\n", text.replace("0.0131", "0.0132"), text[:-2]):
        path.write_text(other)
        assert not untouched(case.run)
    path.write_text(text)
    assert untouched(case.run)
    path.unlink()
    assert not untouched(case.run)


def test_a_damaged_report_json_counts_as_none(case) -> None:
    case.report()
    case.run.report_json.write_text('{"artifacts_digest": "x"}')
    assert read_whole(case.run) is None


@pytest.mark.rule("APL-18", "RPT-04")
def test_applied_changes_reach_all_three_files_survive_a_new_report_and_go_with_an_undo(case) -> None:
    before = case.markdown()
    case.record_applied(ROW)
    assert "## Applied changes" in case.run.report_md.read_text()
    assert "Applied changes: 1" in case.run.report_html.read_text()
    assert read_report(case.run).applied == (ROW,)
    assert "| tts_wer | TTS_WER_MAX_CORPUS | 0.0122 | 0.0131 | loosens (+7.4%) |" in case.markdown()
    case.record_applied()
    assert case.run.report_md.read_text() == before


def test_changes_of_other_artifacts_are_not_carried_over(case, remeasure) -> None:
    case.report()
    case.record_applied(ROW)
    remeasure(case, "test_asr_ci", 2, "partial", "session", shift=0.001)
    assert case.report().applied == ()


def test_an_applied_report_says_at_the_top_that_the_files_have_changed(case) -> None:
    case.report()
    case.record_applied(ROW)
    assert "> **Applied:** 1 threshold has been written; the tables show the files" in case.run.report_md.read_text()


def test_an_applied_report_whose_tables_are_of_the_changed_files_says_so(case) -> None:
    path = case.repo / "tests/test_tts_ci.py"
    path.write_text(path.read_text().replace("TTS_WER_MAX_CORPUS = 0.0122", "TTS_WER_MAX_CORPUS = 0.0131"))
    case.report()
    case.record_applied(ROW)
    assert "the tables show the files as they are now." in case.run.report_md.read_text()


@pytest.mark.rule("RPT-04")
def test_a_report_made_again_after_an_apply_still_shows_what_loosened_and_from_what(case) -> None:
    case.report()
    case.record_applied(ROW)
    path = case.repo / "tests/test_tts_ci.py"
    path.write_text(path.read_text().replace("TTS_WER_MAX_CORPUS = 0.0122", "TTS_WER_MAX_CORPUS = 0.0131"))
    wer = next(metric for _, metric in case.report().metrics() if metric.key == "corpus_wer")
    assert (wer.current_raw, wer.direction_text) == (0.0122, "loosens (+7.4%)")
    case.record_applied()
    wer = next(metric for _, metric in case.report().metrics() if metric.key == "corpus_wer")
    assert (wer.current_raw, wer.direction_text) == (0.0131, "equal")


def test_facts_tell_what_the_apply_plan_says(case) -> None:
    facts, rows = case.report(), {row.key: row for row in case.applied.rows}
    for stage, metric in facts.metrics():
        row = rows[(stage.key, metric.key)]
        assert (metric.direction, metric.write_value, metric.current_raw) == (
            row.direction,
            row.write_value,
            row.current_raw,
        )
        assert metric.place == row.place
        assert metric.direction_text.startswith(str(row.direction))
    assert facts.plan_id == case.applied.plan_id


def test_slack_limits_and_misses_follow_from_the_test_files(case) -> None:
    found = {(stage.key, metric.key): metric for stage, metric in case.report().metrics()}
    wer = found[("tts_wer", "corpus_wer")]
    assert wer.limit_proposed == pytest.approx(0.0131 * 1.25)
    assert wer.present_misses == 0
    assert found[("tts_speed", "throughput_qps")].limit_proposed == pytest.approx(5.64 * 0.9)
    assert found[("tts_speed", "latency_p95_s")].present_misses == 5
    assert found[("asr_accuracy", "accuracy")].limit_proposed == pytest.approx(0.605)
    assert found[("asr_accuracy", "accuracy")].quantum == pytest.approx(1 / 24)
    utmos = found[("tts_utmos", "utmos_mean")]
    assert (utmos.asserted, utmos.unread) == (None, "not asserted by a measured test")
    text = case.run.report_md.read_text()
    assert "not asserted by a measured test" in text and "limit unknown" not in text
    assert "1 metric enters as if the worst value were the limit: nothing asserts it" in text
    for shown in (text, case.run.report_html.read_text()):
        assert "(nothing asserts it)" in shown and "slack unknown" not in shown
    assert found[("tts_utmos", "utmos_mean")].limit_proposed is None
    assert found[("tts_utmos", "utmos_mean")].chance.noise == pytest.approx(1 / 6)


def test_a_single_repeat_is_reported_without_a_false_spread(workshop) -> None:
    case = workshop.make(repeats=1)
    facts = case.report()
    assert "> **One repeat:** it shows no spread at all: a smoke run, no calibration." in case.run.report_md.read_text()
    assert "with a probability of 5.0 %" in wording.coverage_text(facts)
    assert all(metric.spread.cv is None for _, metric in facts.metrics())


@pytest.mark.rule("PRF-01")
def test_the_newest_earlier_report_of_the_model_is_compared(workshop, values) -> None:
    workshop.make(stamp="20260301T050000Z", sha="b" * 40).report()
    workshop.make(stamp="20260401T050000Z", sha="a" * 40).report()
    workshop.make(stamp="20260410T050000Z", sha="c" * 40, model="other-v1").report()
    workshop.make(stamp="20260415T050000Z", sha="d" * 40)  # never reported
    values[("tts_similarity", "similarity_mean")] = (0.6,) * 5
    case = workshop.make(values=values)
    before = case.report().previous
    assert before is not None
    assert (before.calibration_git_sha, before.comparable) == ("a" * 40, True)
    text = case.run.report_md.read_text()
    assert f"git log --oneline {'a' * 12}..{case.plan.calibration_git_sha[:12]}" in text
    assert "| `tts_similarity` | similarity_mean | 0.7208 | 0.6 | worse (-16.8%) |" in text
    assert "| `tts_wer` | corpus_wer | 0.0131 | 0.0131 | the same |" in text


def test_a_last_calibration_on_another_machine_is_said_not_to_be_comparable(workshop) -> None:
    machine = {"gpus": [{"name": "NVIDIA H100"}], "gpu_summary": "1× NVIDIA H100"}
    workshop.make(stamp="20260401T050000Z", precheck=machine).report()
    case = workshop.make()
    assert "> **Conditions of the last calibration:** GPUs: 1× NVIDIA H100 then." in case.markdown()
    assert case.report().previous.comparable is False


def test_what_precheck_could_not_vouch_for_stands_in_the_provenance(workshop) -> None:
    checks = [
        {"id": "gpu", "status": "ok", "detail": "idle"},
        {"id": "image", "status": "unknown", "detail": "no digest"},
    ]
    text = workshop.make(precheck={"checks": checks}).markdown()
    assert "- Precheck, unknown: image — no digest" in text.split("## Provenance")[1]
    assert "idle" not in text.split("## Provenance")[1]


@pytest.mark.parametrize("kind", ["alert", "unwatched", "recovered", "retry", "halted"])
def test_what_happened_on_the_way_is_listed(case, kind: str) -> None:
    from tune_mcp.session import events

    events.append(case.run, kind, case.now, "the log did not grow for 600 s")
    assert f"{kind}: the log did not grow for 600 s" in case.markdown()
    assert "the log did not grow for 600 s" in case.html()


def test_a_test_is_one_gate_whose_largest_chance_counts(case) -> None:
    facts = case.report()
    chances: dict[str, list[float]] = {}
    for stage, metric in facts.metrics():
        chances.setdefault(stage.test_key, []).append(metric.chance.with_slow)
    assert {gate.test: gate.chance.with_slow for gate in facts.suite.gates} == {k: max(v) for k, v in chances.items()}
    left = [1 - max(found) for found in chances.values()]
    assert facts.suite.chance.with_slow == pytest.approx(1 - left[0] * left[1])
    named = {(gate.test, gate.stage, gate.metric) for gate in facts.suite.gates}
    assert ("test_asr_ci", "asr_accuracy", "accuracy") in named


def report_with(case, **ci):
    from tune_mcp.report.suite import CiGate
    from tune_mcp.report.write import write_report

    return write_report(case.run, case.repo, case.audit, case.applied, case.now, {}, CiGate(**ci))


def test_attempts_of_ci_lower_the_chance_to_what_lasts_through_all_of_them(case) -> None:
    once, thrice = report_with(case), report_with(case, attempts=3)
    assert once.suite.every_attempt == once.suite.chance == thrice.suite.chance
    left = [1 - gate.chance.noise**3 for gate in thrice.suite.gates]
    assert thrice.suite.every_attempt.noise == pytest.approx(1 - left[0] * left[1])
    text = case.run.report_md.read_text()
    assert "CI repeats a failing test up to 3 times; only a cause that lasts through all attempts fails it: " in text
    assert " at least, if the attempts were independent." in text


def test_the_advice_names_tests_with_the_repeats_or_the_slack_they_need(case) -> None:
    facts = report_with(case, false_alarms=0.01)
    gates = {gate.test: gate for gate in facts.suite.gates}
    assert facts.suite.wished == pytest.approx(1 - 0.99**0.5)
    assert gates["test_tts_ci"].repeats is None  # no slack at all: the worst of 60 is still 1/61
    assert 0 < gates["test_tts_ci"].slack < 0.01
    asr = gates["test_asr_ci"]
    assert asr.repeats > 5 and asr.slack > 0.02
    text = case.run.report_md.read_text()
    assert f"test_asr_ci {asr.repeats - 5} more ({asr.repeats} in all)" in text
    assert "No number of repeats up to 60 is enough for 1 test: more slack is." in text
    assert (
        "Noise alone stays within that" not in text
        and "Noise alone stays within that" not in case.run.report_html.read_text()
    )
    relaxed = report_with(case, false_alarms=0.5)
    assert [(gate.slack, gate.repeats) for gate in relaxed.suite.gates] == [(None, None)] * 2
    assert "Noise alone stays within that" in case.run.report_md.read_text()


def test_slow_repeats_are_counted_over_this_run_and_earlier_reports_of_the_same_gpus(workshop) -> None:
    other = {"gpus": [{"name": "NVIDIA H100"}], "gpu_summary": "1× NVIDIA H100"}
    workshop.make(stamp="20260301T050000Z", precheck=other).report()
    alone = workshop.make(stamp="20260401T050000Z").report().suite
    both = workshop.make().report().suite
    assert (alone.slow_repeats, alone.counted_repeats, alone.earlier_reports) == (1, 10, 0)
    assert (both.slow_repeats, both.counted_repeats, both.earlier_reports) == (2, 20, 1)


def test_a_run_without_speed_has_one_number(workshop) -> None:
    case = workshop.make(stages=("tts_wer", "asr_accuracy"))
    suite = case.report().suite
    assert suite.counted_repeats == 0
    assert suite.chance.noise == suite.chance.with_slow
    assert "slow runs" not in case.run.report_md.read_text().split("## What 5")[1].split("Most likely")[0]


def test_zero_times_slack_is_said_to_be_no_slack(workshop, values) -> None:
    values[("tts_wer", "corpus_wer")] = (0.0,) * 5
    case = workshop.make(values=values)
    text = case.markdown()
    assert "0 × slack is no slack: any value above 0 fails CI" in text
    assert "deterministic" not in text and "deterministic" not in case.html()
    wer = next(metric for _, metric in case.report().metrics() if metric.key == "corpus_wer")
    assert wer.chance.noise == pytest.approx(0.5 / 6)
    assert "1 metric enters without any spread seen: up to 8.3 % each is possible, not 0" in case.html()


def test_all_right_in_every_repeat_moves_by_one_sample(workshop, values) -> None:
    values[("asr_accuracy", "accuracy")] = (1.0,) * 5
    case = workshop.make(values=values)
    accuracy = next(metric for _, metric in case.report().metrics() if metric.key == "accuracy")
    assert accuracy.quantum == pytest.approx(1 / 24)
    assert 0.01 < accuracy.chance.noise < 0.5 / 6
    assert "(no spread seen)" in case.markdown()


def test_a_shift_between_calibrations_of_the_same_commit_enters_the_chance(workshop, values) -> None:
    speed = {
        key: row for key, row in values.items() if key[1].endswith("_s") or key[1] in ("throughput_qps", "rtf_mean")
    }
    workshop.make(stamp="20260301T050000Z").report()
    moved = {key: tuple(value * 1.2 for value in row) for key, row in speed.items()}
    suite = workshop.make(values={**values, **moved}).report().suite
    assert suite.shift is None  # five speed metrics: too few to see a shift
    text = (workshop.root / "repo/.tune-runs/20260423T050000Z_speech-v1_all/report.md").read_text()
    assert "Shifts between days cannot be seen in one calibration." in text


def test_a_report_of_another_version_still_counts_as_an_earlier_one(workshop) -> None:
    case = workshop.make(stamp="20260401T050000Z", sha="a" * 40)
    case.report()
    older = json.loads(case.run.report_json.read_text())
    older["schema_version"], older["suite"] = 1, {"gates": 9, "independent": 0.2}
    case.run.report_json.write_text(json.dumps(older))
    before = workshop.make().report().previous
    assert before is not None and before.calibration_git_sha == "a" * 40


def test_a_worst_value_that_a_strict_assertion_fails_is_said_and_is_no_small_chance(workshop, values) -> None:
    values[("tts_similarity", "similarity_mean")] = (0.72,) * 5
    path = "tests/test_tts_ci.py"
    workshop.sources[path] = workshop.sources[path].replace(
        'result["similarity"] >= TTS_SIM', 'result["similarity"] > TTS_SIM'
    )
    case = workshop.make(values=values)
    metric = next(one for _, one in case.report().metrics() if one.key == "similarity_mean")
    assert metric.chance.noise >= 1 - 0.5 / 6
    assert "the comparison is strict, so a value equal to the limit fails" in case.html()
