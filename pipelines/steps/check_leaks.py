"""Step: stop the run where a feature knows what it is to predict."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import LeakConfig
from pipelines.errors import DataError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.leaks import ColumnCheck, checked_columns, leak_in
from pipelines.progress import Progress
from pipelines.schemas import TIMESTAMP, ColumnLeak, LeakReport, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.table_store import TableStore

STEP = "check_leaks"
_HISTORY = {"item_ids": "history_item_ids", "event_types": "history_event_types", "event_times": "history_times"}


def check_leaks(
    training_set: TrainingSet,
    *,
    tables: TableStore,
    feature_store: FeatureStoreClient,
    tracker: ExperimentTracker,
    config: LeakConfig,
    progress: Progress,
) -> LeakReport:
    """Look for leaks in two ways, on a sample of the training rows.

    The canary: copies of the label are planted with a time after the row's, and with an arrival after it; the join
    that brings the features must bring none of them. The columns: each feature is recomputed just before the row's
    basket and once the basket had arrived; a column that holds the later value, or that tells the label too well on
    its own, stops the run. What was found is in MLflow either way.

    Raises:
        DataError: something leaks; the message names the column, or what was planted.
    """
    rows = _sample(training_set, config.sample_rows)
    progress.update("plant the canary", 0, 2)
    labels = pc.binary_join(rows["target_item_ids"].combine_chunks(), " ")
    feature_store.check_canary(rows["as_of"].combine_chunks(), labels)
    progress.update("recompute features", 1, 2)
    before = _features(feature_store, rows, rows["as_of"])
    after = _features(feature_store, rows, _known_after(tables, rows))
    baskets = [frozenset(items) for items in rows["target_item_ids"].to_pylist()]
    checks = checked_columns(rows.to_pydict(), before, after, baskets)
    progress.update("recompute features", 2, 2)
    report = LeakReport(
        run=training_set.run,
        rows=rows.num_rows,
        columns={name: _record(check) for name, check in checks.items()},
    )
    _publish(report, config, tracker)
    _refuse(checks, rows.num_rows, config)
    return report


def _sample(training_set: TrainingSet, count: int) -> pa.Table:
    """Return training rows, spread evenly over the window."""
    rows = pq.read_table(training_set.folder / "rows.parquet", filters=[("split", "=", "train")])
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, min(count, rows.num_rows)).astype(np.int64))
    return rows.take(pa.array(chosen))


def _features(feature_store: FeatureStoreClient, rows: pa.Table, as_of: pa.ChunkedArray) -> dict[str, list[object]]:
    """Return the feature columns by the names of the training set, as they are at another moment."""
    asked = pa.table({"row_id": rows["row_id"], "user_id": rows["user_id"], "as_of": as_of})
    features = feature_store.user_features(asked)
    columns = {ours: features[name].to_pylist() for name, ours in _HISTORY.items()}
    return columns | {name: features[name].to_pylist() for name in ACTIVITY_FEATURES}


def _known_after(tables: TableStore, rows: pa.Table) -> pa.ChunkedArray:
    """Return the moment at which each row's basket had happened and arrived."""
    with tables.connect() as connection:
        connection.register("rows", rows.select(["row_id", "user_id", "as_of"]))
        return _arrivals(connection)["known_at"].cast(TIMESTAMP)


def _arrivals(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    return connection.sql(
        """
        SELECT row_id, greatest(rows.as_of + INTERVAL 1 MICROSECOND, max(created_timestamp)) AS known_at
        FROM rows LEFT JOIN events
            ON events.user_id = rows.user_id AND event_timestamp = rows.as_of + INTERVAL 1 MICROSECOND
        GROUP BY row_id, rows.as_of ORDER BY row_id
        """
    ).to_arrow_table()


def _record(check: ColumnCheck) -> ColumnLeak:
    return ColumnLeak(
        association=check.association,
        association_after=check.association_after,
        changed=check.changed,
        later=check.later,
    )


def _publish(report: LeakReport, config: LeakConfig, tracker: ExperimentTracker) -> None:
    with tracker.step(report.run, STEP) as log:
        log.params(config.model_dump())
        metrics: dict[str, float] = {"leaks.rows": report.rows}
        for name, column in report.columns.items():
            metrics[f"leaks.association.{name}"] = column.association
            metrics[f"leaks.association_after.{name}"] = column.association_after
            metrics[f"leaks.later.{name}"] = column.later / column.changed if column.changed else 0.0
        log.metrics(metrics)


def _refuse(checks: dict[str, ColumnCheck], rows: int, config: LeakConfig) -> None:
    believable = config.max_association if rows >= config.min_rows else 1.0
    found = [
        sentence
        for name, check in checks.items()
        if (
            sentence := leak_in(
                name, check, rows=rows, max_association=believable, max_later_share=config.max_later_share
            )
        )
    ]
    if found:
        raise DataError(
            f"A feature leaks: {'; '.join(found)}. Nothing may be trained on it. Mend the column's definition in "
            "pipelines/features, then run `headrace build_features` and `headrace build_training_set` again."
        )
