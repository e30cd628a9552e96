"""What the real Great Expectations accepts, what goes to quarantine, and what stops the run."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.config import ValidationConfig
from pipelines.errors import DataError
from pipelines.progress import SilentProgress
from pipelines.steps.validate_tables import validate_tables
from pipelines.validation.judge import Judge
from tests.toys.catalogue import NOW, toy_window

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def great_expectations_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("great_expectations")


@pytest.fixture
def validate(great_expectations_dir):
    def run(tables, window, **settings):
        return validate_tables(
            window,
            tables=tables,
            great_expectations_dir=great_expectations_dir,
            config=ValidationConfig(**settings),
            progress=SilentProgress(),
        )

    return run


def change(window, table, changes):
    """Change cells of an ingested table: {(row, column): value}."""
    path = window.folder / f"{table}.parquet"
    old = pq.read_table(path)
    rows = old.to_pylist()
    for (row, column), value in changes.items():
        rows[row][column] = value
    schema = pa.schema([field.with_nullable(True) for field in old.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def quarantine(tables, window, table):
    path = tables.quarantine / window.window / f"{table}.parquet"
    return [(row["row_number"], row["rule"]) for row in pq.read_table(path).to_pylist()]


def test_clean_window_is_accepted_whole(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    report = validate(tables, window)
    assert report.accepted == {"items": 60, "events": 1500, "users": 30}
    assert (report.quarantined, report.reasons) == ({}, {})
    assert not tables.quarantine.exists()


def test_data_docs_lead_to_every_page_without_scripts(tmp_path):
    tables, window = toy_window(tmp_path)
    change(window, "items", {(0, "title"): "  "})
    folder = tmp_path / "great_expectations"
    report = validate_tables(
        window, tables=tables, great_expectations_dir=folder, config=ValidationConfig(), progress=SilentProgress()
    )
    assert report.data_docs == folder / "index.html"
    text = report.data_docs.read_text()
    assert "<script" not in text and "http" not in text
    rows = re.findall(r"<td>(\w+)</td><td[^>]*>(\w+)</td><td>(\d+) of (\d+)</td><td><a href='([^']+)'", text)
    assert [(table, outcome, int(all_) - int(met)) for table, outcome, met, all_, _ in rows] == [
        ("events", "failed", 1),
        ("items", "failed", 1),
        ("users", "success", 0),
    ]
    assert all((folder / page).is_file() for *_, page in rows)


def test_each_broken_row_is_set_aside_with_its_rule(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(
        window,
        "events",
        {
            (0, "event_type"): "purchased",
            (1, "item_id"): "item-99",
            (2, "value"): -1.0,
            (3, "user_id"): None,
            (4, "event_id"): "sale-00-00-0",
            (5, "event_timestamp"): NOW.replace(year=2027),
            (6, "event_timestamp"): NOW.replace(year=1971),
            (7, "item_id"): None,
            (8, "unreadable"): "value",
            (9, "propensity"): 1.5,
            (10, "position"): -3,
            (11, "value"): 2_000_000.0,
            (12, "event_timestamp"): None,
        },
    )
    report = validate(tables, window)
    assert report.accepted["events"] == 1487
    assert report.quarantined == {"events": 13}
    assert quarantine(tables, window, "events") == [
        (1, "event_type_known"),
        (2, "item_is_known"),
        (3, "value_believable"),
        (4, "user_id_given"),
        (5, "is_first"),
        (6, "event_timestamp_believable"),
        (7, "event_timestamp_believable"),
        (8, "has_subject"),
        (9, "readable"),
        (10, "propensity_believable"),
        (11, "position_believable"),
        (12, "value_believable"),
        (13, "event_timestamp_given"),
    ]
    assert report.reasons["events: item_id is not in items"] == 1
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM events").fetchall() == [(1487,)]


def test_events_of_a_broken_item_go_with_it(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "items", {(0, "title"): "  ", (1, "price"): -2.0})
    sold = pq.read_table(window.folder / "events.parquet")["item_id"]
    gone = pc.sum(pc.is_in(sold, pa.array(["item-00", "item-01"]))).as_py()
    report = validate(tables, window)
    assert report.accepted == {"items": 58, "events": 1500 - gone, "users": 30}
    assert quarantine(tables, window, "items") == [(1, "title_text"), (2, "price_believable")]
    assert report.reasons["events: item_id is not in items"] == gone


def test_too_many_broken_rows_stop_the_run_and_are_named(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(row, "item_id"): "item-99" for row in range(3, 103)})
    with pytest.raises(DataError) as failure:
        validate(tables, window)
    sentence = str(failure.value)
    assert "100 of 1,500 rows are broken (6.7%, allowed: 5.0%)" in sentence
    assert "item_id is not in items: 100 rows, first at 4, 5, 6, 7, 8 of sales.csv" in sentence
    assert "\n" not in sentence
    index = Path(sentence.split("Details: ")[1])
    assert f"<td>{window.window}</td><td>events</td><td class='failed'>failed</td>" in index.read_text()
    assert tables.accepted_until() is None
    assert not tables.quarantine.exists()


def test_few_broken_rows_never_stop_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "users", {(row, "consent"): None for row in range(19)})
    assert validate(tables, window).quarantined == {"users": 19}


def test_table_with_nothing_left_stops_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "users", {(row, "consent"): None for row in range(30)})
    with pytest.raises(DataError, match=r"30 of 30 rows are broken .* Most often consent is missing"):
        validate(tables, window, min_quarantined_rows=100)


def test_column_that_is_gone_stops_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    path = window.folder / "events.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["value"]), path)
    with pytest.raises(DataError, match="The table events has no column `value`"):
        validate(tables, window)


def test_accepted_window_gives_its_report_again(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(0, "value"): -1.0})
    first = validate(tables, window)
    assert validate(tables, window) == first


