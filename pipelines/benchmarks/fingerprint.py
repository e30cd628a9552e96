"""What a task is made of, in one digest: results are kept by it, so that other data never bring old numbers back.

The SHA-1 that is printed names the questions. This names what is known too: the items with all their fields, and
every event that may be learnt from, or every judgement. Columns are hashed as buffers, not value by value.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipelines.benchmarks.folder import ItemTable
from pipelines.benchmarks.protocols import EventArrays, RecommendTask, SearchTask


def recommend_fingerprint(task: RecommendTask) -> str:
    """Return 64 hex digits over items and known events."""
    events = (task.known_before_validation, task.known_before_test)
    return _sha256([*_items(task.items), _texts(task.user_ids), *(part for known in events for part in _events(known))])


def search_fingerprint(task: SearchTask) -> str:
    """Return 64 hex digits over items, and over queries and judgements of all parts."""
    parts = [_texts([f"{task.scale}"])]
    for queries in (task.train, task.validation, task.test):
        sizes = np.asarray([len(rows) for rows in queries.items], np.int64)
        parts += [_texts(queries.queries), sizes, *map(_joined, (queries.items, queries.grades))]
    return _sha256([*_items(task.items), *parts])


def _items(items: ItemTable) -> list[pa.Array | np.ndarray]:
    texts = (items.item_ids, items.titles, items.texts, items.categories, items.brands, items.images)
    return [*map(_texts, texts), items.prices]


def _events(known: EventArrays) -> list[pa.Array | np.ndarray]:
    types = known.event_types.tolist()
    numbers = {name: number for number, name in enumerate(dict.fromkeys(types))}
    codes = np.fromiter(map(numbers.__getitem__, types), np.int64, len(types))
    return [known.users, known.items, known.times, known.orders, codes, _texts(list(numbers))]


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.large_string())


def _joined(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*values, np.empty(0)])


def _sha256(columns: Iterable[pa.Array | np.ndarray]) -> str:
    """Hash columns by type, length and buffers, so that nothing can move from one into the next unseen."""
    digest = hashlib.sha256()
    for column in columns:
        if isinstance(column, np.ndarray):
            kind, buffers = str(column.dtype), [np.ascontiguousarray(column).data]
        else:
            kind, buffers = str(column.type), [buffer for buffer in column.buffers() if buffer is not None]
        digest.update(f"{kind} {len(column)}\n".encode())
        for buffer in buffers:
            digest.update(buffer)
    return digest.hexdigest()
