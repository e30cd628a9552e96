"""Pictures for MLflow and the evaluation report; each function returns a matplotlib figure and shows nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.schemas import MeasuredVariant, Metric

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN = 7.0
_DPI = 120
_COLORS = {"headrace": "tab:blue", "champion": "tab:orange"}
_BINS = 40


@dataclass(frozen=True)
class QualityPoint:
    """One case in the picture of quality against latency."""

    case: str
    quality: Metric
    latency_ms: float
    size_mib: float | None = None
    """Drawn as the area of the point; None for what is no bundle."""


def loss_curve(history: Mapping[str, Mapping[int, float]]) -> "Figure":
    """Draw training curves: losses on one panel, what is measured on validation rows on the other.

    Args:
        history: name -> training step -> value; names that contain `loss` go to the first panel.
    """
    panels = (
        ("loss", {name: points for name, points in history.items() if "loss" in name and points}),
        ("validation", {name: points for name, points in history.items() if "loss" not in name and points}),
    )
    drawn = [(title, curves) for title, curves in panels if curves] or [("loss", {})]
    figure, axes = _figure(len(drawn), height_in=3.2)
    for axis, (title, curves) in zip(axes, drawn, strict=True):
        for name, points in sorted(curves.items()):
            steps = sorted(points)
            axis.plot(
                steps, [points[step] for step in steps], label=name, marker="o" if len(steps) < 30 else None, ms=3
            )
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if curves:
            axis.legend(frameon=False)
    return figure


def metric_bars(metrics: Mapping[str, Mapping[str, Metric]], names: Sequence[str]) -> "Figure":
    """Draw one panel a metric and one bar a case, with 95 % intervals.

    Args:
        metrics: case -> metric -> value; a case without one of the metrics is left out of its panel.
        names: Metrics to draw.
    """
    figure, axes = _figure(len(names), height_in=0.5 + 0.4 * len(metrics))
    for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
        cases = [case for case in metrics if name in metrics[case]][::-1]
        found = [metrics[case][name] for case in cases]
        axis.barh(
            cases,
            [metric.value for metric in found],
            xerr=[[_below(metric) for metric in found], [_above(metric) for metric in found]],
            color=[_COLORS.get(case, "tab:gray") for case in cases],
            alpha=0.8,
            capsize=2,
        )
        axis.set_title(name)
        axis.grid(axis="x", alpha=0.3)
        if place:
            axis.set_yticklabels([])
    return figure


def quality_against_latency(points: Sequence[QualityPoint], metric: str) -> "Figure":
    """Draw one point a case: to the left is faster, up is better, a larger point is a larger bundle.

    The line joins the cases that no other one beats in both.
    """
    figure, (axis,) = _figure(1, height_in=3.6)
    front = _pareto_front(points)
    axis.plot([point.latency_ms for point in front], [point.quality.value for point in front], color="0.8", zorder=0)
    largest = max((point.size_mib or 0.0 for point in points), default=0.0)
    for point in points:
        axis.errorbar(
            [point.latency_ms],
            [point.quality.value],
            yerr=[[_below(point.quality)], [_above(point.quality)]],
            marker="o",
            markersize=6 if not point.size_mib else 4 + 8 * (point.size_mib / largest) ** 0.5,
            capsize=2,
            color=_COLORS.get(point.case, "tab:gray"),
        )
        size = "" if point.size_mib is None else f", {point.size_mib:.1f} MiB"
        axis.annotate(
            f"{point.case}{size}",
            (point.latency_ms, point.quality.value),
            # champion and challenger are often in one place
            xytext=(8, -12) if point.case == "champion" else (8, 6),
            textcoords="offset points",
            fontsize=8,
        )
    axis.set_xscale("log")
    axis.set_xlabel("median time to rank for one user (ms)")
    axis.set_ylabel(metric)
    axis.margins(x=0.3)
    axis.grid(alpha=0.3)
    return figure


def slice_intervals(
    metrics: Mapping[str, Mapping[str, Metric]],
    slice_rows: Mapping[str, int],
    cases: Sequence[str],
    metric: str = "recall@10",
) -> "Figure":
    """Draw one line a slice with a point and a 95 % interval a case; the number of rows stands beside the name.

    Args:
        metrics: case -> metric -> value; the slice's value is `<slice>.<metric>`.
        slice_rows: Slice -> rows.
    """
    names = [name for name, rows in slice_rows.items() if rows][::-1]
    drawn = [case for case in cases if case in metrics]
    figure, (axis,) = _figure(1, height_in=1.0 + 0.32 * max(len(names), 1))
    for place, case in enumerate(drawn):
        found = [(line, metrics[case].get(f"{name}.{metric}")) for line, name in enumerate(names)]
        shown = [(line + 0.16 * (len(drawn) - 1 - 2 * place), value) for line, value in found if value is not None]
        axis.errorbar(
            [value.value for _, value in shown],
            [line for line, _ in shown],
            xerr=[[_below(value) for _, value in shown], [_above(value) for _, value in shown]],
            fmt="o",
            ms=4,
            capsize=2,
            color=_COLORS.get(case, "tab:gray"),
            label=case,
        )
    axis.set_yticks(range(len(names)), [f"{name} ({slice_rows[name]:,})" for name in names], fontsize=8)
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
    if drawn:
        axis.legend(frameon=False, fontsize=8)
    return figure


def latency_histogram(times: "Mapping[str, Mapping[str, np.ndarray]]") -> "Figure":
    """Draw one panel a kind of request: how many answers took how long, a step line a case.

    Args:
        times: case -> kind of request -> milliseconds of each answer.
    """
    import numpy as np
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    kinds = list(dict.fromkeys(kind for found in times.values() for kind in found)) or [""]
    figure, axes = _figure(len(kinds), height_in=3.0)
    for axis, kind in zip(axes, kinds, strict=True):
        drawn = {case: found[kind] for case, found in times.items() if kind in found}
        if drawn:
            every = np.concatenate(list(drawn.values()))
            bins = np.geomspace(max(every.min(), 1e-3), max(every.max(), 2e-3), _BINS).tolist()
            for case, values in drawn.items():
                axis.hist(values, bins=bins, histtype="step", label=case, color=_COLORS.get(case, "tab:gray"))
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.legend(frameon=False, fontsize=8)
        axis.set_title(kind)
        axis.set_xlabel("ms")
        axis.set_ylabel("answers")
    return figure


def _pareto_front(points: Sequence[QualityPoint]) -> list[QualityPoint]:
    """Return the points that no other one beats in both latency and quality, the fastest first."""
    front: list[QualityPoint] = []
    for point in sorted(points, key=lambda one: (one.latency_ms, -one.quality.value)):
        if not front or point.quality.value > front[-1].quality.value:
            front.append(point)
    return front


def _figure(panels: int, height_in: float) -> "tuple[Figure, Sequence[Axes]]":
    """Return a figure that no window system knows of, so that nothing has to be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN if panels == 1 else 1.5 * _WIDTH_IN, height_in), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def _below(metric: Metric) -> float:
    return 0.0 if metric.low is None else max(metric.value - metric.low, 0.0)


def _above(metric: Metric) -> float:
    return 0.0 if metric.high is None else max(metric.high - metric.value, 0.0)


def variant_front(variants: Sequence[MeasuredVariant], picked: str | None) -> "Figure":
    """Draw one point a variant with its interval, to the left is faster, up is better; a line is the Pareto front.

    Args:
        picked: Name of the variant that the policy chose, if it did.
    """
    from pipelines.compression.policy import pareto_front

    figure, (axis,) = _figure(1, height_in=3.6)
    front = pareto_front(variants)
    axis.step([one.encode_ms for one in front], [one.ndcg_kept for one in front], where="post", color="tab:gray", lw=1)
    for one in variants:
        color = "tab:blue" if one.name == picked else "tab:gray"
        if one.ndcg_kept_low is not None and one.ndcg_kept_high is not None:
            axis.vlines(one.encode_ms, one.ndcg_kept_low, one.ndcg_kept_high, color=color, lw=1)
        axis.plot([one.encode_ms], [one.ndcg_kept], "o", color=color)
        axis.annotate(
            f"{one.name}, {one.size_mib:.0f} MiB",
            (one.encode_ms, one.ndcg_kept),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=8,
        )
    axis.set_xscale("log")
    axis.set_xlabel("median time from a query to its vector, one thread (ms)")
    axis.set_ylabel("share of the full model's NDCG@10")
    axis.margins(x=0.35, y=0.15)
    axis.grid(alpha=0.3)
    return figure


def save_figure(figure: "Figure", path: "Path") -> None:
    """Write a figure as a picture, whole or not at all."""
    from pipelines.stores.files import replacing_file

    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))
