"""The results of `bench freshness`: ratios with intervals, a table of the windows, and quality over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.schemas import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BENCH = "freshness"
REFERENCE = "from zero"
_SAMPLES = 1_000
_SEED = 13


@dataclass(frozen=True)
class WindowResult:
    """One case after one window; arrays hold one number a measured basket."""

    seconds: float
    """Processor seconds of the training; 0 where there was none."""
    steps: int
    rows: int
    """Training rows."""
    users: np.ndarray
    ndcg: np.ndarray
    """float64 `(n,)` ndcg@10 of new items in the week that followed."""
    recall: np.ndarray
    """float64 `(n,)` recall@10."""
    old_users: np.ndarray
    old_ndcg: np.ndarray
    """float64 `(o,)` ndcg@10 on the old slice, the same rows in every window."""
    scale: np.ndarray
    """Weight of popularity, as validation chose it."""
    arrived_users: np.ndarray
    text_among_all: np.ndarray
    """float64 `(a,)` recall@100 of items that the model never saw, in the whole catalogue, by their text."""
    popularity_among_all: np.ndarray
    text_among_arrived: np.ndarray
    """float64 `(a,)` recall@10 where only such items are ranked."""
    popularity_among_arrived: np.ndarray


def freshness_records(results: Mapping[str, Sequence[WindowResult]], data: str, windows: int) -> list[BenchmarkRecord]:
    """Return what was measured over all windows but the first, which is that of the common beginning."""
    records: list[BenchmarkRecord] = []

    def add_mean(case: str, metric: str, found: Metric | None) -> None:
        if found is not None:
            add(case, metric, found.value, _interval(found.low, found.high))

    def add(case: str, metric: str, value: float, interval: tuple[float, float] | None = None, unit: str = "") -> None:
        low, high = interval or (None, None)
        record = BenchmarkRecord(
            bench=BENCH, data=data, case=case, metric=metric, value=value, low=low, high=high, unit=unit, seeds=1
        )
        records.append(record)

    reference = results[REFERENCE][1:]
    for case, of_case in results.items():
        later = of_case[1:]
        users = np.concatenate([one.users for one in later])
        bootstrap = UserBootstrap(users, samples=_SAMPLES, seed=_SEED)
        for metric in ("ndcg", "recall"):
            add_mean(case, f"{metric}@10", bootstrap.mean(np.concatenate([getattr(one, metric) for one in later])))
        own, other = (np.concatenate([one.ndcg for one in part]) for part in (later, reference))
        add(case, "ndcg@10 / from zero", *ratio_of_means(users, own, other))
        seconds, whole = (sum(one.seconds for one in part) for part in (later, reference))
        add(case, "training", seconds, unit="s")
        add(case, "training / from zero", seconds / whole if whole else 0.0)
        last, first = of_case[-1], of_case[0]
        value, interval = ratio_of_means(first.old_users, last.old_ndcg, first.old_ndcg)
        add(case, "old slice ndcg@10", float(last.old_ndcg.mean()))
        add(case, f"old slice after {windows}", value - 1, (interval[0] - 1, interval[1] - 1))
    fresh = results["incremental"][1:]
    users = np.concatenate([one.arrived_users for one in fresh])
    if not len(users):
        return records
    arrived = UserBootstrap(users, samples=_SAMPLES, seed=_SEED)
    for name, metric in (("all", "recall@100"), ("arrived", "recall@10 among them")):
        for way in ("text", "popularity"):
            found = arrived.mean(np.concatenate([getattr(one, f"{way}_among_{name}") for one in fresh]))
            add_mean(f"items that arrived, by {way}", metric, found)
    return records


def ratio_of_means(users: np.ndarray, values: np.ndarray, others: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return mean(values) / mean(others) with its 95 % interval, resampling users and keeping rows paired.

    Args:
        users: `(n,)` the user of each row.
        values: float64 `(n,)`.
        others: float64 `(n,)`, the same rows by another case.
    """
    _, codes = np.unique(users, return_inverse=True)
    n_users = int(codes.max(initial=-1)) + 1
    above, below = (np.bincount(codes, weights=part, minlength=n_users) for part in (values, others))
    draws = np.random.default_rng(_SEED).multinomial(n_users, np.full(n_users, 1 / n_users), size=_SAMPLES)
    total = draws @ below
    ratios = (draws @ above)[total > 0] / total[total > 0]
    if not others.sum() or not len(ratios):
        return 0.0, (0.0, 0.0)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(values.sum() / others.sum()), (float(low), float(high))


def window_table(results: Mapping[str, Sequence[WindowResult]]) -> str:
    """Return a table for a terminal: one line a window, for each case ndcg@10, old slice and seconds."""
    cases = list(results)
    lines = ["window   rows  " + "".join(f"{case:<26}" for case in cases)]
    lines.append(" " * 15 + "ndcg@10    old      s     " * len(cases))
    for window in range(len(next(iter(results.values())))):
        found = [results[case][window] for case in cases]
        cells = "".join(f"{one.ndcg.mean():.4f}  {one.old_ndcg.mean():.4f} {one.seconds:6.1f}     " for one in found)
        lines.append(f"{window:>6} {len(found[0].ndcg):>6}  {cells}".rstrip())
    return "\n".join(lines)


def quality_over_time(results: Mapping[str, Sequence[WindowResult]], data: str) -> "Figure":
    """Draw ndcg@10 of the next week and of the old slice, and the seconds spent, by window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for case, of_case in results.items():
        windows = range(len(of_case))
        style = {"marker": "o", "markersize": 3, "label": case}
        panels[0].plot(windows, [one.ndcg.mean() for one in of_case], **style)
        panels[1].plot(windows, [one.old_ndcg.mean() for one in of_case], **style)
        panels[2].plot(windows, np.cumsum([one.seconds for one in of_case]), **style)
    for panel, title in zip(
        panels, (f"{data}: ndcg@10, the next week", "ndcg@10, old slice", "training, processor seconds"), strict=True
    ):
        panel.set_title(title)
        panel.set_xlabel("window (weeks)")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    return figure


def _interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
