"""What the pictures show, read back from the figures."""

import numpy as np
import pytest

from pipelines.experiments.plots import (
    QualityPoint,
    latency_histogram,
    loss_curve,
    metric_bars,
    quality_against_latency,
    slice_intervals,
    variant_front,
)
from pipelines.schemas import MeasuredVariant, Metric


def test_losses_and_validation_have_a_panel_each():
    figure = loss_curve({"tower_loss": {10: 2.0, 0: 3.0}, "encoder_loss": {}, "validation_recall@10": {0: 0.1}})
    losses, validation = figure.axes
    [line] = losses.lines
    assert (line.get_label(), list(line.get_xdata()), list(line.get_ydata())) == ("tower_loss", [0, 10], [3.0, 2.0])
    assert [line.get_label() for line in validation.lines] == ["validation_recall@10"]


def test_a_run_without_steps_still_has_a_picture():
    assert len(loss_curve({}).axes) == 1


def test_bars_show_value_and_interval_of_each_case():
    metrics = {
        "headrace": {"recall@10": Metric(value=0.3, low=0.2, high=0.45)},
        "popularity": {"recall@10": Metric(value=0.1)},
        "gain over popularity": {"mrr": Metric(value=0.2)},
    }
    [axis] = metric_bars(metrics, ["recall@10"]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["popularity", "headrace"]
    assert [bar.get_width() for bar in axis.patches] == [0.1, 0.3]
    [segments] = [collection.get_segments() for collection in axis.collections]
    assert segments[1][:, 0].tolist() == pytest.approx([0.2, 0.45])


def test_quality_is_drawn_against_latency(tmp_path):
    points = [QualityPoint("headrace", Metric(value=0.3, low=0.2, high=0.4), 5.0)]
    figure = quality_against_latency(points, "recall@10")
    [axis] = figure.axes
    assert axis.get_ylabel() == "recall@10"
    assert [text.get_text() for text in axis.texts] == ["headrace"]
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_the_front_joins_the_cases_that_no_other_one_beats():
    points = [
        QualityPoint("headrace", Metric(value=0.3), 5.0, 40.0),
        QualityPoint("champion", Metric(value=0.2), 6.0, 160.0),
        QualityPoint("popularity", Metric(value=0.1), 1.0),
    ]
    [axis] = quality_against_latency(points, "recall@10").axes
    front, *cases = axis.lines
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([1.0, 5.0], [0.1, 0.3])
    assert [text.get_text() for text in axis.texts] == ["headrace, 40.0 MiB", "champion, 160.0 MiB", "popularity"]
    own, champion, _ = (line.get_markersize() for line in cases if line.get_marker() == "o")
    assert (own, champion) == (8, 12)  # four times the size, twice the width beyond the smallest


def test_each_slice_has_a_line_with_both_bundles():
    metrics = {
        "headrace": {"tail items.recall@10": Metric(value=0.3, low=0.2, high=0.45)},
        "champion": {"tail items.recall@10": Metric(value=0.4, low=0.3, high=0.5)},
    }
    rows = {"tail items": 1234, "nobody": 0}
    [axis] = slice_intervals(metrics, rows, ("headrace", "champion")).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["tail items (1,234)"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["headrace", "champion"]
    shown = [
        line.get_xdata().tolist() for line in axis.lines if len(line.get_xdata()) == 1 and line.get_marker() == "o"
    ]
    assert shown == [[0.3], [0.4]]


def test_latencies_of_both_bundles_are_drawn_for_each_kind_of_request():
    times = {"headrace": {"recommend": np.asarray([1.0, 2.0]), "search": np.asarray([3.0])}}
    times["champion"] = {"recommend": np.asarray([4.0])}
    recommend, search = latency_histogram(times).axes
    assert [axis.get_title() for axis in (recommend, search)] == ["recommend", "search"]
    assert [text.get_text() for text in recommend.get_legend().get_texts()] == ["headrace", "champion"]
    assert [text.get_text() for text in search.get_legend().get_texts()] == ["headrace"]
    assert latency_histogram({}).axes


def test_variants_have_their_intervals_and_those_that_no_other_beats_are_joined():
    def variant(name, kept, milliseconds):
        return MeasuredVariant(
            name=name, ndcg=kept, ndcg_kept=kept, ndcg_kept_low=kept - 0.01, ndcg_kept_high=kept + 0.01, recall=1,
            encode_ms=milliseconds, speedup=1, cpu_ms=1, size_mib=3,
        )  # fmt: skip

    figure = variant_front([variant("slow", 0.9, 2), variant("good", 0.99, 1), variant("fast", 0.92, 0.1)], "good")
    axis = figure.axes[0]
    front, *points = axis.lines
    assert front.get_xydata().tolist() == [[0.1, 0.92], [1, 0.99]]
    assert [point.get_color() for point in points] == ["tab:gray", "tab:blue", "tab:gray"]
    intervals = [line.get_segments()[0].tolist() for line in axis.collections]
    assert intervals[1] == [[1, pytest.approx(0.98)], [1, pytest.approx(1.0)]]
    assert [text.get_text() for text in axis.texts] == ["slow, 3 MiB", "good, 3 MiB", "fast, 3 MiB"]
