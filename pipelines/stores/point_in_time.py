"""Point-in-time joins through Feast that keep every row: what Feast 0.67 does not promise by itself.

Feast's file store drops rows (two of one entity and time become one, an expired value takes its row along), DuckDB
may give them back in another order, null labels come back as floats, and late arrivals count unless it is told
otherwise. Here nothing but distinct keys goes through Feast, one view at a time; what it answers is put beside the
rows as they were given.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, DataError
from pipelines.schemas import TIMESTAMP

TIME = "event_timestamp"
_NUMBER = "headrace_row"
_DROPS_UNKNOWN = frozenset({"DaskOfflineStore"})
"""Stores that leave out an entity of which nothing is known at its time; elsewhere a missing row is a bug."""


def join_features(store: Any, entities: pa.Table, features: Sequence[str]) -> pa.Table:
    """Add to each row what was known of its entity at `event_timestamp`; rows and order stay as they are.

    A feature row counts if its event and its arrival are not later than that moment, and its age is at most the time
    to live of its view. What is not known is null, for numbers as for NaN, and an empty list for lists.

    Args:
        store: A `feast.FeatureStore`.
        entities: The join keys of the views, `event_timestamp` timestamp[us, UTC] without nulls, and any other
            columns, such as labels. Duplicates and null keys are welcome.
        features: `view:feature`.

    Returns:
        The columns of `entities`, untouched, then one a feature, named as in its view.

    Raises:
        ConfigError: the offline store, or a view, cannot leave out what arrived later.
        DataError: the rows have no time, or the store lost or changed keys.
    """
    if entities[TIME].null_count:
        raise DataError(f"`{TIME}` is null in {entities[TIME].null_count} rows: a point-in-time join needs a moment.")
    by_view: dict[str, list[str]] = {}
    for feature in features:
        view, name = feature.split(":")
        by_view.setdefault(view, []).append(name)
    views = {name: store.get_feature_view(name) for name in by_view}
    refuse_leaking_store(store, list(views.values()))
    taken = [name for names in by_view.values() for name in names]
    if doubled := sorted({name for name in taken if [*entities.column_names, *taken].count(name) > 1}):
        raise DataError(f"The features {', '.join(doubled)} have the names of other columns: rename one of the two.")
    joined = entities
    for name, view in views.items():
        for feature, column in _known_at(store, view, entities, by_view[name]).items():
            joined = joined.append_column(feature, column)
    return joined


def refuse_leaking_store(store: Any, views: Sequence[Any]) -> None:
    """Stop before a join in which rows could count that had not arrived yet.

    Raises:
        ConfigError: the offline store is not known to cut off by arrival, or a view has no arrival column.
    """
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    offline = get_offline_store_from_config(store.config.offline_store)
    accepts = "filter_by_created_timestamp" in inspect.signature(offline.get_historical_features).parameters
    if getattr(offline, "supports_filter_by_created_timestamp", False) is not True or not accepts:
        raise ConfigError(
            f"The offline store {store.config.offline_store.type!r} ({type(offline).__name__}) is not known to leave "
            "out rows that arrived later (`filter_by_created_timestamp`): they would leak into training. In Feast 0.67 "
            "duckdb, spark, trino, postgres, bigquery, redshift, athena and clickhouse do: set one of those."
        )
    for view in views:
        if not view.batch_source.created_timestamp_column:
            raise ConfigError(
                f"The source of the feature view `{view.name}` has no `created_timestamp_column`: Feast would count "
                "rows that arrived later. Name the column of arrival in feature_repo/features.py."
            )


def known_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Bring joined values into their one form: NaN becomes null, a null list an empty one."""
    if pa.types.is_list(kind):
        lists = column.cast(kind)
        return pc.fill_null(lists, pa.scalar([], kind)) if lists.null_count else lists
    values = column.cast(kind)
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    return values


# Inside


def _known_at(store: Any, view: Any, entities: pa.Table, features: list[str]) -> dict[str, pa.ChunkedArray]:
    """Return one column a feature, in the order of the entities."""
    from feast.types import from_feast_to_pyarrow_type

    fields = {field.name: field.dtype for field in view.features}
    if unknown := sorted(set(features) - set(fields)):
        raise ConfigError(f"The feature view `{view.name}` has no {', '.join(unknown)} (known: {', '.join(fields)}).")
    kinds = {name: _plain(from_feast_to_pyarrow_type(fields[name])) for name in features}
    keys = [column.name for column in view.entity_columns]
    distinct, number_of = _distinct(entities.select([*keys, TIME]), keys)
    if not distinct.num_rows:
        return {name: known_column(pa.nulls(entities.num_rows, kind), kind) for name, kind in kinds.items()}
    joined = store.get_historical_features(
        entity_df=distinct.to_pandas(),
        features=[f"{view.name}:{name}" for name in features],
        filter_by_created_timestamp=True,
    ).to_arrow()
    position = _positions(store, view.name, distinct, joined).take(number_of)
    return {name: known_column(joined[name].combine_chunks().take(position), kind) for name, kind in kinds.items()}


def _distinct(keys_and_times: pa.Table, keys: list[str]) -> tuple[pa.Table, pa.Array]:
    """Number the distinct keys that are whole.

    Returns:
        The distinct keys with their number, and for each given row the number of its key, null for a null key.
    """
    codes = np.zeros(keys_and_times.num_rows, np.int64)
    known = np.ones(keys_and_times.num_rows, bool)
    for name in keys_and_times.column_names:
        encoded = keys_and_times[name].combine_chunks().dictionary_encode()
        known &= pc.is_valid(encoded).to_numpy(zero_copy_only=False)
        of_column = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        _, codes = np.unique(codes * max(len(encoded.dictionary), 1) + of_column, return_inverse=True)
    rows = np.flatnonzero(known)
    _, first, number = np.unique(codes[rows], return_index=True, return_inverse=True)
    numbers = np.zeros(len(codes), np.int64)
    numbers[rows] = number
    distinct = keys_and_times.take(pa.array(rows[first])).select([*keys, TIME])
    distinct = distinct.append_column(_NUMBER, pa.array(np.arange(len(first)), pa.int64()))
    return distinct, pa.array(numbers, mask=~known)


def _positions(store: Any, view: str, asked: pa.Table, joined: pa.Table) -> pa.Array:
    """Return where each asked key lies in the answer, null where a store leaves out what it does not know.

    Raises:
        DataError: keys were lost, doubled or changed.
    """
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    position = pc.index_in(asked[_NUMBER].combine_chunks(), value_set=joined[_NUMBER].cast(pa.int64()).combine_chunks())
    found = pc.is_valid(position)
    may_drop = type(get_offline_store_from_config(store.config.offline_store)).__name__ in _DROPS_UNKNOWN
    answered = joined.take(position.drop_null())
    there = asked.filter(found)
    same = all(answered[name].cast(there[name].type).equals(there[name]) for name in asked.column_names)
    if joined.num_rows == there.num_rows and same and (may_drop or not position.null_count):
        return position
    raise DataError(
        f"The point-in-time join of `{view}` gave {joined.num_rows} rows for {asked.num_rows}, or changed their keys: "
        "nothing may be trained on it. This is a bug of the offline store: report it."
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type as the tables of ours have it."""
    return TIMESTAMP if pa.types.is_timestamp(kind) else kind
