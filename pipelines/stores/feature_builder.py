"""Computes the day files of features: carries what is known of users and items from day to day, in bounded memory."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb

from pipelines.config import FeatureConfig
from pipelines.features.item_statistics import ITEM_STATISTICS, item_prices_sql, item_statistics_sql
from pipelines.features.user_state import USER_ROWS, user_rows_sql
from pipelines.progress import Progress
from pipelines.stores.feature_files import DAILY_FILES, FeatureDay, FeatureFiles, FeatureManifest
from pipelines.stores.sql import empty_select, quoted, quoted_list, scalar, write_parquet
from pipelines.stores.table_store import TableStore, arrival_day

BASE_DAYS = 7
"""Day files that may lie between the base and the day that is built."""
_CHUNK_ROWS = 1_500_000
"""Events that are computed in one pass, so that memory does not grow with the number of days."""
_CHUNK_SPAN = timedelta(days=365)
PORTION_EVENTS = 1_000
"""Events of one user that are computed in one go."""
_FLUSH_ROWS = 20_000
"""Rows of a day that wait in memory: each has three lists of up to 200."""
_KEYS = {"users": "user_id", "item_statistics": "item_id"}
_SCHEMAS = {"users": USER_ROWS, "item_statistics": ITEM_STATISTICS}


@dataclass(frozen=True)
class DayEvents:
    """The events of one arrival day."""

    path: Path
    rows: int
    source: str
    """Stands for the events: the hash of the file, and the cut-off where it lies within the day."""


class FeatureBuilder:
    """One run: carries what is known of users and items from chunk to chunk, and stages the files."""

    def __init__(
        self, tables: TableStore, files: FeatureFiles, config: FeatureConfig, kept: FeatureManifest, cut_off: datetime
    ) -> None:
        self.number = kept.build + 1
        self.base_day = kept.base_day
        self.base_build = kept.base_build
        self._tables = tables
        self._files = files
        self._kept = kept
        self._cut_off = cut_off
        self._queries = {
            "users": user_rows_sql("users_state", "portion", config.history_length, types_as_enum=True),
            "item_statistics": item_statistics_sql(
                config.popularity_half_life_days, "item_statistics_state", "new_events"
            ),
        }
        files.start()

    def days(self, new: Mapping[str, DayEvents], progress: Progress) -> dict[str, FeatureDay]:
        """Stage the files of the new days and return what they are."""
        built: dict[str, FeatureDay] = {}
        chunks = _chunks(new)
        with self._tables.connect(days=[]) as connection:
            for setting in ("preserve_insertion_order = false", "partitioned_write_max_open_files = 1000"):
                connection.execute(f"SET {setting}")
            connection.execute(f"SET partitioned_write_flush_threshold = {_FLUSH_ROWS}")
            self._load_state(connection, new)
            for number, chunk in enumerate(chunks):
                progress.update("build features", number, len(chunks), chunk[-1])
                self._select_events(connection, [new[day].path for day in chunk])
                for name in DAILY_FILES:
                    self._stage(connection, name, chunk)
                built |= self._describe(connection, {day: new[day].source for day in chunk})
                if number < len(chunks) - 1:
                    for name in DAILY_FILES:
                        self._carry(connection, name, chunk)
            if chunks:
                self._refresh_base(connection, list(new))
        progress.update("build features", len(chunks), len(chunks))
        return built

    def prices(self) -> dict[str, FeatureDay]:
        """Stage what the catalogue says of prices anew, and return what it is; empty where it did not change."""
        source = self._tables.manifest().current["items"].sha256
        kept = self._kept.prices
        if any(file.source == source for file in kept.values()):
            return {}
        day = arrival_day(self._cut_off)
        known = [self._files.day_file("item_prices", other) for other in kept]
        with self._tables.connect(days=[]) as connection:
            query = item_prices_sql()
            if known:
                query = (
                    f"SELECT * FROM ({query}) AS shown ANTI JOIN read_parquet({quoted_list(known)}) AS known "
                    "USING (item_id, event_timestamp, created_timestamp)"
                )
            if day in kept:
                query = f"FROM read_parquet({quoted(self._files.day_file('item_prices', day))}) UNION ALL {query}"
            write_parquet(connection, query, self._files.staged("item_prices", day))
            rows, oldest = connection.execute(
                f"SELECT count(*), min(event_timestamp) FROM {_files([self._files.staged('item_prices', day)])}"
            ).fetchall()[0]
        return {
            day: FeatureDay(
                source=source,
                build=self.number,
                rows={"item_prices": rows},
                oldest={"item_prices": oldest} if rows else {},
            )
        }

    # Inside

    def _select_events(self, connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW new_events AS SELECT * FROM {_files(paths)} "
            f"WHERE created_timestamp <= {quoted(self._cut_off.isoformat())}::TIMESTAMPTZ"
        )

    def _load_state(self, connection: duckdb.DuckDBPyConnection, new: Mapping[str, DayEvents]) -> None:
        """Make the tables `<name>_state`: the newest row of each user and item that something new happened to."""
        for name, key in _KEYS.items():
            earlier = self._files.since_base(name, self._kept)
            query = empty_select(_SCHEMAS[name])
            if earlier and new:
                asked = f"(SELECT DISTINCT {key} FROM {_files([day.path for day in new.values()])})"
                query = _newest(key, f"(SELECT * FROM {_files(earlier)} SEMI JOIN {asked} USING ({key}))")
            connection.execute(f"CREATE TEMP TABLE {name}_state AS {query}")

    def _stage(self, connection: duckdb.DuckDBPyConnection, name: str, chunk: Sequence[str]) -> None:
        """Write one file a day of the chunk."""
        day = {"users": "created_timestamp", "item_statistics": "created_timestamp - INTERVAL 1 DAY"}[name]
        portions = self._portions(connection) if name == "users" else ["FROM new_events"]
        parts = self._files.staged(name, "parts").with_suffix("")
        for number, portion in enumerate(portions):
            connection.execute(f"CREATE OR REPLACE TEMP VIEW portion AS {portion}")
            (parts / str(number)).mkdir(parents=True)
            connection.execute(
                f"COPY (SELECT *, strftime({day}, '%Y-%m-%d') AS arrival_day FROM ({self._queries[name]})) "
                f"TO {quoted(parts / str(number))} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (arrival_day))"
            ).fetchall()
            if written := sorted((parts / str(number)).rglob("*.parquet")) if 0 < number < len(portions) - 1 else []:
                newest = _newest("user_id", _files(written))
                connection.execute(f"CREATE OR REPLACE TEMP TABLE next AS {newest}")
                connection.execute("DELETE FROM users_state WHERE user_id IN (SELECT user_id FROM next)")
                connection.execute("INSERT INTO users_state FROM next")
                connection.execute("DROP TABLE next")
        for arrived in chunk:
            pieces = sorted(parts.glob(f"*/arrival_day={arrived}/*.parquet"))
            if len(pieces) == 1:
                pieces[0].rename(self._files.staged(name, arrived))
            else:  # no usable event arrived, or several portions have the day
                query = f"SELECT * FROM {_files(pieces)}" if pieces else empty_select(_SCHEMAS[name])
                write_parquet(connection, query, self._files.staged(name, arrived))
        shutil.rmtree(parts)

    def _portions(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Return queries that together are the new events; each takes up where the one before ended.

        One portion is the rule. Users with very many events (a till, a robot) follow in portions of their own: every
        row that is computed holds a list of all events that its user has in the portion.
        """
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE busy AS "
            f"SELECT user_id FROM new_events GROUP BY user_id HAVING count(*) > {PORTION_EVENTS}"
        )
        if not scalar(connection, "SELECT count(*) FROM busy"):
            return ["FROM new_events"]
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE busy_events AS SELECT *, "
            f"count(*) OVER (PARTITION BY user_id ORDER BY created_timestamp) // {PORTION_EVENTS} AS place "
            "FROM new_events SEMI JOIN busy USING (user_id)"
        )
        places = connection.execute("SELECT DISTINCT place FROM busy_events ORDER BY place").fetchall()
        busy = [f"SELECT * EXCLUDE (place) FROM busy_events WHERE place = {place}" for (place,) in places]
        return ["FROM new_events ANTI JOIN busy USING (user_id)", *busy]

    def _carry(self, connection: duckdb.DuckDBPyConnection, name: str, chunk: Sequence[str]) -> None:
        """Bring the state of a feature file to the end of the chunk."""
        key = _KEYS[name]
        staged = _files([self._files.staged(name, day) for day in chunk])
        connection.execute(f"CREATE TEMP TABLE next AS {_newest(key, staged)}")
        connection.execute(f"INSERT INTO next SELECT * FROM {name}_state ANTI JOIN next USING ({key})")
        connection.execute(f"DROP TABLE {name}_state")
        connection.execute(f"ALTER TABLE next RENAME TO {name}_state")

    def _describe(self, connection: duckdb.DuckDBPyConnection, sources: Mapping[str, str]) -> dict[str, FeatureDay]:
        rows: dict[str, dict[str, int]] = {day: {} for day in sources}
        oldest: dict[str, dict[str, datetime]] = {day: {} for day in sources}
        for name in DAILY_FILES:
            staged = quoted_list(self._files.staged(name, day) for day in sources)
            found = {
                Path(path).stem: (count, first)
                for path, count, first in connection.execute(
                    "SELECT filename, count(*), min(event_timestamp) "
                    f"FROM read_parquet({staged}, filename = true) GROUP BY filename"
                ).fetchall()
            }
            for day in sources:
                rows[day][name], first = found.get(day, (0, None))
                if first is not None:
                    oldest[day][name] = first
        return {
            day: FeatureDay(source=source, build=self.number, rows=rows[day], oldest=oldest[day])
            for day, source in sources.items()
        }

    def _refresh_base(self, connection: duckdb.DuckDBPyConnection, new: Sequence[str]) -> None:
        """Write the newest rows before the last day, where too many day files have come since the last time.

        The last day itself is likely to be touched again.
        """
        between = [day for day in [*self._kept.days, *new][:-1] if self.base_day is None or day > self.base_day]
        if len(between) <= BASE_DAYS:
            return
        for name, key in _KEYS.items():
            if self._kept.days:
                staged = [self._files.staged(name, day) for day in new if day <= between[-1]]
                query = _newest(key, _files([*self._files.since_base(name, self._kept), *staged]))
            else:
                query = f"SELECT * FROM {name}_state"  # all days were built in this run, the last one by itself
            target = self._files.base_file(name, self.number)
            target.unlink(missing_ok=True)
            write_parquet(connection, query, target)
        self.base_day, self.base_build = between[-1], self.number


def _chunks(new: Mapping[str, DayEvents]) -> list[list[str]]:
    """Cut the days into runs of consecutive ones that are small enough; the last day is by itself."""
    chunks: list[list[str]] = []
    rows, newest = 0, max(new, default="")
    for day, events in new.items():
        last = day == newest
        full = rows + events.rows > _CHUNK_ROWS or (
            chunks and date.fromisoformat(day) - date.fromisoformat(chunks[-1][0]) > _CHUNK_SPAN
        )
        if not chunks or last or full:
            chunks.append([])
            rows = 0
        chunks[-1].append(day)
        rows += events.rows
    return chunks


def _newest(key: str, relation: str) -> str:
    """Return a query: the newest row of each key in a relation of feature rows."""
    return (
        f"SELECT * FROM {relation} SEMI JOIN "
        f"(SELECT {key}, max(created_timestamp) AS created_timestamp FROM {relation} GROUP BY {key}) "
        f"USING ({key}, created_timestamp)"
    )


def _files(paths: Iterable[Path]) -> str:
    return f"read_parquet({quoted_list(paths)}, hive_partitioning = false)"
