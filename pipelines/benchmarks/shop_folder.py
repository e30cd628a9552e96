"""Data of a shop as a folder in the form of the benches: as it is, or made through a source and its mapping file.

`bench freshness` takes `completejourney`, a mapping file (docs/your-own-data.md), a folder of Parquet files in the
documented form (docs/benchmarks.md), or a folder with the `lines.parquet` of UCI Online Retail, for which a mapping is
kept.
"""

from datetime import UTC, datetime
from pathlib import Path

from pipelines.benchmarks.folder import INTERACTIONS, ITEMS
from pipelines.errors import DataError
from pipelines.sources.base import Source, timestamp
from pipelines.stores.files import replacing_folder
from pipelines.stores.sql import open_duckdb, quoted

COMPLETE_JOURNEY = "completejourney"
LINES = "lines.parquet"
RETAIL_MAPPING = Path(__file__).resolve().parents[2] / "docs" / "online-retail.yaml"
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)
_WINDOWS_FROM = datetime(2017, 10, 1, tzinfo=UTC)
"""Before the windows that `bench recommend` cuts out of the default data."""


def shop_folder(data: str, work: Path) -> tuple[Path, str]:
    """Return a folder in the form of the benches, and a name for the data.

    Args:
        data: What the person gave.
        work: Where the folder is made, if it has to be: anew each time, because files may have changed.

    Raises:
        DataError: there is nothing that could be read.
        ConfigError: the mapping is wrong, or the package behind `completejourney` is not installed.
    """
    path = Path(data)
    if data == COMPLETE_JOURNEY and not path.exists():
        return _written(_completejourney(), work / "folder"), COMPLETE_JOURNEY
    if (path / INTERACTIONS).is_file():
        return path, path.resolve().name
    if (path / LINES).is_file():
        return _written(_tables(_retail_mapping(path, work)), work / "folder"), path.resolve().name
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return _written(_tables(path), work / "folder"), path.stem
    found = sorted(one.name for one in path.glob("*")) if path.is_dir() else []
    raise DataError(
        f"{data} is no data for this bench (found: {', '.join(found[:5]) or 'nothing'}): give a folder with {ITEMS} "
        f"and {INTERACTIONS}, a folder with {LINES} of UCI Online Retail, a mapping file (.yaml), or "
        f"`{COMPLETE_JOURNEY}`."
    )


def completejourney_folder(folder: Path, package: Path | None = None) -> Path:
    """Return the default data, in 2017 as it happened, as a folder for `bench recommend`; written once.

    Only items sold before the windows have a price: else having one would tell that an item is sold in a window.
    (`bench freshness` keeps all prices: it ranks only what has been sold by then.)

    Args:
        package: Where the package's files are; None finds them as installed.

    Raises:
        ConfigError: the default data is not installed.
    """
    if (folder / INTERACTIONS).is_file():
        return folder
    return _written(_completejourney(package), folder, priced_before=_WINDOWS_FROM)


def _completejourney(package: Path | None = None) -> Source:
    from pipelines.sources.completejourney import CompleteJourneySource

    return CompleteJourneySource(replay_until=None, folder=package)


def _tables(mapping: Path) -> Source:
    from pipelines.sources.tables import TablesSource

    return TablesSource(mapping)


def _retail_mapping(path: Path, work: Path) -> Path:
    """Write the kept mapping with the whole path of the file in it."""
    work.mkdir(parents=True, exist_ok=True)
    mapping = work / "online-retail.yaml"
    lines = str((path / LINES).resolve())
    mapping.write_text(
        RETAIL_MAPPING.read_text(encoding="utf-8").replace(f"files: {LINES}", f"files: {lines}"), encoding="utf-8"
    )
    return mapping


def _written(source: Source, folder: Path, *, priced_before: datetime | None = None) -> Path:
    """Write what the source gives: items with a title, and the purchases of them.

    Args:
        priced_before: Items that were not sold before have no price; None keeps all prices.
    """
    with open_duckdb() as connection, replacing_folder(folder) as target:
        queries = source.read(connection, since=None, until=_LATEST, state={}).queries
        accepted = "unreadable IS NULL AND rejected_because IS NULL"
        connection.execute(
            f"CREATE TEMP TABLE shop_items AS SELECT item_id, title, description, category, brand, price "
            f"FROM ({queries['items']}) WHERE item_id IS NOT NULL AND trim(title) <> '' AND {accepted} "
            "QUALIFY row_number() OVER (PARTITION BY item_id) = 1"
        )
        connection.execute(
            f"CREATE TEMP TABLE shop_events AS SELECT DISTINCT CAST(user_id AS VARCHAR) AS user_id, item_id, "
            f"event_timestamp AS timestamp, event_type, session_id AS basket_id FROM ({queries['events']}) "
            "WHERE user_id IS NOT NULL AND event_type = 'purchase' AND event_timestamp IS NOT NULL "
            f"AND item_id IN (SELECT item_id FROM shop_items) AND {accepted}"
        )
        if priced_before:
            connection.execute(
                "UPDATE shop_items SET price = NULL WHERE item_id NOT IN "
                f"(SELECT item_id FROM shop_events WHERE timestamp < {timestamp(priced_before)})"
            )
        connection.execute(f"COPY (FROM shop_items ORDER BY item_id) TO {quoted(target / ITEMS)} (FORMAT parquet)")
        connection.execute(
            "COPY (FROM shop_events ORDER BY user_id, timestamp, basket_id, item_id) "
            f"TO {quoted(target / INTERACTIONS)} (FORMAT parquet)"
        )
    return folder
