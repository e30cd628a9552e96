"""Step: compute the features of users and items from the validated tables."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from pipelines.config import FeatureConfig
from pipelines.features.activity import user_activity_sql
from pipelines.features.history import user_history_sql
from pipelines.features.popularity import item_popularity_sql
from pipelines.progress import Progress
from pipelines.schemas import FeatureBuild
from pipelines.stores.feature_files import FeatureFiles, FeatureManifest
from pipelines.stores.sql import quoted
from pipelines.stores.table_store import TableStore

_FORMAT = 1
"""Raise it when the queries mean something else, so that old files are built again."""


def build_features(
    *, tables: TableStore, features_dir: Path, config: FeatureConfig, until: datetime, progress: Progress
) -> FeatureBuild:
    """Write one Parquet file a feature source, from all events that arrived up to `until`.

    Returns at once where the files were made of the same tables with the same settings.

    Raises:
        DataError: there are no tables yet.
    """
    files = FeatureFiles(features_dir)
    tables_fingerprint = tables.fingerprint()
    cut_off = min(until, tables.accepted_until() or until)
    fingerprint = _fingerprint(tables_fingerprint, cut_off, config)
    done = files.find()
    if done is None or done.fingerprint != fingerprint:
        queries = {
            "user_activity": user_activity_sql(),
            "user_history": user_history_sql(config.history_length),
            "item_popularity": item_popularity_sql(config.popularity_half_life_days),
        }
        rows = {}
        with tables.connect() as connection, files.replacing() as paths:
            connection.execute("SET preserve_insertion_order = false")
            for number, (name, query) in enumerate(queries.items()):
                progress.update("build features", number, len(queries), name)
                written = connection.execute(
                    f"COPY ({query}) TO {quoted(paths[name])} (FORMAT parquet, COMPRESSION zstd)", {"until": cut_off}
                ).fetchone()
                rows[name] = int(written[0])
        done = FeatureManifest(fingerprint=fingerprint, tables_fingerprint=tables_fingerprint, until=cut_off, rows=rows)
        files.finish(done)
        progress.update("build features", len(queries), len(queries))
    return FeatureBuild(until=done.until, rows=done.rows, fingerprint=done.fingerprint)


def _fingerprint(tables_fingerprint: str, cut_off: datetime, config: FeatureConfig) -> str:
    """Return a SHA-256 over all that the files depend on."""
    parts = (str(_FORMAT), tables_fingerprint, cut_off.astimezone(UTC).isoformat(), config.model_dump_json())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
