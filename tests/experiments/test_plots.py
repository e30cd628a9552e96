"""What the pictures show, read back from the figures."""

import pytest

from pipelines.experiments.plots import QualityPoint, loss_curve, metric_bars, quality_against_latency
from pipelines.schemas import Metric


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
