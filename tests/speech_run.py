"""Synthetic runs of a speech model: a real plan.json, a real ledger, real test files, so that the audit passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tune_mcp.apply import plan as plans
from tune_mcp.apply.plan import ApplyPlan
from tune_mcp.config.stages import Display, GroupPolicy, SampleCounts, Stage, StageMetric, WorstOp
from tune_mcp.contract.apply import Applied
from tune_mcp.files import dump_json, sha256_bytes, sha256_file, write_atomic, write_json
from tune_mcp.observe.audit import Audit, audit
from tune_mcp.observe.observation import Attempt, AttemptVerdict, Counts, Observation
from tune_mcp.observe.worst import direction_text
from tune_mcp.report.facts import ReportFacts
from tune_mcp.report.write import read_report, record_applied, write_report
from tune_mcp.run_dir import RUNS_FOLDER, RunDir, iso
from tune_mcp.session import events, plan
from tune_mcp.session.plan import LaunchSettings, Plan

SHA = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
START = datetime(2026, 4, 23, 5, 0, tzinfo=UTC)
TTS_TEST = "tests/test_tts_ci.py"
ASR_TEST = "tests/test_asr_ci.py"
TTS_SOURCE = '''"""Synthesis."""
from kit.slack import apply_slack, apply_wer_slack

CONCURRENCY = 8
MAX_SAMPLES = 200
MAX_NEW_TOKENS = 2048
SLACK_HIGHER = 0.9
SLACK_LOWER = 1.1

TTS_WER_MAX_CORPUS = 0.0122
TTS_SIMILARITY_MEAN_MIN = 0.71
UTMOS_MEAN_REFERENCE = compute()
_TTS_P95 = {
    8: {
        "throughput_qps": 5.2,
        "latency_mean_s": 1.4,
        "latency_p95_s": 2.25,
        "rtf_mean": 0.31,
    },
}
TTS_THRESHOLDS = apply_slack(_TTS_P95, SLACK_HIGHER, SLACK_LOWER)


def test_wer(result):
    assert result["wer"] <= apply_wer_slack(TTS_WER_MAX_CORPUS)


def test_similarity(result):
    assert result["similarity"] >= TTS_SIMILARITY_MEAN_MIN


def test_speed(result):
    limits = TTS_THRESHOLDS[CONCURRENCY]
    assert result["throughput_qps"] >= limits["throughput_qps"]
    for name in ("latency_mean_s", "latency_p95_s", "rtf_mean"):
        assert result[name] <= limits[name]
'''
ASR_SOURCE = '''"""Recognition."""
ASR_MAX_SAMPLES = 24
ASR_MIN_ACCURACY = 0.625
ASR_LATENCY_MEAN_MAX = 0.5
LIMIT = round(ASR_LATENCY_MEAN_MAX * 1.25, 3)


def test_accuracy(result):
    assert result["accuracy"] >= ASR_MIN_ACCURACY - 0.02


def test_speed(result):
    assert result["latency"] <= LIMIT
'''
SLACK_SOURCE = '''"""Slack."""


def apply_wer_slack(reference, factor=1.25):
    """Highest rate that passes."""
    return reference * factor


def apply_slack(p95, higher, lower):
    """Limits by level."""
    return {
        level: {name: value * (higher if name == "throughput_qps" else lower) for name, value in values.items()}
        for level, values in p95.items()
    }
'''

# stage -> metric -> (source, worst, label, scale, digits)
SHAPES: dict[str, dict[str, tuple[str, str, str, float, int]]] = {
    "tts_wer": {"corpus_wer": ("TTS_WER_MAX_CORPUS", "max", "Corpus WER (%)", 100, 2)},
    "tts_similarity": {"similarity_mean": ("TTS_SIMILARITY_MEAN_MIN", "min", "Speaker sim mean", 1, 4)},
    "tts_utmos": {"utmos_mean": ("UTMOS_MEAN_REFERENCE", "min", "UTMOS mean", 1, 4)},
    "tts_speed": {
        "throughput_qps": ("_TTS_P95['throughput_qps']", "min", "Throughput (req/s)", 1, 3),
        "latency_mean_s": ("_TTS_P95['latency_mean_s']", "max", "Latency mean (s)", 1, 3),
        "latency_p95_s": ("_TTS_P95['latency_p95_s']", "max", "Latency p95 (s)", 1, 3),
        "rtf_mean": ("_TTS_P95['rtf_mean']", "max", "RTF mean", 1, 4),
    },
    "asr_accuracy": {"accuracy": ("ASR_MIN_ACCURACY", "min", "Acc (%)", 100, 2)},
    "asr_speed": {"latency_mean_s": ("ASR_LATENCY_MEAN_MAX", "max", "Latency mean (s)", 1, 3)},
    "docs_tts": {},
}
VALUES: dict[tuple[str, str], Sequence[int | float]] = {
    ("tts_wer", "corpus_wer"): (0.0114, 0.0122, 0.0131, 0.0125, 0.0117),
    ("tts_similarity", "similarity_mean"): (0.7213, 0.7219, 0.7208, 0.7222, 0.7216),
    ("tts_utmos", "utmos_mean"): (4.0121, 4.0133, 4.0119, 4.0128, 4.0141),
    ("tts_speed", "throughput_qps"): (5.71, 5.86, 5.79, 5.64, 5.83),
    ("tts_speed", "latency_mean_s"): (1.401, 1.365, 1.382, 1.418, 1.372),
    ("tts_speed", "latency_p95_s"): (7.72, 15.01, 7.69, 15.12, 7.75),
    ("tts_speed", "rtf_mean"): (0.4412, 0.2981, 0.2993, 0.2977, 0.2988),
    ("asr_accuracy", "accuracy"): (16 / 24, 15 / 24, 16 / 24, 16 / 24, 15 / 24),
    ("asr_speed", "latency_mean_s"): (0.31, 0.33, 0.36, 0.38, 0.41),
}
GROUPS = {
    "accuracy": GroupPolicy(smart="auto"),
    "wer": GroupPolicy(smart="auto", rounding="ceil4", label="WER"),
    "similarity": GroupPolicy(smart="auto"),
    "utmos": GroupPolicy(smart="auto", label="UTMOS"),
    "speed": GroupPolicy(smart="ask_loosening", rounding="display"),
}
GPUS = [{"index": k, "name": "NVIDIA H20", "uuid": f"GPU-{k}", "memory_total_mib": 97871} for k in range(2)]


def applied(stage: str, symbol: str, old: float | None, new: float, worst: WorstOp) -> Applied:
    change = direction_text(worst, old, new, first=True)
    return Applied(
        file="f.py", symbol=symbol, stage_key=stage, metric_key="m", worst_op=worst, old=old, new=new, direction=change
    )


@dataclass
class Case:
    """One finished run in its repository, and everything that ``write_report`` takes."""

    repo: Path
    run: RunDir
    plan: Plan
    now: datetime = START + timedelta(hours=3)

    @property
    def audit(self) -> Audit:
        return audit(self.run, self.plan)

    @property
    def applied(self) -> ApplyPlan:
        return plans.build(self.repo, self.audit)

    def report(self) -> ReportFacts:
        return write_report(self.run, self.repo, self.audit, self.applied, self.now)

    def record_applied(self, *rows: Applied) -> None:
        facts = read_report(self.run)
        assert facts is not None
        record_applied(self.run, rows, facts)

    def markdown(self) -> str:
        self.report()
        return self.run.report_md.read_text()

    def html(self) -> str:
        self.report()
        return self.run.report_html.read_text()


@dataclass
class Workshop:
    """Makes repositories and runs."""

    root: Path
    sources: dict[str, str] = field(
        default_factory=lambda: {TTS_TEST: TTS_SOURCE, ASR_TEST: ASR_SOURCE, "kit/slack.py": SLACK_SOURCE}
    )

    def make(
        self,
        *,
        stages: Sequence[str] = tuple(SHAPES),
        values: Mapping[tuple[str, str], Sequence[int | float]] = VALUES,
        repeats: int = 5,
        stamp: str = "20260423T050000Z",
        sha: str = SHA,
        model: str = "speech-v1",
        dirty: bool = False,
        precheck: dict[str, object] | None = None,
        history: Mapping[tuple[str, int], tuple[Attempt, ...]] | None = None,
        titles: Mapping[str, str] | None = None,
    ) -> Case:
        repo = self.root / "repo"
        for name, text in self.sources.items():
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            (repo / name).write_text(text)
        run = RunDir(repo / RUNS_FOLDER / f"{stamp}_{model}_all")
        run.path.mkdir(parents=True)
        table = {key: self.stage(repo, key, (titles or {}).get(key, "")) for key in stages}
        made = Plan(
            tune_version="0.1.0",
            run_id=run.run_id,
            model=model,
            stages=tuple(stages),
            repeats=repeats,
            calibration_git_sha=sha,
            git_branch="main",
            dirty=dirty,
            diff_sha256="d" * 64 if dirty else None,
            untracked={"notes.txt": "e" * 64} if dirty else {},
            calibration_started_at=iso(START),
            repo_root=str(repo),
            venv_python="/data/venvs/omni/bin/python",
            venv_source="host profile",
            host="h20-ci",
            stages_sha256=plan.stages_digest(table),
            file_sha256={name: sha256_file(repo / name) for name in (TTS_TEST, ASR_TEST)},
            catalogue=table,
            groups=GROUPS,
            settings=LaunchSettings(),
        )
        text = f"{len(stages)} stages × {repeats}"
        plan.write(run, made, START, text)
        found = {"gpus": GPUS, "gpu_summary": "2× NVIDIA H20", "versions": {"python": "3.11.4", "torch": "2.9.1+cu130"}}
        write_json(run.precheck, {"schema_version": 1, **(found if precheck is None else precheck)})
        machine = {"schema_version": 1, "hostname": "h20-07", "cpu_model": "AMD EPYC 9654", "gpu_driver": "580.82.07"}
        write_json(run.environment, {**machine, "launch_env": {"OMP_NUM_THREADS": "1"}})
        for key in stages:
            for repeat in range(1, repeats + 1):
                told = (history or {}).get((table[key].test_key, repeat))
                self.observe(run, made, key, repeat, {m: values[(key, m)][repeat - 1] for m in SHAPES[key]}, told)
        events.append(run, "finished", START + timedelta(hours=2), "every stage × repeat is strict")
        return Case(repo, run, made)

    def stage(self, repo: Path, key: str, title: str = "") -> Stage:
        test = ASR_TEST if key.startswith("asr") else TTS_TEST
        place = {"json_file": "out/results.json", "json_path": "summary.x"}
        return Stage(
            key=key,
            test=test,
            title=title,
            group="docs" if key.startswith("docs") else key.partition("_")[2],
            context_vars=()
            if key.startswith("docs")
            else (
                ("ASR_MAX_SAMPLES", "CONCURRENCY")
                if test == ASR_TEST
                else ("CONCURRENCY", "MAX_SAMPLES", "MAX_NEW_TOKENS")
            ),
            test_file_sha256=sha256_file(repo / test),
            expected_samples=None if key.startswith("docs") else (24 if test == ASR_TEST else 200),
            sample_counts=SampleCounts.model_validate({"total": place, "ok": place}),
            metrics={
                metric: StageMetric(
                    source=source,
                    json_file="out/results.json",
                    json_path=metric,
                    worst="min" if worst == "min" else "max",
                    display=Display(label=label, scale=scale, digits=digits),
                )
                for metric, (source, worst, label, scale, digits) in SHAPES[key].items()
            },
        )

    def observe(
        self,
        run: RunDir,
        made: Plan,
        key: str,
        repeat: int,
        metrics: dict[str, int | float],
        history: tuple[Attempt, ...] | None = None,
    ) -> None:
        stage, moment = made.catalogue[key], START + timedelta(minutes=10 * repeat)
        total = stage.expected_samples or 1
        attempts = history or (attempt(1, "kept", started=moment),)
        observation = Observation(
            status="ok",
            metrics=dict(metrics),
            sample_counts=Counts(total=total, ok=total),
            duration_s=321.5 + repeat,
            attempts=len(attempts),
            git_sha=made.calibration_git_sha,
            recorded_at=iso(moment),
            pytest_rc=0,
            pytest_log=f"_pytest/{stage.test_key}/run{repeat}.log",
            basetemp=f"_pytest/{stage.test_key}/basetemp_run{repeat}",
            run_id=made.run_id,
            environment_sha256=sha256_file(run.environment),
            history=attempts,
        )
        data = dump_json(observation.model_dump(mode="json"))
        run.observation(key, repeat).parent.mkdir(exist_ok=True)
        write_atomic(run.observation(key, repeat), data, durable=False)
        events.append(run, "recorded", moment, f"{key} {repeat}", stage=key, repeat=repeat, sha256=sha256_bytes(data))


def attempt(number: int, verdict: str, reason: str = "", started: datetime = START) -> Attempt:
    """One launch in an observation's history."""
    return Attempt(
        attempt=number,
        verdict=AttemptVerdict(verdict),
        reason=reason,
        pytest_rc=0 if verdict == "kept" else -9,
        started_at=iso(started),
        ended_at=iso(started + timedelta(seconds=300)),
        duration_s=300.0,
        log="_pytest/test_tts_ci/run1.log",
    )
