"""Step: turn baskets into point-in-time rows for training, validation and test."""

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
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
    clicked_items_sql,
    daily_baskets_sql,
    older_rows_sql,
    replay_rows,
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
from pipelines.training.receipt import Receipt, WindowReadError, refuse_window_read

SPLITS = ("train", "validation", "test")
OLD = "old"
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
        pa.field("replayed", pa.bool_(), nullable=False),
        pa.field("clicked_item_ids", _ITEM_LIST),
        pa.field("history_item_ids", _ITEM_LIST),
        pa.field("history_event_types", _ITEM_LIST),
        pa.field("history_times", pa.list_(pa.int64())),
        *(pa.field(name, pa.float64()) for name in (*ACTIVITY_FEATURES, *CONTEXT_FEATURES)),
    ]
)
"""`rows.parquet`, in the order of `row_id`, which is the order of time. Histories are oldest first. `split` is one of
SPLITS or, for rows of older windows that are kept for measuring, `old`. `clicked_item_ids` is null where nothing was
clicked, and outside of validation."""
SEEN_ITEMS = pa.schema([pa.field("row_id", pa.int64(), nullable=False), pa.field("item_ids", _ITEM_LIST)])
"""`seen.parquet`: rows that are not for training, and all that their users had bought before."""
_MOST_REPLAYED = 0.5
"""Where there are more rows than may be read, at least half of those read are new."""
_CONTEXT_ROWS = 20_000
"""Rows whose histories are in memory as numbers at once."""
_FORMAT = 4
"""Raise it when the rows mean something else, so that old training sets are built again."""


def build_training_set(
    *,
    tables: TableStore,
    feature_store: FeatureStoreClient,
    training_dir: Path,
    config: TrainingSetConfig,
    model_fingerprint: str,
    champion: str | None,
    parent: Receipt | None = None,
    until: date | None = None,
    force: str = "",
    progress: Progress,
) -> TrainingSet:
    """Write `rows.parquet` and `seen.parquet` below `training_dir/<run>`, and return what they are.

    `run` is a hash of everything the training depends on, so that the same inputs give the same run: where it is
    complete already, it is returned at once.

    Training rows are those of the whole window, or, where the champion left a receipt, those since its end, and a
    sample of older ones. What a champion that was refused has read counts as unread: its successor reads it again.

    Args:
        model_fingerprint: Stands for the settings of the model.
        champion: Bundle that the training will start from; None starts from zero.
        parent: The champion's receipt; None reads the whole window.
        until: The first day (UTC) whose baskets do not count any more; None: all count.
        force: Any text; another one makes another run of the same inputs, over the whole window.

    Raises:
        DataError: a split has no baskets, or the point-in-time join went wrong.
        WindowReadError: the parent has read the window already.
        StoreError: the features are not those of the tables as they are now.
    """
    features = feature_store.manifest()
    if features.tables_fingerprint != tables.fingerprint():
        raise StoreError(
            f"The features are those of tables {features.tables_fingerprint[:12]}, but the tables are at "
            f"{tables.fingerprint()[:12]}: run `headrace build_features`, or wait until the feature pipeline has."
        )
    parent = None if force else parent
    read_before = parent.read.fingerprint if parent else ""
    fingerprint = text_sha256(
        str(_FORMAT), features.fingerprint, config.model_dump_json(), read_before, str(until or "")
    )
    run = text_sha256(fingerprint, model_fingerprint, champion or "base", force)[:12]
    folder = training_dir / run
    if done := _find(folder):
        return done

    with tables.connect() as connection:
        daily = _daily_baskets(connection, until)
        split = split_by_time(daily, config)
        window_rows = sum(n for day, n in daily if split.train_start <= day < split.validation_start)
        if parent:
            refuse_window_read(split.train_start, split.validation_start, split.test_end, parent)
            split = replace(split, train_start=parent.until)
        rows = _rows(connection, split, config, replay=parent is not None)
        rows = _with_clicks(rows, connection, config.click_hours, split.test_start)
        counts = {name: pc.sum(pc.equal(rows["split"], name)).as_py() or 0 for name in _splits(parent)}
        _refuse_empty_splits(counts, split, config, parent)
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
        since=split.train_start,
        replayed=pc.sum(rows["replayed"]).as_py() or 0,
        window_rows=min(window_rows, config.max_train_rows),
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


def _daily_baskets(connection: duckdb.DuckDBPyConnection, until: date | None) -> list[tuple[datetime, int]]:
    found = connection.execute(daily_baskets_sql()).fetchall()
    daily = [(day, n) for day, n in found if until is None or day.astimezone(UTC).date() < until]
    if found and not daily:
        raise DataError(
            f"No purchase is older than {until}: the tables begin at {found[0][0]:%Y-%m-%d}. Give a later day."
        )
    if not daily:
        raise DataError(
            "The tables hold no purchase of an item, and baskets are what the model learns from: check the mapping of "
            "`event_type` and `item_id` in your source, then run `headrace ingest_tables` again."
        )
    return daily


def _splits(parent: Receipt | None) -> tuple[str, ...]:
    return (*SPLITS, OLD) if parent else SPLITS


def _rows(connection: duckdb.DuckDBPyConnection, split: Split, config: TrainingSetConfig, *, replay: bool) -> pa.Table:
    """Return the rows without features: the first columns of TRAINING_ROWS.

    Args:
        replay: Add a sample of the rows from before the window.
    """
    share = min(config.replay_share, _MOST_REPLAYED) if replay else 0.0
    rows = _window_rows(connection, split, config, max_rows=math.ceil(config.max_train_rows * (1 - share)))
    if replay:
        new = pc.sum(pc.equal(rows["split"], "train")).as_py() or 0
        wanted = min(replay_rows(new, config.replay_share), config.max_train_rows - new)
        older = _older_rows(connection, split, config, wanted)
        row_ids = pc.add(rows["row_id"], older.num_rows)
        rows = pa.concat_tables([older, rows.set_column(rows.column_names.index("row_id"), "row_id", row_ids)])
    return rows.cast(pa.schema([TRAINING_ROWS.field(name) for name in rows.column_names]))


def _older_rows(
    connection: duckdb.DuckDBPyConnection, split: Split, config: TrainingSetConfig, replayed: int
) -> pa.Table:
    return connection.sql(
        older_rows_sql(),
        params={
            "start": split.train_start - timedelta(days=config.replay_days),
            "end": split.train_start,
            "seed": str(config.replay_seed),
            "replay_rows": replayed,
            "old_rows": config.old_slice_rows,
        },
    ).to_arrow_table()


def _window_rows(
    connection: duckdb.DuckDBPyConnection, split: Split, config: TrainingSetConfig, *, max_rows: int
) -> pa.Table:
    baskets = connection.sql(baskets_sql(), params={"start": split.train_start, "end": split.test_end}).to_arrow_table()
    connection.register("baskets", baskets)
    rows = connection.sql(
        training_rows_sql(),
        params={
            "validation_start": split.validation_start,
            "test_start": split.test_start,
            "max_train_rows": max_rows,
            "max_eval_rows": config.max_eval_rows,
        },
    ).to_arrow_table()
    connection.unregister("baskets")
    return rows


def _with_clicks(rows: pa.Table, connection: duckdb.DuckDBPyConnection, hours: int, until: datetime) -> pa.Table:
    """Add `clicked_item_ids`, what the users of validation rows clicked next."""
    connection.register("rows", rows)
    clicked = connection.sql(clicked_items_sql(), params={"hours": hours, "until": until}).to_arrow_table()
    connection.unregister("rows")
    lists = clicked["item_ids"].combine_chunks().cast(_ITEM_LIST)
    found = pc.index_in(rows["row_id"], value_set=clicked["row_id"].combine_chunks().cast(pa.int64()))
    return rows.append_column(TRAINING_ROWS.field("clicked_item_ids"), lists.take(found.combine_chunks()))


def _refuse_empty_splits(
    counts: dict[str, int], split: Split, config: TrainingSetConfig, parent: Receipt | None
) -> None:
    if parent and not counts["train"]:
        raise WindowReadError(
            f"Nobody bought anything between {split.train_start:%Y-%m-%d}, where the receipt of model {parent.run} "
            f"ends, and {split.validation_start:%Y-%m-%d}, where validation begins: bring more events.",
            is_twice=True,
        )
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
