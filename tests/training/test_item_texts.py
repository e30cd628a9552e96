"""What the encoder reads of items that have no text."""

import pytest

from pipelines.errors import DataError
from pipelines.training.catalog import item_texts


def test_item_without_text_is_read_by_brand_and_category():
    texts = item_texts(
        ["Tea", "", " ", "", "Soap", "Bread", "Milk"],
        [None, None, None, "Crisp.", "Mild.", "", None],
        ["Drinks", "Fruit", None, None, None, None, None],
        [None, "Mill", None, None, None, None, None],
    )
    assert texts == ["Tea", "Mill Fruit", "unknown item", "Crisp.", "Soap. Mild.", "Bread", "Milk"]


def test_half_of_the_items_may_lack_a_text_but_not_more():
    assert item_texts(["a", ""], [None] * 2, [None] * 2, [None] * 2) == ["a", "unknown item"]
    with pytest.raises(
        DataError, match=r"2 of 3 items have neither a title nor a description.*`headrace source check`"
    ):
        item_texts(["a", "", "  "], [None, "", None], ["x"] * 3, ["y"] * 3)
