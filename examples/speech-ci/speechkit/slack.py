"""From a calibrated reference to the limit that a test asserts.

References are the worst values seen in a few runs, so the next run may well be a little worse.
"""

from __future__ import annotations

from speechkit.results import Summary, figure

Speeds = dict[int, dict[str, float]]
"""Speed figures by concurrency, then by name."""

HIGHER_IS_BETTER = frozenset({"throughput_qps"})


def apply_slack(references: Speeds, higher: float, lower: float) -> Speeds:
    """Limits for speed figures: times `higher` where more is better, times `lower` for all others."""
    return {
        concurrency: {name: value * (higher if name in HIGHER_IS_BETTER else lower) for name, value in figures.items()}
        for concurrency, figures in references.items()
    }


def apply_wer_slack(reference: float, factor: float = 1.5) -> float:
    """Highest word error rate that still passes."""
    return reference * factor


def apply_score_slack(reference: float, factor: float = 0.93) -> float:
    """Lowest accuracy, opinion score or similarity that still passes."""
    return reference * factor


def assert_speed(summary: Summary, limits: dict[str, float]) -> None:
    """Fail with every figure that is beyond its limit, not only the first."""
    failures = []
    for name, limit in limits.items():
        value = figure(summary, name)
        higher = name in HIGHER_IS_BETTER
        if value < limit if higher else value > limit:
            failures.append(f"{name} = {value:.4g}, {'at least' if higher else 'at most'} {limit:.4g}")
    assert not failures, "; ".join(failures)
