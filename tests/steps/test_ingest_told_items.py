"""Items that the service was told of, in the items table after the next ingestion."""

import csv
import json
from datetime import timedelta

import pytest

from pipelines.config import PreparationConfig, ValidationConfig
from pipelines.progress import SilentProgress
from pipelines.sources.tables import TablesSource
from pipelines.steps.embed_new_items import embed_new_items
from pipelines.steps.ingest_tables import ingest_tables
from pipelines.steps.validate_tables import validate_tables
from pipelines.stores.item_log import ItemLog
from pipelines.stores.new_items_store import find_pointer
from tests.toys.catalogue import MAPPING, NOW, START, NoEvents, empty_tables, pseudonymizer, write_csv
from tests.toys.toy_bundle import write_toy_bundle

HOUR = timedelta(hours=1)


class Shop:
    """A shop whose items are read from a file and told of by the service."""

    def __init__(self, home, *, dated: bool) -> None:
        self.home = home
        self.now = NOW
        self.mapping = write_csv(home / "shop")
        if not dated:
            self.mapping.write_text(MAPPING.replace(', updated_at: "2026-01-01T00:00:00+00:00"', ""))
        self.tables = empty_tables(home)
        self.log = ItemLog(home / "item_log", clock=lambda: self.now)

    def ingest(self):
        window = ingest_tables(
            TablesSource(self.mapping, lookback=timedelta(days=1)),
            tables=self.tables,
            event_log=NoEvents(),
            item_log=self.log,
            pseudonymizer=pseudonymizer(),
            preparation=PreparationConfig(),
            late_days=30,
            until=self.now,
            progress=SilentProgress(),
        )
        self.tables.accept(window, rejections={})
        self.now += HOUR
        return window

    def tell(self, item_id: str, title: str, **more) -> None:
        self.log.append([{"item_id": item_id, "title": title, "available": True, **more}])
        self.now += timedelta(minutes=1)

    def delete(self, item_id: str) -> None:
        self.log.append([{"item_id": item_id, "deleted": True}])
        self.now += timedelta(minutes=1)

    def change_source(self, item_id: str, **values: str) -> None:
        """Write the file of items anew with other values of one item."""
        path = self.home / "shop" / "items.csv"
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, **values} if row["sku"] == item_id else row for row in rows)

    def item(self, item_id: str) -> dict | None:
        with self.tables.connect() as connection:
            rows = connection.sql("SELECT * FROM items WHERE item_id = $id", params={"id": item_id}).to_arrow_table()
        return rows.to_pylist()[0] if rows.num_rows else None


@pytest.fixture(params=[True, False], ids=["dated source", "whole catalogue each time"])
def shop(tmp_path, request) -> Shop:
    shop = Shop(tmp_path, dated=request.param)
    shop.ingest()
    return shop


def test_what_was_told_is_in_the_table_once_and_stays(shop):
    shop.tell("new", "Quince, fruit", category="Fruit", price=2.5, attributes={"aisle": "9"}, description="sour")
    told_at = shop.now - timedelta(minutes=1)
    shop.tell("item-03", "Sour cherry")
    window = shop.ingest()
    assert window.rows["items"] == 2
    assert shop.item("new") == {
        "item_id": "new",
        "title": "Quince, fruit",
        "description": "sour",
        "category": "Fruit",
        "brand": None,
        "price": 2.5,
        "currency": None,
        "image": None,
        "attributes": [("aisle", "9")],
        "available": True,
        "updated_at": told_at,
    }
    for _ in range(2):  # the source goes on saying what it said before
        assert "items" not in shop.ingest().rows
        assert shop.item("item-03")["title"] == "Sour cherry"
    assert json.loads(json.dumps(shop.tables.source_state("item_log"))) == shop.log.behind(None)[1]


def test_a_deleted_item_is_unavailable_and_keeps_what_it_was(shop):
    before = shop.item("item-03")
    shop.delete("item-03")
    shop.delete("nobody knows")
    shop.tell("new", "Quince")
    shop.delete("new")
    shop.ingest()
    assert shop.item("item-03") == {**before, "available": False, "updated_at": shop.item("item-03")["updated_at"]}
    assert (shop.item("new")["title"], shop.item("new")["available"]) == ("Quince", False)
    assert shop.item("nobody knows") is None
    shop.ingest()
    assert shop.item("item-03")["available"] is False
    shop.tell("item-03", "Cherry again")
    shop.ingest()
    assert (shop.item("item-03")["title"], shop.item("item-03")["available"]) == ("Cherry again", True)


def test_a_source_without_times_counts_again_when_it_says_something_new(tmp_path):
    shop = Shop(tmp_path, dated=False)
    shop.ingest()
    shop.tell("item-03", "Sour cherry")
    shop.ingest()
    shop.change_source("item-03", name="Cherry, dried")
    assert shop.ingest().rows["items"] == 1
    assert shop.item("item-03")["title"] == "Cherry, dried"
    assert "items" not in shop.ingest().rows
    shop.change_source("item-04", name="Grapes")  # in one window with what is told: nobody knows which was first
    shop.tell("item-04", "Grapes, red")
    shop.ingest()
    assert shop.item("item-04")["title"] == "Grapes, red"
    assert "items" not in shop.ingest().rows
    shop.change_source("item-04", name="Grapes, white")
    shop.ingest()
    assert shop.item("item-04")["title"] == "Grapes, white"


def test_a_dated_source_counts_where_its_row_is_newer(tmp_path):
    shop = Shop(tmp_path, dated=True)
    shop.ingest()
    shop.tell("item-03", "Sour cherry")
    shop.ingest()
    later = (shop.now - timedelta(minutes=5)).isoformat()
    shop.mapping.write_text(MAPPING.replace("2026-01-01T00:00:00+00:00", later))
    shop.ingest()
    assert shop.item("item-03")["title"].startswith("Cherry")


def test_the_first_window_takes_both_and_validation_accepts_them(tmp_path):
    shop = Shop(tmp_path, dated=False)
    shop.now = START + timedelta(days=30)
    shop.tell("new", "Quince")
    shop.tell("item-03", "Sour cherry")
    shop.delete("item-04")
    shop.now = NOW
    window = ingest_tables(
        TablesSource(shop.mapping, lookback=timedelta(days=1)),
        tables=shop.tables,
        event_log=NoEvents(),
        item_log=shop.log,
        pseudonymizer=pseudonymizer(),
        preparation=PreparationConfig(),
        late_days=30,
        until=NOW,
        progress=SilentProgress(),
    )
    report = validate_tables(
        window,
        tables=shop.tables,
        great_expectations_dir=tmp_path / "gx",
        config=ValidationConfig(),
        progress=SilentProgress(),
    )
    assert report.quarantined == {}
    assert (shop.item("item-03")["title"], shop.item("item-04")["available"]) == ("Sour cherry", False)
    with shop.tables.connect() as connection:
        assert connection.sql("SELECT count(*), count(DISTINCT item_id) FROM items").fetchall() == [(61, 61)]


def test_what_stands_beside_a_bundle_names_the_place_in_the_log_that_it_knows(tmp_path):
    shop = Shop(tmp_path, dated=False)
    shop.ingest()
    write_toy_bundle(tmp_path / "bundles" / "b1")
    shop.tell("new", "rye milk")
    shop.ingest()
    known = shop.tables.source_state("item_log")
    embedded = embed_new_items(
        tmp_path / "bundles" / "b1", tables=shop.tables, new_items=tmp_path / "beside", progress=SilentProgress()
    )
    assert embedded.items == 61
    assert find_pointer(tmp_path / "beside", "b1").items_cursor == known == shop.log.behind(None)[1]
