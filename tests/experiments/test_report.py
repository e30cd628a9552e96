"""The page of an evaluation."""

from datetime import UTC, datetime

from pipelines.experiments.plots import loss_curve
from pipelines.experiments.report import evaluation_page
from pipelines.schemas import EvaluationReport, Metric

REPORT = EvaluationReport(
    run="r",
    bundle="<b1>",
    test_start=datetime(2017, 12, 24, tzinfo=UTC),
    test_end=datetime(2017, 12, 31, tzinfo=UTC),
    users=1234,
    metrics={
        "headrace": {"recall@10": Metric(value=0.3, low=0.25, high=0.35), "search.recall@10": Metric(value=0.9)},
        "popularity": {"recall@10": Metric(value=0.2)},
        "gain over popularity": {"recall@10": Metric(value=0.1, low=0.05, high=0.15)},
    },
    latency_ms={"recommend_p50": 4.25},
    report=None,
)


def test_the_page_stands_alone_and_tells_values_with_intervals():
    page = evaluation_page(REPORT, ["ties & other rules"], {"Loss": loss_curve({"loss": {0: 1.0}})})
    assert "1,234 users" in page
    assert "0.3000 <small>0.2500 to 0.3500</small>" in page
    assert "+0.1000 <small>+0.0500 to +0.1500</small>" in page
    assert "4.25" in page
    assert "data:image/png;base64,iVBOR" in page
    assert "http" not in page


def test_text_from_outside_is_escaped():
    page = evaluation_page(REPORT, ["ties & other rules"], {})
    assert "&lt;b1&gt;" in page and "<b1>" not in page
    assert "ties &amp; other rules" in page


def test_a_table_has_only_the_cases_that_were_measured_in_it():
    page = evaluation_page(REPORT, [], {})
    search = page.split("<h2>Search</h2>")[1].split("<h2>")[0]
    assert "headrace" in search and "popularity" not in search
    assert "next basket" not in page


def test_a_gain_without_any_value_has_no_row():
    searched = {"gain over lexical": {"search.recall@10": Metric(value=0.3)}, "lexical": {}}
    report = REPORT.model_copy(update={"metrics": {**REPORT.metrics, **searched}})
    gains = evaluation_page(report, [], {}).split("Paired gains")[1].split("<h2>")[0]
    assert "gain over popularity" in gains and "gain over lexical" not in gains


def test_each_table_of_cases_scrolls_on_its_own():
    page = evaluation_page(REPORT, [], {})
    assert ".wide { overflow-x: auto; }" in page
    assert page.count("<div class='wide'><table><tr><th>case</th>") == page.count("<th>case</th>") == 3
