"""How many answers are right."""

import json

from minibench.client import ask
from minibench.server import serving

MODEL = "adder-7b"
ACCURACY_MIN = {"adder-7b": 0.25, "adder-70b": 0.5}
QUESTIONS = [(a, a + a % 3) for a in range(50)]


def test_accuracy(tmp_path):
    with serving() as address:
        answers = [ask(address, a, b)[0] for a, b in QUESTIONS]
    right = sum(answer == a + b for answer, (a, b) in zip(answers, QUESTIONS, strict=True))
    summary = {"total": len(QUESTIONS), "completed": len(answers), "accuracy": right / len(QUESTIONS)}
    (tmp_path / "answers.json").write_text(json.dumps({"model": MODEL, "summary": summary}))
    assert summary["accuracy"] >= ACCURACY_MIN[MODEL]
