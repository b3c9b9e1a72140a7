"""From replies to figures: word error rate, accuracy, speed, and the mean of any other score.

Every summary carries how many samples there were and how many could be evaluated. Figures over
no sample at all are null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from speechkit.closed_loop import LoadResult, Reply
from speechkit.results import Number, Results, Sample


def normalise(text: str) -> str:
    """Lower case, letters, apostrophes and single spaces only."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def _mean(values: Sequence[float]) -> Number:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], percentile: int) -> Number:
    return float(np.percentile(values, percentile)) if values else None


def word_errors(sentences: Sequence[str], heard: Sequence[Reply[str]]) -> Results:
    """Compare what was recognised with what should have been said.

    `wer_corpus`: all word errors over all reference words. `wer_per_sample_max`: the worst sentence.
    `sentence_accuracy`: share of the evaluated sentences without any error. All are fractions.
    """
    from jiwer import process_words

    samples: list[Sample] = []
    rates: list[float] = []
    errors = words = 0
    for sentence, reply in zip(sentences, heard, strict=True):
        reference = normalise(sentence)
        sample: Sample = {"reference": reference, "hypothesis": reply.answer, "wer": None, "error": reply.error}
        if reply.answer is not None:
            scored = process_words(reference, normalise(reply.answer))
            errors += scored.substitutions + scored.deletions + scored.insertions
            words += len(reference.split())
            rates.append(scored.wer)
            sample["wer"] = scored.wer
        samples.append(sample)
    return {
        "summary": {
            "total_samples": len(samples),
            "evaluated": len(rates),
            "wer_corpus": errors / words if words else None,
            "wer_per_sample_max": max(rates, default=None),
            "sentence_accuracy": _mean([rate == 0 for rate in rates]),
        },
        "per_sample": samples,
    }


def speed(load: LoadResult[Any], audio_s: Sequence[float | None], concurrency: int) -> Results:
    """Throughput, latency and real-time factor of a run.

    `audio_s`: seconds of audio each request consumed or produced, None where it failed. Latencies are
    in seconds, throughput in requests a second; `rtf_mean` is the mean of latency over audio length.
    """
    done = [
        (reply.latency_s, length)
        for reply, length in zip(load.replies, audio_s, strict=True)
        if reply.error is None and length is not None
    ]
    latencies = [latency for latency, _ in done]
    return {
        "summary": {
            "total_requests": len(load.replies),
            "completed_requests": len(done),
            "concurrency": concurrency,
            "wall_s": load.wall_s,
            "throughput_qps": len(done) / load.wall_s,
            "latency_mean_s": _mean(latencies),
            "latency_p95_s": _percentile(latencies, 95),
            "rtf_mean": _mean([latency / length for latency, length in done]),
        },
        "per_sample": [
            {"latency_s": reply.latency_s, "audio_s": length, "error": reply.error}
            for reply, length in zip(load.replies, audio_s, strict=True)
        ],
    }


def mean_score(name: str, scores: Sequence[Reply[float]]) -> Results:
    """Mean (`<name>_mean`) and lowest (`<name>_min`) of a score per sample, higher being better."""
    values = [reply.answer for reply in scores if reply.answer is not None]
    return {
        "summary": {
            "total_samples": len(scores),
            "evaluated": len(values),
            f"{name}_mean": _mean(values),
            f"{name}_min": min(values, default=None),
        },
        "per_sample": [{name: reply.answer, "error": reply.error} for reply in scores],
    }
