"""All neighbor tables of a bundle as answers read them: the links of an item lie together, table after table.

A history reaches a few thousand links at fifty places of memory, which costs more than adding them up: so a link is one
record of eight bytes, which may lie in a file that is mapped into memory and shared by all processes.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pipelines.errors import DataError
from pipelines.retrieval.neighbors import NeighborTable

LINK = np.dtype([("row", "<i4"), ("score", "<f4")])
"""A link: the row number of the neighbor, and its score, above 0."""
_SPARE = 16


@dataclass(frozen=True)
class Links:
    """The links of `n` items in several tables, each list best first."""

    names: tuple[str, ...]
    """Names of the tables, rising."""
    starts: np.ndarray
    """int64 `(n · n_tables + 1,)`: where the links of an item in a table begin, item after item; then the end."""
    records: np.ndarray
    """LINK `(m,)`."""

    def __len__(self) -> int:
        """Number of items."""
        return (len(self.starts) - 1) // len(self.names)

    @classmethod
    def of_tables(cls, tables: Mapping[str, NeighborTable]) -> "Links":
        """Join tables.

        Raises:
            DataError: there are none, or they are not of the same number of items.
        """
        sizes = {name: len(tables[name]) for name in sorted(tables)}
        if len(set(sizes.values())) != 1:
            words = ", ".join(f"{name} of {size:,}" for name, size in sizes.items()) or "none"
            raise DataError(f"neighbor tables of the same items are needed, found {words}")
        counts = np.stack([np.diff(tables[name].offsets) for name in sizes], axis=1)
        starts = np.concatenate([[0], np.cumsum(counts.ravel(), dtype=np.int64)])
        records = np.empty(starts[-1], LINK)
        for place, name in enumerate(sizes):
            table = tables[name]
            moved = np.repeat(starts[place : -1 : len(sizes)] - table.offsets[:-1], counts[:, place])
            moved += np.arange(len(moved))
            records["row"][moved] = table.ids
            records["score"][moved] = table.scores
        return cls(tuple(sizes), starts, records)

    def tables(self) -> dict[str, NeighborTable]:
        """Return the tables that were joined, by name."""
        found = {}
        for place, name in enumerate(self.names):
            links = self._links(np.arange(len(self)), (place,))
            offsets = np.concatenate([[0], np.cumsum(links.lengths[0])])
            found[name] = NeighborTable(offsets, links.ids, links.scores)
        return found

    def of(self, name: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbors of one item in a table, best first: int32 `(k,)` and float32 `(k,)`."""
        first = row * len(self.names) + self.names.index(name)
        part = self.records[self.starts[first] : self.starts[first + 1]]
        return part["row"], part["score"]

    def spread(self, name: str, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add up the neighbors of a history in a table.

        Args:
            rows: int64 `(t,)`, items of the history, without unknown ones.
            weights: float32 `(t,)`, weight of each.

        Returns:
            float32 `(n,)`, 0 for items that are nobody's neighbor.
        """
        links = self._links(rows, (self.names.index(name),))
        return np.bincount(links.ids, links.scores * links.weights(weights), minlength=len(self)).astype(np.float32)

    def grown(self, count: int) -> "Links":
        """Return the links with `count` more items at the end, without neighbors."""
        return replace(self, starts=np.append(self.starts, np.full(count * len(self.names), self.starts[-1])))

    def first(self, count: int) -> "Links":
        """Return the links of the first items alone; nothing is copied."""
        return replace(self, starts=self.starts[: count * len(self.names) + 1])

    def reached(self, rows: np.ndarray, weights: np.ndarray) -> "Reached":
        """Add up the neighbors of a history in all tables in several ways, looking only at items that are neighbors.

        Args:
            rows: int64 `(t,)`, items of the history, without unknown ones.
            weights: float32 `(w, t)`, weight of each, by `w` ways of weighting.
        """
        return Reached(self._links(rows, range(len(self.names))), len(self), weights)

    def _links(self, rows: np.ndarray, tables: Sequence[int]) -> "_Some":
        """Return the links of rows, int64 `(t,)`, in some tables."""
        firsts = rows * len(self.names) + np.asarray(tables)[:, None]
        starts = self.starts.take(firsts)
        firsts += 1
        lengths = self.starts.take(firsts)
        lengths -= starts
        ends = lengths.cumsum()
        starts.ravel()[:] -= ends
        starts += lengths
        places = np.arange(ends[-1] if len(ends) else 0)
        places += starts.ravel().repeat(lengths.ravel())
        records = self.records.take(places)
        bounds = [0, *ends[len(rows) - 1 :: len(rows)].tolist()] if len(rows) else [0] * (len(tables) + 1)
        return _Some(records["row"].astype(np.int64), np.ascontiguousarray(records["score"]), lengths, bounds)


@dataclass(frozen=True)
class _Some:
    """The links of the same rows in some tables, table after table."""

    ids: np.ndarray
    """int64 `(m,)`, row numbers."""
    scores: np.ndarray
    """float32 `(m,)`."""
    lengths: np.ndarray
    """int64 `(n_tables, t)`, how many each row has in each table."""
    bounds: list[int]
    """Where each table begins among the links, and the end of the last."""

    def weights(self, weights: np.ndarray) -> np.ndarray:
        """Return the weight of each link, float32 `(…, m)`, from those of the rows, float32 `(…, t)`."""
        of_tables = np.concatenate([weights] * len(self.lengths), axis=-1)
        return of_tables.repeat(self.lengths.ravel(), axis=-1)


class _Places(threading.local):
    """Where a thread looks keys up: as large as a catalogue, so it is made once and not anew for each history."""

    def __init__(self) -> None:
        self._places = np.empty(0, np.int32)
        self._owner: object = None

    def of(self, owner: object, keys: np.ndarray, n_keys: int) -> np.ndarray:
        """Return the place of each key among `keys`, all below `n_keys`, the last one where there are several.

        Returns:
            int32 `(≥ n_keys,)` by key; of others whatever lay there before. It holds until another owner asks.
        """
        if len(self._places) < n_keys:  # with room for the items that will arrive
            self._places, self._owner = np.zeros(n_keys + n_keys // _SPARE, np.int32), None
        if self._owner is not owner:
            self._places[keys] = np.arange(len(keys), dtype=np.int32)
            self._owner = owner
        return self._places


_places = _Places()


class Reached:
    """The items that a history reaches in several tables, a few thousand of any catalogue."""

    def __init__(self, links: _Some, n_items: int, weights: np.ndarray) -> None:
        """Add up links; `weights` are float32 `(w, t)`."""
        n_tables = len(links.lengths)
        self._ids, self._bounds = links.ids, links.bounds
        self._n_keys = n_items * n_tables
        self._firsts = n_items * np.arange(n_tables)[:, None]
        # An item of a table is one key, and all its links count for the last of them. Who looks a key up sees whether
        # the link there is of the same key.
        self._keys = links.ids.copy()
        for place, (start, stop) in enumerate(pairwise(links.bounds)):
            self._keys[start:stop] += place * n_items
        self._owner = object()
        numbers = self._places().take(self._keys).astype(np.int64)
        self._sums = np.zeros((len(weights), len(numbers) + 1), np.float32)  # the last one: not reached
        shares = links.weights(weights)
        shares *= links.scores
        for sums, of_way in zip(self._sums, shares, strict=True):
            sums[:-1] = np.bincount(numbers, of_way, minlength=len(numbers))

    def _places(self) -> np.ndarray:
        return _places.of(self._owner, self._keys, self._n_keys)

    @property
    def tops(self) -> np.ndarray:
        """The highest score of each table, float32 `(w, n_tables)`, 0 where nothing was reached."""
        return np.stack([self._sums[:, start:stop].max(axis=1, initial=0) for start, stop in pairwise(self._bounds)], 1)

    def best(self, most: int, allowed: np.ndarray) -> list[np.ndarray]:
        """Return of each table the best items by the first way, int64 `(<=most,)` each, in any order.

        Args:
            allowed: bool `(n,)`.
        """
        scores = self._sums[0, :-1] * allowed.take(self._ids)
        return [_best(self._ids[start:stop], scores[start:stop], most) for start, stop in pairwise(self._bounds)]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of the items asked for, float32 `(w, n_tables, c)`, 0 for those that were not reached."""
        if not len(self._keys):
            return np.zeros((len(self._sums), len(self._firsts), len(rows)), np.float32)
        keys = rows + self._firsts
        numbers = self._places().take(keys)
        numbers[self._keys.take(numbers, mode="clip") != keys] = len(self._keys)
        return self._sums.take(numbers, axis=1)


def _best(rows: np.ndarray, scores: np.ndarray, most: int) -> np.ndarray:
    """Return the rows of the best scores above 0, in any order; of equals at the end the first rows."""
    bound = np.partition(scores, -most)[-most] if len(scores) > most else 0
    best = np.flatnonzero(scores >= bound if bound > 0 else scores > 0)
    if len(best) > most:
        best = best[np.lexsort((rows[best], -scores[best]))[:most]]
    return rows[best]
