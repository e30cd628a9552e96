"""Data of a shop as a folder in the form of the benches: as it is, or made once through a source and its mapping file.

A bench takes `completejourney`, a mapping file (docs/your-own-data.md), a folder of Parquet files in the documented
form (docs/benchmarks.md), or a folder with the `lines.parquet` of UCI Online Retail, for which a mapping is kept.
"""

from datetime import UTC, datetime
from pathlib import Path

from pipelines.benchmarks.folder import INTERACTIONS, ITEMS
from pipelines.errors import DataError
from pipelines.sources.base import Source
from pipelines.stores.files import replacing_folder
from pipelines.stores.sql import open_duckdb, quoted

COMPLETE_JOURNEY = "completejourney"
LINES = "lines.parquet"
RETAIL_MAPPING = Path(__file__).resolve().parents[2] / "docs" / "online-retail.yaml"
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


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
        from pipelines.sources.completejourney import CompleteJourneySource

        return _made(CompleteJourneySource(replay_until=None), work / "folder"), COMPLETE_JOURNEY
    if (path / INTERACTIONS).is_file():
        return path, path.resolve().name
    if (path / LINES).is_file():
        return _made(_tables(_retail_mapping(path, work)), work / "folder"), path.resolve().name
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return _made(_tables(path), work / "folder"), path.stem
    found = sorted(one.name for one in path.glob("*")) if path.is_dir() else []
    raise DataError(
        f"{data} is no data for this bench (found: {', '.join(found[:5]) or 'nothing'}): give a folder with {ITEMS} "
        f"and {INTERACTIONS}, a folder with {LINES} of UCI Online Retail, a mapping file (.yaml), or "
        f"`{COMPLETE_JOURNEY}`."
    )


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


def _made(source: Source, folder: Path) -> Path:
    """Write what the source gives: items with a title, and the purchases of them."""
    with open_duckdb() as connection, replacing_folder(folder) as target:
        queries = source.read(connection, since=None, until=_LATEST, state={}).queries
        accepted = "unreadable IS NULL AND rejected_because IS NULL"
        connection.execute(
            f"CREATE TEMP TABLE shop_items AS SELECT item_id, title, description, category, brand, price "
            f"FROM ({queries['items']}) WHERE item_id IS NOT NULL AND trim(title) <> '' AND {accepted} "
            "QUALIFY row_number() OVER (PARTITION BY item_id) = 1 ORDER BY item_id"
        )
        connection.execute(
            f"CREATE TEMP TABLE shop_events AS SELECT DISTINCT CAST(user_id AS VARCHAR) AS user_id, item_id, "
            f"event_timestamp AS timestamp, event_type, session_id AS basket_id FROM ({queries['events']}) "
            "WHERE user_id IS NOT NULL AND event_type = 'purchase' AND event_timestamp IS NOT NULL "
            f"AND item_id IN (SELECT item_id FROM shop_items) AND {accepted}"
        )
        connection.execute(f"COPY shop_items TO {quoted(target / ITEMS)} (FORMAT parquet)")
        connection.execute(
            "COPY (FROM shop_events ORDER BY user_id, timestamp, basket_id, item_id) "
            f"TO {quoted(target / INTERACTIONS)} (FORMAT parquet)"
        )
    return folder
