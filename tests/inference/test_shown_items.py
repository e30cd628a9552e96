"""What is shown of items is what the catalogue says, row by row."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.inference.bundle import ITEM_COLUMNS
from pipelines.inference.shown_items import SHOWN, PatchedShownItems, ShownItems

ITEMS = [
    {"item_id": "a", "title": "Grüner Tee", "category": "Tea", "brand": None, "price": 1.5, "currency": "EUR"},
    {"item_id": "b", "title": "", "category": None, "brand": "Mill", "price": None, "currency": None},
    {"item_id": "c", "title": "茶", "category": "tea", "brand": "Mill", "price": 0.0, "currency": "EUR"},
]


@pytest.fixture
def items() -> pa.Table:
    return pa.Table.from_pylist([{**item, "available": True} for item in ITEMS], schema=ITEM_COLUMNS)


def test_every_item_is_shown_as_the_catalogue_has_it(items):
    both = pa.concat_tables([items.slice(0, 1), items.slice(1)])
    for table in (items, both):
        shown = ShownItems(table, ["a", "b", "c"])
        assert [shown[row] for row in range(len(shown))] == ITEMS
        assert tuple(shown[0]) == SHOWN


def test_an_item_can_be_changed_by_whoever_asked_for_it(items):
    shown = ShownItems(items, ["a", "b", "c"])
    shown[0]["title"] = "other"
    assert shown[0] == ITEMS[0]


def test_a_catalogue_in_which_nothing_is_known_but_ids(items):
    shown = ShownItems(
        pa.table({"title": [""], "category": [None], "brand": [None], "price": [np.nan], "currency": [None]}).cast(
            pa.schema([ITEM_COLUMNS.field(name) for name in SHOWN[1:]])
        ),
        ["x"],
    )
    assert shown[0] == {**dict.fromkeys(SHOWN), "item_id": "x", "title": ""}


def test_patches_stand_in_place_and_behind(items):
    patches = {1: {"item_id": "b", "title": "now"}}
    shown = PatchedShownItems(ShownItems(items, ["a", "b", "c"]), patches)
    assert (len(shown), shown[0], shown[1]["title"]) == (3, ITEMS[0], "now")
    patches[3] = {"item_id": "d"}
    assert (len(shown), shown[3]) == (4, {"item_id": "d"})
