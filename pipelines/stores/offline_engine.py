"""The engine behind Feast's joins and materialization: DuckDB in this process, or a Spark cluster.

Both read the same day files. Only engines that leave out what arrived later are offered (see point_in_time.py).
"""

from pathlib import Path
from typing import Any

from pipelines.config import FeatureStoreConfig
from pipelines.errors import ConfigError

EMBEDDED = FeatureStoreConfig()
"""Everything in this process."""
_SPARK_DEFAULTS = {
    # Our moments are UTC, and Spark reads them in the zone of the session.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.enabled": "false",
}


def engine_settings(config: FeatureStoreConfig) -> dict[str, Any]:
    """Return Feast's settings of the offline store and of the engine that materializes.

    Raises:
        ConfigError: Spark is wanted and not installed.
    """
    if config.offline_store == "duckdb":
        return {"offline_store": {"type": "duckdb"}}
    try:
        import pyspark  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        raise ConfigError(
            "feature_store.offline_store is `spark`, but pyspark is not installed: run "
            "`pip install -c constraints.txt 'headrace[spark]'` (and Java 17), or set it to `duckdb`."
        ) from None
    conf = {**_SPARK_DEFAULTS, **config.spark_conf}
    return {
        "offline_store": {"type": "spark", "spark_conf": conf, "staging_location": config.staging_location},
        "batch_engine": {"type": "spark.engine", "spark_conf": conf, "partitions": config.spark_partitions},
    }


def feature_source(offline_store: str, name: str, path: Path) -> Any:
    """Return Feast's data source over a Parquet file, or over a folder of them.

    The path is absolute: Feast's DuckDB store resolves relative ones against the current folder. A folder is read
    whole by DuckDB and Spark (the data) and by PyArrow (the schema), which knows nothing of patterns.
    """
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    if offline_store == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(name=name, path=path.resolve().as_uri(), file_format="parquet", **times)
    from feast import FileSource
    from feast.data_format import ParquetFormat

    return FileSource(name=name, path=str(path.resolve()), file_format=ParquetFormat(), **times)
