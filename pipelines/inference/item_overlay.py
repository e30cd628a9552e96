"""Items that changed since a bundle was opened, beside it: new ones, other texts and prices, those that are no more.

Nothing of the bundle's size is copied when an item changes. The arrays that answers look into are copied once, with
room behind them, and written in place; vectors, words and neighbors are looked up beside the bundle's own. Each change
gives a new `Bundle` that shares all of it, so what others remember for a bundle is never wrong. A row number stays that
of its item for as long as the bundle is open.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.features.on_demand import ItemFacts
from pipelines.inference.bundle import ITEM_COLUMNS, Bundle
from pipelines.inference.bundle_writing import default_text
from pipelines.inference.new_items import ItemTower, cached_names, item_text, open_item_tower
from pipelines.inference.shown_items import SHOWN, PatchedShownItems, ShownItems
from pipelines.inference.user_tower import UserTower
from pipelines.retrieval.lexical_overlay import LexicalOverlay, OverlaidLexicalIndex
from pipelines.retrieval.overlaid import NO_SLOT, GrownTrends, PatchedDenseIndex, PatchedVectorIndex, PatchedVectors

State = Mapping[str, Any]
"""An item as it is now: the columns of the ITEMS schema (`updated_at` does not count), or `item_id` and `deleted`."""
_SPARE_ROWS = 1_024
_FIRST_SLOTS = 64
_LOOKED_THROUGH = 8
"""Times as many items as are read together, among which those of similar length are looked for."""
_IN_WORDS = ("title", "category", "brand")


class OverlaidBundle(Bundle):
    """A bundle as its overlay leaves it. Made by `ItemOverlay.bundle` alone."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.__dict__.update(parts)

    @property
    def items(self) -> pa.Table:
        """The columns of `ITEM_COLUMNS`, made of what is shown; not for a request."""
        rows = [{**self.display[row], "available": bool(self.available[row])} for row in range(self.n_items)]
        return pa.Table.from_pylist(rows, schema=ITEM_COLUMNS)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.available)

    def row_of(self, item_id: str) -> int | None:
        """Return the row number of an item, None if it is unknown."""
        row = super().row_of(item_id)
        return row if row is not None and row < self.n_items else None

    def rows_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """Return int64 `(n,)` row numbers, −1 for unknown items."""
        rows = super().rows_of(item_ids)
        rows[rows >= self.n_items] = -1  # what arrived while the request runs
        return rows

    @property
    def titles(self) -> list[str]:
        """The titles of all items; not for a request."""
        return [self.display[row]["title"] for row in range(self.n_items)]


class ItemOverlay:
    """What changed beside one bundle. One thread writes; requests read the bundles that it gives."""

    def __init__(self, bundle: Bundle) -> None:
        """Copy what is written in place; the first change pays for it, a few milliseconds for 100,000 items."""
        own = {"items", *cached_names(type(bundle))}
        self._parts = {name: value for name, value in vars(bundle).items() if name not in own}
        self._encoder, self._small_tower = bundle._encoder, bundle._item_text_tower
        self._folder = bundle.folder
        self._tower: ItemTower | None = None
        self._tower_is_open = False
        self._n = self._n_indexed = bundle.n_items
        self._session = bundle._user_tower._session
        self._rows = dict(bundle._rows)
        self._item_ids = list(bundle.item_ids)
        self._patches: dict[int, dict[str, Any]] = {}
        """By row, what is shown of changed and new items."""
        self._display = PatchedShownItems(bundle.display, self._patches)
        self._categories, self._brands = dict(bundle.categories[0]), dict(bundle.brands[0])
        self._groups = {"category": dict(bundle.category_rows), "brand": dict(bundle.brand_rows)}
        facts = bundle.facts
        self._kinds = [
            _numbers_of(numbers, bundle.display, name)
            for numbers, name in ((facts.categories, "category"), (facts.brands, "brand"))
        ]
        self._links = bundle.links
        self._trends = bundle.trends
        self._padded: tuple[np.ndarray, np.ndarray] | None = None
        self._lexical = LexicalOverlay(bundle.lexical)
        self._vectors = bundle.item_vectors
        self._index, self._nearest = bundle.dense_index, bundle.vector_index
        self._columns = {
            "available": bundle.available,
            "prices": bundle.prices,
            "categories": bundle.categories[1],
            "brands": bundle.brands[1],
            "log_prices": facts.log_prices,
            "fact_categories": facts.categories,
            "fact_brands": facts.brands,
            "popularity": bundle.popularity,
            "popularity_score": bundle.popularity_score,
            "by_popularity": bundle.by_popularity,
            "first_day": bundle.trends.first_day,
            "scales": bundle.item_vectors.scales,
            "slots": np.full(bundle.n_items, NO_SLOT, np.int32),
        }
        """By row, with room behind; what is behind is not seen."""
        self._fillers = {"prices": np.nan, "log_prices": np.nan, "categories": -1, "brands": -1, "first_day": -1}
        self._fillers |= {"slots": NO_SLOT, "scales": 1}
        self._capacity = 0
        self._make_room(self._n)
        self._n_slots = 0
        self._slot_rows = np.zeros(_FIRST_SLOTS, np.int64)
        self._slot_vectors = np.zeros((_FIRST_SLOTS, bundle.dim), np.float32)
        self._waiting: dict[int, State] = {}
        """By row, what the encoder has yet to read."""
        self._unread: dict[int, State] = {}
        """Those of them that the small tower has not read either."""
        self._touched: set[int] = set()
        self._came_back = False
        self._read: dict[int, int] = {}
        """What the encoder read of an item, by row, as a number."""

    @property
    def pending(self) -> int:
        """Items that the encoder has yet to read: their vectors are those of before, of the small tower, or none."""
        return len(self._waiting)

    @property
    def unread(self) -> int:
        """Those of them that nothing has read yet."""
        return len(self._unread)

    @property
    def changed(self) -> int:
        """Items that have a place beside the bundle."""
        return self._n_slots

    def apply(self, states: Iterable[State]) -> bool:
        """Take items as they are now: found by their words, filtered and shown so by the next `bundle`.

        A known item that keeps its title keeps its vector, with what behavior has taught it, until the next bundle.

        Returns:
            Whether more changed than prices, which every answer sees at once: the next `bundle` is to answer.
        """
        texts: dict[int, tuple[int, str]] = {}
        shown: dict[int, bool] = {}
        touched: set[int] = set()
        for state in states:
            row = self._rows.get(state["item_id"])
            if state.get("deleted"):
                if row is not None:
                    shown[row] = False
                continue
            is_new = row is None
            if row is None:
                row = self._append(state["item_id"])
            before = self._display[row]
            if is_new or any(before[name] != state.get(name) for name in _IN_WORDS):
                texts[row] = self._slot_of(row), default_text(state)
                touched.add(row)
            if is_new or self._reads_anew(row, before, state):
                self._slot_of(row)
                self._waiting[row] = self._unread[row] = state
                touched.add(row)
            self._describe(row, state)
            shown[row] = bool(state["available"])
        self._lexical.put(texts)
        available = self._columns["available"]
        for row, is_shown in shown.items():
            if bool(available[row]) != is_shown:
                touched.add(row)
                self._came_back = self._came_back or (is_shown and row < self._n_indexed)
            available[row] = is_shown
        self._touched |= touched
        return bool(touched)

    def take_touched(self) -> tuple[np.ndarray, bool]:
        """Return what changed since the last call but prices, and forget it.

        Returns:
            Row numbers, int64 `(m,)`, rising, and whether one of them is a known item that is available again: what
            behavior says of it proposes it again.
        """
        rows, came_back = np.array(sorted(self._touched), np.int64), self._came_back
        self._touched, self._came_back = set(), False
        return rows, came_back

    def _reads_anew(self, row: int, before: State, state: State) -> bool:
        """Whether the encoder has to read an item again."""
        if row in self._waiting:
            return True
        if (read := self._read.get(row)) is not None:
            return read != _what_is_read(state)
        return row >= self._n_indexed or before["title"] != state["title"]

    def embed(self, most: int) -> None:
        """Give at most so many items the vectors of what they are now; their pictures are not looked at.

        Where more come than that, or others wait, the bundle's small tower reads all of them first, if it has one; then
        the encoder does.

        Raises:
            BundleError: the item tower cannot be read.
        """
        at_first, rows = self._next(most)
        if not rows:
            return
        vectors = self._embedded([self._waiting[row] for row in rows], at_first)
        vectors[~np.isfinite(vectors).all(axis=1)] = 0  # found by words alone; a number that is none fails searches
        for row, vector in zip(rows, vectors, strict=True):
            self._slot_vectors[self._columns["slots"][row]] = vector
            self._touched.add(row)
            self._unread.pop(row, None)
            if not at_first:
                self._read[row] = _what_is_read(self._waiting.pop(row))

    def give_up(self, most: int) -> list[str]:
        """Leave at most so many items without new vectors, those that `embed` would take next; return their ids.

        Where the small tower is to read them, it is left out from now on, and the encoder is tried.
        """
        at_first, rows = self._next(most)
        if at_first:
            self._small_tower = None
            return []
        for row in rows:
            self._unread.pop(row, None)
        return [str(self._waiting.pop(row)["item_id"]) for row in rows]

    def _next(self, most: int) -> tuple[bool, list[int]]:
        """Return whether the small tower is to read, and the rows that are read next, of similar length."""
        unread = len(self._unread)
        at_first = self._small_tower is not None and (unread > most or 0 < unread < len(self._waiting))
        queue = self._unread if at_first else self._waiting
        rows = sorted(islice(queue, _LOOKED_THROUGH * most), key=lambda row: len(queue[row]["title"]))
        return at_first, rows[:most]

    def bundle(self) -> Bundle:
        """Return the bundle as of now."""
        n, columns = self._n, {name: values[: self._n] for name, values in self._columns.items()}
        changed = self._slot_rows[: self._n_slots]
        beside = self._slot_vectors[: self._n_slots]
        vectors = PatchedVectors(self._vectors, columns["slots"], self._slot_vectors, columns["scales"])
        facts = ItemFacts(columns["log_prices"], columns["fact_categories"], columns["fact_brands"])
        facts.__dict__["n_kinds"] = tuple(1 + len(numbers) for numbers in self._kinds)
        return OverlaidBundle(
            {
                **self._parts,
                "item_vectors": vectors,
                "links": self._links.first(n),
                "trends": GrownTrends.of(self._trends, columns["first_day"], self._padded_features),
                "popularity": columns["popularity"],
                "popularity_score": columns["popularity_score"],
                "by_popularity": columns["by_popularity"],
                "dense_index": PatchedDenseIndex(self._index, n, changed, beside),
                "vector_index": PatchedVectorIndex(self._nearest, self._n_indexed, columns["slots"], changed, beside),
                "lexical": OverlaidLexicalIndex(self._lexical, columns["slots"], changed),
                "item_ids": self._item_ids,
                "display": self._display,
                "available": columns["available"],
                "prices": columns["prices"],
                "categories": (self._categories, columns["categories"]),
                "brands": (self._brands, columns["brands"]),
                "category_rows": dict(self._groups["category"]),
                "brand_rows": dict(self._groups["brand"]),
                "facts": facts,
                "_rows": self._rows,
                "_user_tower": UserTower(self._session, vectors),
            }
        )

    # Inside

    def _append(self, item_id: str) -> int:
        row = self._n
        self._make_room(row + 1)
        self._columns["by_popularity"][row] = row  # nobody has bought it, and those before it come first
        self._item_ids.append(item_id)
        self._patches[row] = {}
        self._n += 1
        self._rows[item_id] = row
        return row

    def _describe(self, row: int, state: State) -> None:
        price = state.get("price")
        columns = self._columns
        columns["prices"][row] = np.nan if price is None else price
        columns["log_prices"][row] = np.log(price) if price else np.nan
        for name, numbers in (("categories", self._categories), ("brands", self._brands)):
            value = state.get("category" if name == "categories" else "brand")
            columns[name][row] = -1 if value is None else numbers.setdefault(value.casefold(), len(numbers))
        for name, field, numbers in zip(
            ("fact_categories", "fact_brands"), ("category", "brand"), self._kinds, strict=True
        ):
            value = state.get(field)
            columns[name][row] = numbers.setdefault(value, 1 + len(numbers)) if value else 0
        for name, groups in self._groups.items():
            _move(groups, row, self._display[row].get(name), state.get(name))
        self._patches[row] = {name: state.get(name) for name in SHOWN}

    def _slot_of(self, row: int) -> int:
        slot = int(self._columns["slots"][row])
        if slot != NO_SLOT:
            return slot
        slot = self._n_slots
        if slot == len(self._slot_rows):
            self._slot_rows = np.concatenate([self._slot_rows, np.zeros_like(self._slot_rows)])
            self._slot_vectors = np.concatenate([self._slot_vectors, np.zeros_like(self._slot_vectors)])
        self._slot_rows[slot] = row
        if row < self._n_indexed:
            self._slot_vectors[slot] = self._vectors[row]
        self._n_slots += 1
        self._columns["slots"][row] = slot
        self._columns["scales"][row] = 1  # what is beside is not in int8; the slot first, or it would be one of 127
        return slot

    def _make_room(self, rows: int) -> None:
        if rows < self._capacity:
            return
        self._capacity = rows + max(_SPARE_ROWS, rows // 16)
        for name, values in self._columns.items():
            room = np.full(self._capacity, self._fillers.get(name, 0), values.dtype)
            room[: len(values)] = values
            self._columns[name] = room
        self._links = self._links.grown(self._capacity - len(self._links))

    def _padded_features(self, features: np.ndarray) -> np.ndarray:
        """Return the features of a day with room behind; those of one day are kept."""
        padded = self._padded
        if padded is None or padded[0] is not features or len(padded[1]) < self._capacity:
            room = np.zeros((self._capacity, features.shape[1]), features.dtype)
            room[: len(features)] = features
            self._padded = padded = features, room
        return padded[1]

    def _embedded(self, states: Sequence[State], at_first: bool) -> np.ndarray:
        """Return the vectors of items, float32 `(n, dim)`, each row L2 norm 1."""
        texts = [item_text(state["title"], state.get("description")) for state in states]
        tower = self._small_tower if at_first and self._small_tower is not None else self._encoder
        vectors = tower.encode(texts)
        if not self._tower_is_open:
            self._tower, self._tower_is_open = open_item_tower(self._folder), True
        if self._tower is None:
            return vectors
        categories, brands, prices = ([state.get(name) for state in states] for name in ("category", "brand", "price"))
        known = np.array([np.nan if price is None else price for price in prices], np.float64)
        return self._tower.embed(vectors, categories, brands, known)


def _numbers_of(numbers: np.ndarray, shown: ShownItems, name: str) -> dict[str, int]:
    """Return which value of a field each number stands for, the other way round; int64 `(n,)`, 0 for none."""
    distinct, first = np.unique(numbers, return_index=True)
    return {shown[row][name]: number for number, row in zip(distinct.tolist(), first.tolist(), strict=True) if number}


def _move(groups: dict[str, np.ndarray], row: int, before: str | None, now: str | None) -> None:
    """Take a row from one group to another; the arrays themselves stay as they are, older bundles look at them."""
    before, now = (None if name is None else name.casefold() for name in (before, now))
    if before == now:
        return
    if before is not None:
        groups[before] = groups[before][groups[before] != row]
    if now is not None:
        groups[now] = np.append(groups.get(now, np.empty(0, np.int32)), np.int32(row))


def _what_is_read(state: State) -> int:
    return hash((state["title"], state.get("description"), state.get("category"), state.get("brand")))
