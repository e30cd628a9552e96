"""The bars of the serving bench, and a table that shows each figure beside its bar."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.benchmarks.records import BenchmarkRecord

RECOMMEND = "recommend known user"
SEARCH_CACHED = "search cached query"
SEARCH_NEW = "search new query 6-layer int8"
SEARCH_SMALL = "search new query small tower"
NAIVE = "naive"
WORKER, TWO_WORKERS, TWO_RECOMMEND = "worker", "two workers, new query", "two workers, recommend"
MAX_P99_RATIO = 5.0
"""99th percentile at half of the measured capacity, relative to the median at one client."""


@dataclass(frozen=True)
class Bar:
    """What one figure has to reach."""

    case: str
    metric: str
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value reaches it; what is not a number does not."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        """Read as in `≤ 0.8`."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g}"


def _case(case: str, cpu_ms: float, p50_ms: float, rps: float) -> list[Bar]:
    return [
        Bar(case, "cpu_ms", cpu_ms),
        Bar(case, "p50_ms", p50_ms),
        Bar(case, "rps_per_core", rps, at_least=True),
        Bar(case, "p99_over_p50", MAX_P99_RATIO),
    ]


BARS = [
    *_case(RECOMMEND, 0.8, 1.5, 1_000),
    *_case(SEARCH_CACHED, 1.0, 1.8, 800),
    *_case(SEARCH_NEW, 3.2, 4.0, 280),
    *_case(SEARCH_SMALL, 1.6, 2.5, 550),
    Bar(WORKER, "memory_uss_mib", 600),
    Bar(WORKER, "ready_s", 10),
    Bar(TWO_WORKERS, "over_one", 1.7, at_least=True),
    Bar("index", "recall@100", 0.98, at_least=True),
]


def table_with_bars(records: Sequence[BenchmarkRecord], bars: Sequence[Bar] = BARS) -> str:
    """Return a table: one line a figure, its range over the rounds, its bar, and whether it is met."""
    by_name = {(bar.case, bar.metric): bar for bar in bars}
    rows = [("case", "figure", "measured", "range", "bar", "")]
    for record in records:
        bar = by_name.get((record.case, record.metric))
        spread = "" if record.low is None or record.high is None else f"{_shown(record.low)} – {_shown(record.high)}"
        rows.append(
            (
                record.case,
                record.metric,
                _shown(record.value),
                spread,
                "" if bar is None else str(bar),
                "" if bar is None else "met" if bar.is_met(record.value) else "MISSED",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        shown = [
            "" if column == 0 and number and row[0] == rows[number - 1][0] else cell for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip())
    return "\n".join(lines)


def missed(records: Sequence[BenchmarkRecord], bars: Sequence[Bar] = BARS) -> list[str]:
    """Return what misses its bar, one sentence a figure."""
    by_name = {(bar.case, bar.metric): bar for bar in bars}
    return [
        f"{record.case}: {record.metric} is {_shown(record.value)}, the bar is {bar}"
        for record in records
        if (bar := by_name.get((record.case, record.metric))) is not None and not bar.is_met(record.value)
    ]


def _shown(value: float) -> str:
    if not math.isfinite(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"
