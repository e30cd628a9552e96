"""The embedded default data as a folder for `bench recommend`."""

from datetime import UTC, datetime
from pathlib import Path

from pipelines.benchmarks.folder import INTERACTIONS, ITEMS
from pipelines.sources.completejourney import CompleteJourneySource
from pipelines.stores.files import replacing_folder
from pipelines.stores.sql import open_duckdb, quoted

_AFTER_ALL = datetime(2018, 2, 1, tzinfo=UTC)
_PRICED_BEFORE = "TIMESTAMPTZ '2017-10-01 00:00:00+00'"
"""Only items sold before have a price here: else having one would tell that an item is sold in a window."""


def write_folder(folder: Path, package: Path | None = None) -> Path:
    """Write items and purchases of the default data, in 2017 as they happened; nothing where they are there already.

    Args:
        folder: Where the two files go.
        package: Where the package's files are; None finds them as installed.

    Raises:
        ConfigError: the default data is not installed.
    """
    if (folder / INTERACTIONS).is_file():
        return folder
    with replacing_folder(folder) as temporary, open_duckdb() as connection:
        source = CompleteJourneySource(replay_until=None, folder=package)
        queries = source.read(connection, since=None, until=_AFTER_ALL, state={}).queries
        connection.execute(
            f"""COPY (
                SELECT item_id, title, category, brand,
                    CASE WHEN item_id IN (
                        SELECT item_id FROM ({queries["events"]}) WHERE event_timestamp < {_PRICED_BEFORE}
                    ) THEN TRY_CAST(price AS DOUBLE) END AS price
                FROM ({queries["items"]}) ORDER BY item_id
            ) TO {quoted(temporary / ITEMS)} (FORMAT parquet)"""
        )
        connection.execute(
            f"""COPY (
                SELECT user_id, item_id, event_timestamp AS timestamp, event_type, session_id AS basket_id
                FROM ({queries["events"]}) WHERE item_id IN (SELECT item_id FROM ({queries["items"]}))
                ORDER BY user_id, timestamp, basket_id, item_id
            ) TO {quoted(temporary / INTERACTIONS)} (FORMAT parquet)"""
        )
    return folder
