"""The page of an evaluation."""

from datetime import UTC, datetime

from pipelines.evaluation.examples import Example
from pipelines.experiments.plots import loss_curve
from pipelines.experiments.report import evaluation_page
from pipelines.schemas import EvaluationReport, Finding, Metric

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
    costs={"headrace": {"recommend_p50_ms": 4.25, "memory_mib": 123.4}},
    slice_rows={"category <Tea>": 7, "search.han script": 3},
    findings=(Finding(name="receipt", passed=False, words="there is no <receipt>"),),
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


def test_slices_of_the_data_have_their_table_with_the_number_of_rows():
    own = {**REPORT.metrics["headrace"], "category <Tea>.recall@10": Metric(value=0.125)}
    own |= {"search.han script.recall@10": Metric(value=0.625)}
    page = evaluation_page(REPORT.model_copy(update={"metrics": {"headrace": own}}), [], {})
    assert "0.1250" in page.split("<h3>Category &lt;Tea&gt; (7)</h3>")[1].split("<h3>")[0]
    assert "0.6250" in page.split("<h3>Search: han script (3)</h3>")[1].split("<h2>")[0]


def test_costs_and_findings_are_on_the_page():
    page = evaluation_page(REPORT, [], {})
    assert "<td>memory, MiB</td><td>123.40</td>" in page
    assert "<li>✗ there is no &lt;receipt&gt;</li>" in page


def test_answers_stand_side_by_side():
    example = Example("search: <tea>", {"headrace": ["green tea", "black tea"], "champion": ["coffee"]})
    page = evaluation_page(REPORT, [], {}, [example])
    assert "<th>headrace</th><th>champion</th>" in page
    assert "<td>search: &lt;tea&gt;</td><td>green tea<br>black tea</td><td>coffee</td>" in page
