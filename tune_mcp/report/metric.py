"""One metric of one stage as a report tells it: its repeats, its threshold now and proposed, and what N can carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tune_mcp.apply.plan import Row
from tune_mcp.config.stages import Number, Stage
from tune_mcp.report import shape, statistics
from tune_mcp.report.facts import FlagFacts, MetricFacts, SlackFacts
from tune_mcp.report.figures import change_percent, direction_text
from tune_mcp.report.noise import Noise
from tune_mcp.report.slack import Slack, SlackReader
from tune_mcp.report.threshold_history import HistoryReader, loosened_in_a_row


@dataclass(frozen=True)
class MetricReader:
    """Tells the metrics of one apply plan's rows, by (stage key, metric key)."""

    slack: SlackReader
    past: HistoryReader
    rows: Mapping[tuple[str, str], Row]
    noise: Noise

    def read(self, stage: Stage) -> Iterator[MetricFacts]:
        """The stage's metrics in its own order."""
        for key in stage.metrics:
            if (row := self.rows.get((stage.key, key))) is not None:
                yield self._one(stage, row)

    def _one(self, stage: Stage, row: Row) -> MetricFacts:
        worst, display = row.worst, stage.metrics[row.worst.metric_key].display
        values, current, proposed = worst.per_run_raw, row.current_raw, row.write_value
        files = (stage.threshold_path, stage.test)
        slack = self.slack.find(files, row.symbol, row.subkey, row.worst_op, stage.threshold_path)
        described = statistics.spread(values)
        limit = slack.limit(proposed) if slack else None
        present = slack.limit(current) if slack and current is not None else None
        family, step = self.noise.families[row.key], self.noise.series[row.key].step
        step = None if family == "count" else step
        past = self.past.past(row)
        moved = None if current is None else abs(proposed - current)
        return MetricFacts(
            key=worst.metric_key,
            label=display.label,
            scale=display.scale,
            digits=display.digits,
            worst_op=row.worst_op,
            place=row.place,
            file=row.file,
            line=row.literal.line if row.literal else None,
            values=values,
            worst_raw=worst.worst_raw,
            worst_shown=worst.worst_rounded,
            worst_repeats=tuple(repeat for repeat, value in enumerate(values, 1) if value == worst.worst_raw),
            current_raw=current,
            write_value=proposed,
            direction=row.direction,
            direction_text=direction_text(row.worst_op, current, proposed),
            change_percent=None if current is None else change_percent(current, proposed),
            decision=row.decision,
            reason=row.reason,
            slack=None if slack is None else _slack(slack),
            limit_present=present,
            limit_proposed=limit,
            present_misses=None if present is None else _misses(values, row.worst_op == "min", present),
            spread=described,
            chance=self.noise.chance(row.key, limit),
            chance_present=None if present is None else self.noise.chance(row.key, present),
            past=past,
            loosened_in_a_row=loosened_in_a_row(row, past),
            family=family,
            quantum=step,
            one_sample=bool(step and moved and moved <= step * (1 + 1e-9)),
            within_noise=bool(moved and described.spread and moved <= described.spread),
            flags=tuple(
                FlagFacts(kind=flag.kind, text=flag.text)
                for flag in shape.flags(values, row.worst_op, is_time=family == "speed")
            ),
        )


def _slack(slack: Slack) -> SlackFacts:
    return SlackFacts(factor=slack.factor, offset=slack.offset, how=slack.how)


def _misses(values: tuple[Number, ...], lower_bound: bool, limit: float) -> int:
    return sum(value < limit if lower_bound else value > limit for value in values)
