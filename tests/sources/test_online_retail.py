"""The worked example of docs/ on a file with one line of each kind."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from pipelines.sources.tables import TablesSource
from pipelines.stores.sql import open_duckdb

DOCS = Path(__file__).parents[2] / "docs"
LINES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HANGING HEART,6,2010-12-01 08:26:00,2.55,17850,United Kingdom
536365,85123A,WHITE HANGING HEART,6,2010-12-01 08:26:00,2.55,17850,United Kingdom
536370,22728,ALARM CLOCK,24,2010-12-01 08:45:00,3.75,12583,France
C536379,22728,ALARM CLOCK,-1,2010-12-01 09:41:00,3.75,17850,United Kingdom
536370,POST,POSTAGE,3,2010-12-01 08:45:00,18.0,12583,France
536414,22139,,56,2010-12-01 11:52:00,0.0,,United Kingdom
536589,21777,,-10,2010-12-01 16:50:00,0.0,,United Kingdom
536600,85123A,wrongly coded,-2,2010-12-01 17:00:00,0.0,,United Kingdom
537197,22841,ROUND CAKE TIN,1,2010-12-05 14:02:00,0.0,12647,Germany
"""


@pytest.fixture(params=["csv", "parquet"])
def mapping(request, tmp_path):
    """The mapping file of docs/ beside the lines."""
    file = tmp_path / "online-retail.yaml"
    shutil.copy(DOCS / "online-retail.yaml", file)
    (tmp_path / "lines.csv").write_text(LINES)
    if request.param == "csv":
        file.write_text(file.read_text().replace("lines.parquet", "lines.csv"))
    else:
        types = "{'InvoiceDate': 'VARCHAR', 'CustomerID': 'DOUBLE'}"
        duckdb.execute(f"COPY (FROM read_csv('{tmp_path}/lines.csv', types = {types})) TO '{tmp_path}/lines.parquet'")
    return file


def read(mapping):
    with open_duckdb() as connection:
        tables = TablesSource(mapping).read(connection, since=None, until=datetime(2012, 1, 1, tzinfo=UTC), state={})
        return tables, {
            table: connection.sql(query).to_arrow_table().to_pylist() for table, query in tables.queries.items()
        }


def test_lines_become_purchases(mapping):
    _, rows = read(mapping)
    told = [
        (row["row_number"], row["user_id"], row["session_id"], row["item_id"], row["value"], row["rejected_because"])
        for row in rows["events"]
    ]
    assert told == [
        (1, "17850", "536365", "85123A", 15.3, None),
        (2, "17850", "536365", "85123A", 15.3, None),  # an exact duplicate, for the preparation of events to remove
        (3, "12583", "536370", "22728", 90.0, None),
        (9, "12647", "537197", "22841", 0.0, "unit price is not positive"),
    ]
    assert rows["events"][0]["event_timestamp"] == datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    assert {row["unreadable"] for row in rows["events"]} == {None}


def test_what_is_left_out_is_counted_by_reason(mapping):
    tables, _ = read(mapping)
    assert tables.left_out == {
        "items: postage, a fee or a discount": 1,
        "events: a cancellation": 1,
        "events: postage, a fee or a discount": 1,
        "events: a correction of the stock": 2,
        "events: no customer": 1,
    }


def test_items_are_made_of_their_good_lines(mapping):
    _, rows = read(mapping)
    items = {row["item_id"]: (row["title"], row["price"], row["rejected_because"]) for row in rows["items"]}
    assert items == {
        "85123A": ("WHITE HANGING HEART", 2.55, None),
        "22728": ("ALARM CLOCK", 3.75, None),
        "22139": (None, None, "no line describes it"),
        "21777": (None, None, "no line describes it"),
        "22841": ("ROUND CAKE TIN", None, None),
    }


def test_users_know_their_country(mapping):
    _, rows = read(mapping)
    assert {row["user_id"]: dict(row["attributes"])["Country"] for row in rows["users"]} == {
        "17850": "United Kingdom",
        "12583": "France",
        "12647": "Germany",
    }


def test_counts_in_the_page_add_up():
    page = (DOCS / "online-retail.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", page, re.M)
    *parts, (last, total) = [(name, int(count.replace(",", ""))) for name, count in rows]
    assert last == "all lines"
    assert sum(count for _, count in parts) == total == 541_909
