"""Test files in the shapes that other projects' thresholds have, in our own words: five forms, five kinds of measure.

Each measures something that moves by the repeat's number, so that the worst of N is known: ``WORST`` by constant.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP = '''
import json, os, pathlib, time, unittest
from dataclasses import dataclass
import pytest


def moved(values):
    """The value of this repeat."""
    record = os.environ.get("TUNE_GUARD_RECORD", "guard_run1.jsonl")
    return values[int(pathlib.Path(record).stem.removeprefix("guard_run")) - 1]
'''


@dataclass(frozen=True)
class Form:
    """``worst``: threshold -> what two repeats or more must write."""

    file: str
    text: str
    worst: dict[str, float]


UNITTEST_ACCURACY = Form(
    "test/registered/test_eval_accuracy.py",
    STEP
    + """

def run_eval(args):
    folder = pathlib.Path(args["out"])
    score = moved([0.75, 0.5, 0.625])
    (folder / "eval_metrics.json").write_text(json.dumps({
        "score": score, "score:std": 0.1, "num_examples": 40, "latency": 1.5, "request_rate": float("inf")}))
    return {"score": score, "latency": 1.5}


class TestEvalAccuracy(unittest.TestCase):
    model = "small-model"
    score_threshold = 0.25

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.out = tmp_path

    @classmethod
    def setUpClass(cls):
        cls.server = object()

    def test_few_shot(self):
        metrics = run_eval({"model": self.model, "out": self.out})
        self.assertGreater(metrics["score"], self.score_threshold)
""",
    {"TestEvalAccuracy.score_threshold": 0.5},
)

TABLE_BY_MODEL = Form(
    "tests/evals/test_accuracy_by_model.py",
    STEP
    + """

EXPECTED_MIN = {"org/model-a": 0.25, "org/model-b": 0.125}


def evaluate(model):
    return {"results": {"task": {"exact_match": moved([0.5, 0.375, 0.75]) / (1 + model.endswith("b"))}}}


@pytest.mark.parametrize("model", sorted(EXPECTED_MIN))
def test_accuracy(model, tune_record):
    measured = evaluate(model)["results"]["task"]["exact_match"]
    tune_record(f"exact_match_{model.rpartition('-')[2]}", measured)
    assert measured >= EXPECTED_MIN[model], model
""",
    {"EXPECTED_MIN['org/model-a']": 0.375, "EXPECTED_MIN['org/model-b']": 0.1875},
)

THROUGHPUT = Form(
    "tests/perf/test_bench_serving.py",
    STEP
    + """

@dataclass
class Limits:
    request_throughput: float
    median_ttft_ms: float


LIMITS = Limits(request_throughput=1.0, median_ttft_ms=500.0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "serving.json"
    out.write_text(json.dumps({"completed": 20, "num_prompts": 20, "request_throughput": moved([8.0, 6.5, 7.0]),
                               "median_ttft_ms": moved([40.0, 60.0, 50.0]), "mean_ttft_ms": 45.0}))
    return json.loads(out.read_text())


def test_throughput(bench):
    assert bench["request_throughput"] > LIMITS.request_throughput


def test_ttft(bench):
    assert bench["median_ttft_ms"] < LIMITS.median_ttft_ms
""",
    {"LIMITS.request_throughput": 6.5, "LIMITS.median_ttft_ms": 60.0},
)

COMPILE_TIME = Form(
    "tests/compile/test_compile_time.py",
    STEP
    + """

COLD_COMPILE_S = 30.0


def compile_model():
    return moved([1.25, 2.5, 2.0])


def test_cold_compile(tune_record):
    seconds = compile_model()
    tune_record("cold_compile_s", seconds)
    assert seconds <= COLD_COMPILE_S
""",
    {"COLD_COMPILE_S": 2.5},
)

FLAT_DICT = Form(
    "tests/quality/test_quality.py",
    STEP
    + """

REFERENCE = {"bleu": 10.0, "length_ratio": 3.0}


def test_quality(tmp_path):
    report = {"summary": {"bleu": moved([30.0, 28.5, 29.0]), "length_ratio": moved([1.0, 1.125, 1.0625])}}
    (tmp_path / "quality.json").write_text(json.dumps(report))
    summary = report["summary"]
    assert summary["bleu"] >= REFERENCE["bleu"]
    assert summary["length_ratio"] <= REFERENCE["length_ratio"]
""",
    {"REFERENCE['bleu']": 28.5, "REFERENCE['length_ratio']": 1.125},
)

FORMS = (UNITTEST_ACCURACY, TABLE_BY_MODEL, THROUGHPUT, COMPILE_TIME, FLAT_DICT)
