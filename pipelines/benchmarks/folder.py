"""A folder of Parquet files as data for `bench recommend` and `bench search`.

    items.parquet         item_id, title; optional description, category, brand, price, image
    interactions.parquet  user_id, item_id, timestamp; optional pos, event_type, basket_id   (bench recommend)
    judgements.parquet    query, item_id, grade                                              (bench search)

Other columns are ignored. Ids may be texts or whole numbers; they are compared as texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import PreparationConfig
from pipelines.errors import DataError
from pipelines.preparation.behavior import fold_word, our_words

ITEMS, INTERACTIONS, JUDGEMENTS = "items.parquet", "interactions.parquet", "judgements.parquet"
DEFAULT_EVENT_TYPE = "purchase"
"""Of an event that does not say, or says it in a word that is not known."""
_NO_INTERACTION = ("impression", "search")
"""Event types that say nothing of what a user wants of an item."""
_NEWEST_S = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
_FIRST_ROUNDED = 2.0**53
"""From here on float64 does not tell all whole numbers apart."""
_SHOWN = 3
"""Bad rows that a message names."""
_SHOWN_WORDS = 5
"""Event types that a note names."""


@dataclass(frozen=True)
class ItemTable:
    """`n` items in the order of the file: row numbers everywhere in a bench mean this order."""

    item_ids: list[str]
    titles: list[str]
    """"" where there is none."""
    texts: list[str]
    """What an encoder reads: the title, and the description behind it where there is one."""
    categories: list[str]
    """"" where there is none."""
    brands: list[str]
    """"" where there is none."""
    prices: np.ndarray
    """float64 `(n,)`, NaN where there is none."""
    images: list[str]
    """Path of the picture, relative to the folder; "" where there is none."""

    def __len__(self) -> int:
        return len(self.item_ids)

    def at(self, rows: np.ndarray) -> "ItemTable":
        """Return the items at `rows`, int64 `(m,)`."""

        def chosen(values: list[str]) -> list[str]:
            return [values[row] for row in rows]

        return ItemTable(
            item_ids=chosen(self.item_ids),
            titles=chosen(self.titles),
            texts=chosen(self.texts),
            categories=chosen(self.categories),
            brands=chosen(self.brands),
            prices=self.prices[rows],
            images=chosen(self.images),
        )


@dataclass(frozen=True)
class RecommendFolder:
    """Items and `n` events, sorted by user and, within a user, from old to new."""

    name: str
    items: ItemTable
    user_ids: list[str]
    """Name of each user number."""
    users: np.ndarray
    """int64 `(n,)` user numbers."""
    rows: np.ndarray
    """int64 `(n,)` item rows."""
    times: np.ndarray
    """int64 `(n,)` epoch seconds."""
    positions: np.ndarray | None
    """int64 `(n,)` place of the event in its user's history, as `pos` says; None where there is no `pos`."""
    baskets: np.ndarray
    """int64 `(n,)` basket numbers, from old to new within a user; one basket has one user."""
    event_types: np.ndarray
    """str `(n,)`, in our words."""
    notes: tuple[str, ...] = ()
    """What became of event types in other words, and of rows that are no interactions."""


@dataclass(frozen=True)
class SearchFolder:
    """Items and `n` judgements, sorted by query."""

    name: str
    items: ItemTable
    queries: list[str]
    """Text of each query number, sorted."""
    query_numbers: np.ndarray
    """int64 `(n,)`."""
    rows: np.ndarray
    """int64 `(n,)` item rows."""
    grades: np.ndarray
    """float64 `(n,)`."""


def read_recommend_folder(path: Path) -> RecommendFolder:
    """Read items and interactions; impressions and searches are left out.

    Raises:
        DataError: a file or column is missing, a value is missing or of the wrong kind, an id is not in the items.
    """
    items = read_items(path)
    table = _read(path, INTERACTIONS, ("user_id", "item_id", "timestamp"), ("pos", "event_type", "basket_id"))
    event_types, interacts, notes = _event_types(table, path / INTERACTIONS)
    where: Path | str = path / INTERACTIONS
    if not interacts.all():
        table, event_types = table.filter(pa.array(interacts)), event_types[interacts]
        where = f"{where} without its impressions and searches"
        if table.num_rows == 0:
            raise DataError(f"{where} has no rows: there is nothing to measure.")
    users = _ids(table, "user_id", where)
    rows = _known_rows(_ids(table, "item_id", where), items, where)
    times = _epoch_seconds(table["timestamp"], where)
    positions = _positions(table, where) if "pos" in table.column_names else None
    named = pc.unique(users).sort()
    numbers = pc.index_in(users, value_set=named).to_numpy().astype(np.int64)
    order = np.lexsort((times, numbers) if positions is None else (positions, numbers))
    if positions is not None:
        _refuse_equal_positions(numbers[order], positions[order], where)
    labels = _ids(table, "basket_id", where) if "basket_id" in table.column_names else None
    return RecommendFolder(
        name=path.resolve().name,
        items=items,
        user_ids=named.to_pylist(),
        users=numbers[order],
        rows=rows[order],
        times=times[order],
        positions=None if positions is None else positions[order],
        baskets=_basket_numbers(numbers[order], times[order], labels, order),
        event_types=event_types[order],
        notes=notes,
    )


def read_search_folder(path: Path) -> SearchFolder:
    """Read items and judgements.

    Raises:
        DataError: a file or column is missing, a value is missing or of the wrong kind, an id is not in the items, or
            a query has two grades for one item.
    """
    items = read_items(path)
    where = path / JUDGEMENTS
    table = _read(path, JUDGEMENTS, ("query", "item_id", "grade"), ())
    queries = _ids(table, "query", where)
    rows = _known_rows(_ids(table, "item_id", where), items, where)
    grades = _numbers(table, "grade", where)
    if (bad := np.flatnonzero(~np.isfinite(grades))).size:
        raise DataError(f"`grade` is not a number in {_rows_named(bad)} of {where}: give each judgement a grade.")
    named = pc.unique(queries).sort()
    numbers = pc.index_in(queries, value_set=named).to_numpy().astype(np.int64)
    order = np.lexsort((rows, numbers))
    pairs = np.stack([numbers, rows])[:, order]
    if (twice := np.flatnonzero((np.diff(pairs) == 0).all(axis=0))).size:
        raise DataError(
            f"{where} judges {twice.size:,} pairs of query and item twice, such as {named[pairs[0, twice[0]]]} with "
            f"{items.item_ids[pairs[1, twice[0]]]}: keep one grade for each pair."
        )
    return SearchFolder(path.resolve().name, items, named.to_pylist(), numbers[order], rows[order], grades[order])


def smaller_recommend_folder(folder: RecommendFolder, users: int = 1_000, items: int = 5_000) -> RecommendFolder:
    """Return a sample for a smoke run: users at even distances with all their events, and what they touched.

    Fewer users where so many touch more than `items`, but 50 at least; other items fill up to `items`.
    """
    while True:
        kept_users = _evenly(len(folder.user_ids), users)
        kept = np.flatnonzero(np.isin(folder.users, kept_users))
        touched = np.unique(folder.rows[kept])
        if len(touched) <= items or users <= 50:
            break
        users = max(users // 2, 50)
    kept_items = _filled_up(touched, len(folder.items), items)
    _, baskets = np.unique(folder.baskets[kept], return_inverse=True)
    return RecommendFolder(
        name=folder.name,
        items=folder.items.at(kept_items),
        user_ids=[folder.user_ids[user] for user in kept_users],
        users=np.searchsorted(kept_users, folder.users[kept]),
        rows=np.searchsorted(kept_items, folder.rows[kept]),
        times=folder.times[kept],
        positions=None if folder.positions is None else folder.positions[kept],
        baskets=baskets.ravel().astype(np.int64),
        event_types=folder.event_types[kept],
        notes=folder.notes,
    )


def smaller_search_folder(folder: SearchFolder, queries: int = 600, items: int = 5_000) -> SearchFolder:
    """Return a sample for a smoke run: queries at even distances with their judgements; other items fill up."""
    kept_queries = _evenly(len(folder.queries), queries)
    kept = np.flatnonzero(np.isin(folder.query_numbers, kept_queries))
    kept_items = _filled_up(np.unique(folder.rows[kept]), len(folder.items), items)
    return SearchFolder(
        name=folder.name,
        items=folder.items.at(kept_items),
        queries=[folder.queries[number] for number in kept_queries],
        query_numbers=np.searchsorted(kept_queries, folder.query_numbers[kept]),
        rows=np.searchsorted(kept_items, folder.rows[kept]),
        grades=folder.grades[kept],
    )


def read_items(path: Path) -> ItemTable:
    """Read `items.parquet` of the folder.

    Raises:
        DataError: the file or a column is missing, there are no items, an id is missing or there twice, or no item
            has a title.
    """
    from pipelines.inference.new_items import item_text

    where = path / ITEMS
    optional = ("description", "category", "brand", "price", "image")
    table = _read(path, ITEMS, ("item_id", "title"), optional)
    ids = _ids(table, "item_id", where)
    if len(distinct := pc.value_counts(ids)) < len(ids):
        twice = [entry["values"] for entry in distinct.to_pylist() if entry["counts"] > 1]
        raise DataError(
            f"{where} has {len(twice):,} values of `item_id` more than once, such as {', '.join(twice[:_SHOWN])}: "
            "keep one row for each item."
        )
    titles = _texts(table, "title", where).tolist()
    descriptions = _texts(table, "description", where).tolist()
    if not any(title.strip() for title in titles):
        raise DataError(f"No item in {where} has a `title`: give the items a text, it is what search reads.")
    prices = _numbers(table, "price", where) if "price" in table.column_names else np.full(len(ids), np.nan)
    return ItemTable(
        item_ids=ids.to_pylist(),
        titles=titles,
        texts=[item_text(*pair) for pair in zip(titles, descriptions, strict=True)],
        categories=_texts(table, "category", where).tolist(),
        brands=_texts(table, "brand", where).tolist(),
        prices=np.where(np.isfinite(prices), prices, np.nan),
        images=_texts(table, "image", where).tolist(),
    )


def _read(path: Path, file: str, needed: Sequence[str], optional: Sequence[str]) -> pa.Table:
    """Return the known columns of a file, at least one row."""
    where = path / file
    if not where.is_file():
        found = sorted(one.name for one in path.glob("*.parquet")) if path.is_dir() else []
        raise DataError(
            f"{where} does not exist (found: {', '.join(found) or 'no Parquet file'}): give a folder with {ITEMS} and "
            f"{INTERACTIONS} or {JUDGEMENTS}; docs/benchmarks.md describes them."
        )
    try:
        schema = pq.read_schema(where)
        if missing := [name for name in needed if name not in schema.names]:
            raise DataError(
                f"{where} lacks the column {', '.join(missing)} (found: {', '.join(schema.names)}): "
                f"{', '.join(needed)} are needed, {', '.join(optional) or 'no others'} may be there too."
            )
        table = pq.read_table(where, columns=[*needed, *(name for name in optional if name in schema.names)])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{where} cannot be read as Parquet ({str(error).splitlines()[0]}): write it again.") from None
    if table.num_rows == 0:
        raise DataError(f"{where} has no rows: there is nothing to measure.")
    return table


def _ids(table: pa.Table, column: str, where: Path | str) -> pa.Array:
    """Return a column of ids as texts, none of them missing or empty."""
    values = table[column].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"`{column}` of {where} has the type {kind}: texts or whole numbers are needed.")
    texts = pc.cast(values, pa.string())
    bad = np.flatnonzero(pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False))
    if bad.size:
        raise DataError(f"`{column}` is missing in {_rows_named(bad)} of {where}: fill it in or remove the rows.")
    return texts


def _known_rows(ids: pa.Array, items: ItemTable, where: Path | str) -> np.ndarray:
    """Return the row number of each item, int64."""
    rows = pc.fill_null(pc.index_in(ids, value_set=pa.array(items.item_ids, pa.string())), -1)
    numbers: np.ndarray = rows.to_numpy(zero_copy_only=False).astype(np.int64)
    if (bad := np.flatnonzero(numbers < 0)).size:
        raise DataError(
            f"`item_id` is not in {ITEMS} in {_rows_named(bad)} of {where}, such as {ids[bad[0]]}: add the items or "
            "remove the rows."
        )
    return numbers


def _epoch_seconds(column: pa.ChunkedArray, where: Path | str) -> np.ndarray:
    """Return times as int64 epoch seconds."""
    values = column.combine_chunks()
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("s"))
    if pa.types.is_timestamp(values.type):
        values = pc.divide(
            pc.cast(pc.cast(values, pa.timestamp("us", values.type.tz), safe=False), pa.int64()), 1_000_000
        )
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(
            f"`timestamp` of {where} has the type {values.type}: epoch seconds or a timestamp type are needed."
        )
    seconds = pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if (bad := np.flatnonzero(~np.isfinite(seconds))).size:
        raise DataError(f"`timestamp` is missing in {_rows_named(bad)} of {where}: every event needs its time.")
    if (early := np.flatnonzero(seconds < 0)).size:
        raise DataError(
            f"`timestamp` is before the year 1970 in {_rows_named(early)} of {where} ({seconds[early[0]]:.0f}): give "
            "the events the time at which they happened, or remove the rows."
        )
    if (late := np.flatnonzero(seconds > _NEWEST_S)).size:
        raise DataError(
            f"`timestamp` is after the year 2200 in {_rows_named(late)} of {where} ({seconds[late[0]]:.0f}): seconds "
            "since 1970 are needed; divide milliseconds by 1,000, nanoseconds by 1,000,000,000."
        )
    return seconds.astype(np.int64)


def _numbers(table: pa.Table, column: str, where: Path | str) -> np.ndarray:
    """Return a column as float64, NaN where it is missing; whole numbers beyond ±2^53 are rounded."""
    values = table[column].combine_chunks()
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"`{column}` of {where} has the type {kind}: numbers are needed.")
    return np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _positions(table: pa.Table, where: Path | str) -> np.ndarray:
    """Return `pos` as int64."""
    numbers = _numbers(table, "pos", where)
    if (bad := np.flatnonzero(~((np.abs(numbers) < _FIRST_ROUNDED) & (numbers == np.rint(numbers))))).size:
        raise DataError(
            f"`pos` is not a whole number in {_rows_named(bad)} of {where}, or one beyond 2^53: it is the place of the "
            "event in the user's history, so number each user's events, or leave the column out."
        )
    return numbers.astype(np.int64)


def _event_types(table: pa.Table, where: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return event types in our words, by the list that events are prepared with.

    Returns:
        str `(n,)`; bool `(n,)`, false for what is no interaction with an item; and what has to be said of it.
    """
    n = table.num_rows
    if "event_type" not in table.column_names:
        return np.full(n, DEFAULT_EVENT_TYPE, dtype=object), np.ones(n, bool), ()
    given = _text_array(table, "event_type", where).dictionary_encode()
    words, codes = given.dictionary.to_pylist(), given.indices.to_numpy()
    known = our_words(PreparationConfig()) | {"": DEFAULT_EVENT_TYPE}
    ours = [known.get(fold_word(word)) for word in words]
    counts = np.bincount(codes, minlength=len(words)).tolist()
    found = list(zip(words, ours, counts, strict=True))
    notes = []
    if unknown := {word: count for word, our_word, count in found if our_word is None}:
        notes.append(f"Event types that we have no word for count as {DEFAULT_EVENT_TYPE}: {_with_counts(unknown)}.")
    if left_out := {word: count for word, our_word, count in found if our_word in _NO_INTERACTION}:
        notes.append(f"Left out, for they are no interactions with an item: {_with_counts(left_out)}.")
    types = np.asarray([our_word or DEFAULT_EVENT_TYPE for our_word in ours], dtype=object)
    interacts = np.asarray([our_word not in _NO_INTERACTION for our_word in ours], bool)
    return types[codes], interacts[codes], tuple(notes)


def _with_counts(counts: Mapping[str, int]) -> str:
    """Return the most frequent words with their numbers of events, and how much there is of others."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    said = [f"{word} ({count:,} event{'s' if count > 1 else ''})" for word, count in ordered[:_SHOWN_WORDS]]
    if rest := ordered[_SHOWN_WORDS:]:
        said.append(f"{len(rest):,} other words ({sum(count for _, count in rest):,} events)")
    return ", ".join(said)


def _texts(table: pa.Table, column: str, where: Path) -> np.ndarray:
    """Return a column as texts, "" where it is missing; everything is "" without the column."""
    if column not in table.column_names:
        return np.full(table.num_rows, "", dtype=object)
    return np.asarray(_text_array(table, column, where).to_pylist(), dtype=object)


def _text_array(table: pa.Table, column: str, where: Path) -> pa.Array:
    """Return a column as texts, "" where it is missing."""
    values = table[column].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        return pc.fill_null(pc.cast(values, pa.string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"`{column}` of {where} has the type {values.type}: texts are needed.") from None


def _refuse_equal_positions(users: np.ndarray, positions: np.ndarray, where: Path | str) -> None:
    twice = (np.diff(users) == 0) & (np.diff(positions) == 0)
    if twice.any():
        raise DataError(
            f"`pos` of {where} has the same value twice for {len(np.unique(users[1:][twice])):,} users: it is the "
            "place of the event in the user's history, so give each event of a user its own, or leave the column out."
        )


def _basket_numbers(users: np.ndarray, times: np.ndarray, labels: pa.Array | None, order: np.ndarray) -> np.ndarray:
    """Number the baskets of sorted events: same user and label, or same user and time where there are no labels."""
    labelled = labels.dictionary_encode().indices.to_numpy().astype(np.int64)[order] if labels is not None else times
    _, keys = np.unique(labelled, return_inverse=True)
    _, first, codes = np.unique(users * (keys.max() + 1) + keys, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first, kind="stable")] = np.arange(len(first))
    return np.asarray(numbers[codes], np.int64)


def _rows_named(bad: np.ndarray) -> str:
    """Return how many rows and which ones come first, counted from 0."""
    shown = ", ".join(str(row) for row in bad[:_SHOWN])
    return f"{bad.size:,} row{'s' if bad.size > 1 else ''} (first at {shown})"


def _evenly(n: int, most: int) -> np.ndarray:
    """Return `most` of `n` numbers at even distances, or all of them, int64 ascending."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def _filled_up(rows: np.ndarray, n_items: int, wanted: int) -> np.ndarray:
    """Return these rows and others at even distances up to `wanted`, int64 ascending."""
    others = np.setdiff1d(np.arange(n_items), rows)
    more = max(min(wanted - len(rows), len(others)), 0)
    return np.union1d(rows, others[_evenly(len(others), more)]) if more else rows
