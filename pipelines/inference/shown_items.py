"""What answers show of items, made when it is shown: ready-made dictionaries of 92,000 items would take 55 MiB."""

from array import array
from typing import Any

import numpy as np
import pyarrow as pa

SHOWN = ("item_id", "title", "category", "brand", "price", "currency")
"""The fields, in their order."""


class ShownItems:
    """The items of a catalogue by row number, each as a new dictionary of the SHOWN fields."""

    def __init__(self, items: pa.Table, item_ids: list[str]) -> None:
        """Take the columns of `ITEM_COLUMNS`, and the ids as the strings that are there already."""
        self._item_ids = item_ids
        self._text, self._starts = _packed(items["title"])
        self._categories, self._category_of = _named(items["category"])
        self._brands, self._brand_of = _named(items["brand"])
        self._currencies, self._currency_of = _named(items["currency"])
        self._prices = array("d", items["price"].to_numpy().astype(np.float64).tobytes())

    def __len__(self) -> int:
        return len(self._prices)

    def __getitem__(self, row: int) -> dict[str, Any]:
        price = self._prices[row]
        return {
            "item_id": self._item_ids[row],
            "title": self._text[self._starts[row] : self._starts[row + 1]].decode(),
            "category": self._categories[self._category_of[row]],
            "brand": self._brands[self._brand_of[row]],
            "price": None if price != price else price,
            "currency": self._currencies[self._currency_of[row]],
        }


class PatchedShownItems(ShownItems):
    """The items of a catalogue, others in place of some and behind them."""

    def __init__(self, items: ShownItems, patches: dict[int, dict[str, Any]]) -> None:
        """Take what stands in place of an item, or behind all, by row; what comes later is shown as well."""
        self._items = items
        self._patches = patches

    def __len__(self) -> int:
        return max(len(self._items), 1 + max(self._patches, default=-1))

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = self._patches.get(row)
        return self._items[row] if found is None else found


def _packed(column: pa.ChunkedArray) -> tuple[bytes, "array[int]"]:
    """Return the texts of a column one after the other, UTF-8, and where each begins, then the end."""
    texts = pa.concat_arrays(column.cast(pa.large_string()).chunks)
    _, starts, content = texts.buffers()
    return bytes(content or b""), array("q", bytes(starts)[: 8 * (len(texts) + 1)])


def _named(column: pa.ChunkedArray) -> tuple[list[str | None], "array[int]"]:
    """Return the distinct values of a column, None the last, and which of them each item has."""
    coded = column.combine_chunks().dictionary_encode()
    names = coded.dictionary.to_pylist()
    numbers = coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return [*names, None], array("i", numbers.astype(np.int32).tobytes())
