"""Pictures for MLflow and the evaluation report; each function returns a matplotlib figure and shows nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.schemas import MeasuredVariant, Metric

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN = 7.0
_DPI = 120


@dataclass(frozen=True)
class QualityPoint:
    """One case in the picture of quality against latency."""

    case: str
    quality: Metric
    latency_ms: float


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
            color=["tab:blue" if case == "headrace" else "tab:gray" for case in cases],
            alpha=0.8,
            capsize=2,
        )
        axis.set_title(name)
        axis.grid(axis="x", alpha=0.3)
        if place:
            axis.set_yticklabels([])
    return figure


def quality_against_latency(points: Sequence[QualityPoint], metric: str) -> "Figure":
    """Draw one point a case: to the left is faster, up is better."""
    figure, (axis,) = _figure(1, height_in=3.6)
    for point in points:
        axis.errorbar(
            [point.latency_ms],
            [point.quality.value],
            yerr=[[_below(point.quality)], [_above(point.quality)]],
            marker="o",
            capsize=2,
            color="tab:blue" if point.case == "headrace" else "tab:gray",
        )
        axis.annotate(
            point.case, (point.latency_ms, point.quality.value), xytext=(6, 4), textcoords="offset points", fontsize=8
        )
    axis.set_xscale("log")
    axis.set_xlabel("median time to rank for one user (ms)")
    axis.set_ylabel(metric)
    axis.margins(x=0.2)
    axis.grid(alpha=0.3)
    return figure


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
    """Draw one point a variant, to the left is faster, up is better, and a line through the Pareto front.

    Args:
        picked: Name of the variant that the policy chose, if it did.
    """
    from pipelines.compression.policy import pareto_front

    figure, (axis,) = _figure(1, height_in=3.6)
    front = pareto_front(variants)
    axis.step([one.encode_ms for one in front], [one.ndcg_kept for one in front], where="post", color="tab:gray", lw=1)
    for one in variants:
        axis.plot([one.encode_ms], [one.ndcg_kept], "o", color="tab:blue" if one.name == picked else "tab:gray")
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
