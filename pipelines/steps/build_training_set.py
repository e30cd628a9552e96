"""Step: turn baskets into point-in-time rows for training, validation and test."""

from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.config import TrainingSetConfig
from pipelines.errors import DataError, StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.baskets import (
    Split,
    baskets_sql,
    daily_baskets_sql,
    seen_items_sql,
    split_by_time,
    training_rows_sql,
)
from pipelines.features.on_demand import CONTEXT_FEATURES, context_features, item_facts
from pipelines.progress import Progress
from pipelines.schemas import TIMESTAMP, TrainingSet
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.files import replacing_file, text_sha256, write_text
from pipelines.stores.table_store import TableStore

SPLITS = ("train", "validation", "test")
_ITEM_LIST = pa.list_(pa.string())
TRAINING_ROWS = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("as_of", TIMESTAMP, nullable=False),
        pa.field("target_item_ids", _ITEM_LIST),
        pa.field("new_item_ids", _ITEM_LIST),
        pa.field("history_item_ids", _ITEM_LIST),
        pa.field("history_event_types", _ITEM_LIST),
        pa.field("history_times", pa.list_(pa.int64())),
        *(pa.field(name, pa.float64()) for name in (*ACTIVITY_FEATURES, *CONTEXT_FEATURES)),
    ]
)
"""`rows.parquet`, in the order of `row_id`, which is the order of time. Histories are oldest first."""
SEEN_ITEMS = pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("item_ids", _ITEM_LIST)])
"""`seen.parquet`: validation and test rows, and all that their users had bought before."""
_CONTEXT_ROWS = 20_000
"""Rows whose histories are in memory as numbers at once."""
_FORMAT = 2
"""Raise it when the rows mean something else, so that old training sets are built again."""


def build_training_set(
    *,
    tables: TableStore,
    feature_store: FeatureStoreClient,
    training_dir: Path,
    config: TrainingSetConfig,
    model_fingerprint: str,
    champion: str | None,
    force: str = "",
    progress: Progress,
) -> TrainingSet:
    """Write `rows.parquet` and `seen.parquet` below `training_dir/<run>`, and return what they are.

    `run` is a hash of everything the training depends on, so that the same inputs give the same run: where it is
    complete already, it is returned at once.

    Args:
        model_fingerprint: Stands for the settings of the model.
        champion: Bundle that the training will start from.
        force: Any text; another one makes another run of the same inputs.

    Raises:
        DataError: a split has no baskets, or the point-in-time join went wrong.
        StoreError: the features are not those of the tables as they are now.
    """
    features = feature_store.manifest()
    if features.tables_fingerprint != tables.fingerprint():
        raise StoreError(
            f"The features are those of tables {features.tables_fingerprint[:12]}, but the tables are at "
            f"{tables.fingerprint()[:12]}: run `headrace build_features`, or wait until the feature pipeline has."
        )
    fingerprint = text_sha256(str(_FORMAT), features.fingerprint, config.model_dump_json())
    run = text_sha256(fingerprint, model_fingerprint, champion or "base", force)[:12]
    folder = training_dir / run
    if done := _find(folder):
        return done

    with tables.connect() as connection:
        split = split_by_time(_daily_baskets(connection), config)
        rows = _rows(connection, split, config)
        counts = {name: pc.sum(pc.equal(rows["split"], name)).as_py() or 0 for name in SPLITS}
        _refuse_empty_splits(counts, split, config)
        progress.update("join features", 0, rows.num_rows)
        complete = _with_features(rows, feature_store, connection)
        progress.update("join features", rows.num_rows, rows.num_rows)
        connection.register("rows", rows)
        seen = connection.sql(seen_items_sql()).to_arrow_table().cast(SEEN_ITEMS)

    with replacing_file(folder / "rows.parquet") as path:
        pq.write_table(complete, path, compression="zstd")
    with replacing_file(folder / "seen.parquet") as path:
        pq.write_table(seen, path, compression="zstd")
    training_set = TrainingSet(
        run=run,
        folder=folder,
        fingerprint=fingerprint,
        champion=champion,
        rows=counts,
        validation_start=split.validation_start,
        test_start=split.test_start,
        test_end=split.test_end,
    )
    write_text(folder / "manifest.json", training_set.model_dump_json(indent=2))
    return training_set


def _find(folder: Path) -> TrainingSet | None:
    """Return the training set that lies in the folder; None where it is not complete."""
    try:
        found = TrainingSet.model_validate_json((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    return found.model_copy(update={"folder": folder})


def _daily_baskets(connection: duckdb.DuckDBPyConnection) -> list[tuple[datetime, int]]:
    daily = connection.execute(daily_baskets_sql()).fetchall()
    if not daily:
        raise DataError(
            "The tables hold no purchase of an item, and baskets are what the model learns from: check the mapping of "
            "`event_type` and `item_id` in your source, then run `headrace ingest_tables` again."
        )
    return daily


def _rows(connection: duckdb.DuckDBPyConnection, split: Split, config: TrainingSetConfig) -> pa.Table:
    """Return the rows without features: the first columns of TRAINING_ROWS."""
    baskets = connection.sql(baskets_sql(), params={"start": split.train_start, "end": split.test_end}).to_arrow_table()
    connection.register("baskets", baskets)
    rows = connection.sql(
        training_rows_sql(),
        params={
            "validation_start": split.validation_start,
            "test_start": split.test_start,
            "max_train_rows": config.max_train_rows,
            "max_eval_rows": config.max_eval_rows,
        },
    ).to_arrow_table()
    connection.unregister("baskets")
    return rows.cast(pa.schema([TRAINING_ROWS.field(name) for name in rows.column_names]))


def _refuse_empty_splits(counts: dict[str, int], split: Split, config: TrainingSetConfig) -> None:
    for name in SPLITS:
        if not counts[name]:
            parts = {
                "train": (split.train_start, split.validation_start, config.window_days),
                "validation": (split.validation_start, split.test_start, config.validation_days),
                "test": (split.test_start, split.test_end, config.test_days),
            }
            start, end, days = parts[name]
            raise DataError(
                f"There is no basket in the {name} window of {days} days, {start:%Y-%m-%d} to {end:%Y-%m-%d}: "
                f"bring more events, or change `training_set.{'window' if name == 'train' else name}_days`."
            )


def _with_features(
    rows: pa.Table, feature_store: FeatureStoreClient, connection: duckdb.DuckDBPyConnection
) -> pa.Table:
    """Add what was known of each user at `as_of`, and the moment itself; rows, order and labels stay as they are.

    Raises:
        DataError: the join changed the rows, or a history knows something from after `as_of`.
    """
    features = feature_store.user_features(rows.select(["row_id", "user_id", "as_of"]))
    if not features["row_id"].equals(rows["row_id"]):
        raise DataError("The joined features are not those of the rows, in their order: this is a bug, report it.")
    complete = pa.table(
        {
            **{name: rows[name] for name in rows.column_names},
            "history_item_ids": features["item_ids"],
            "history_event_types": features["event_types"],
            "history_times": features["event_times"],
            **{name: features[name] for name in ACTIVITY_FEATURES},
            **_context(rows["as_of"], features["item_ids"], features["event_times"], connection),
        },
        schema=TRAINING_ROWS,
    )
    _refuse_leaks(complete)
    return complete


def _context(
    as_of: pa.ChunkedArray, items: pa.ChunkedArray, times: pa.ChunkedArray, connection: duckdb.DuckDBPyConnection
) -> dict[str, pa.Array]:
    """Compute the features on demand of every row, by the function that requests use; null where nothing is known."""
    catalogue = connection.sql("SELECT item_id, price, category, brand FROM items ORDER BY item_id").to_arrow_table()
    item_ids = catalogue["item_id"].combine_chunks()
    facts = item_facts(*(catalogue[name].to_pylist() for name in ("price", "category", "brand")))
    parts = []
    for start in range(0, len(as_of), _CONTEXT_ROWS):
        lists = items.slice(start, _CONTEXT_ROWS).combine_chunks()
        numbers = pc.fill_null(pc.index_in(pc.list_flatten(lists), value_set=item_ids), -1)
        part = context_features(
            numbers.to_numpy(zero_copy_only=False).astype(np.int64),
            pc.list_flatten(times.slice(start, _CONTEXT_ROWS).combine_chunks()).to_numpy(zero_copy_only=False),
            np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))]),
            as_of.slice(start, _CONTEXT_ROWS).cast(pa.int64()).to_numpy() / 1e6,
            facts,
        )
        parts.append(part)
    return {
        name: pa.array(np.concatenate([part[name] for part in parts]), pa.float64(), from_pandas=True)
        for name in CONTEXT_FEATURES
    }


def _refuse_leaks(rows: pa.Table) -> None:
    """Stop where a history reaches beyond the moment at which it is used."""
    owners = pc.list_parent_indices(rows["history_times"].combine_chunks())
    times = pc.list_flatten(rows["history_times"].combine_chunks())
    as_of_s = pc.divide(rows["as_of"].combine_chunks().cast(pa.int64()), 1_000_000)
    late = pc.greater(times, as_of_s.take(owners))
    if pc.any(late).as_py():
        leaking = pc.unique(rows["row_id"].combine_chunks().take(owners.filter(late)))
        first = ", ".join(str(row_id) for row_id in leaking[:3].to_pylist())
        raise DataError(
            f"The histories of {len(leaking)} training rows know events from after their time (first row_id: {first}): "
            "a feature leaks. Delete the features folder, run `headrace build_features`, and try again."
        )
