"""Rows of Feast's SQLite online store, those of several views in one transaction.

Feast writes each view in a transaction of its own and each feature with a call of its own, which takes three times as
long. What is written here is what Feast writes, byte for byte; a test reads both.
"""

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.stores.feast_values import proto_value

_WAIT_MS = 5_000
"""Longest wait for another writer, as Feast has it."""
_AS_TEXT = frozenset({"string_val", "int64_val", "int32_val", "double_val", "float_val", "bool_val"})
"""Kinds that Feast also writes as text, to search in them."""
_LENGTHS = struct.Struct("<II")
_COLUMNS = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")


@dataclass(frozen=True)
class ViewTable:
    """Where a view lies."""

    name: str
    """Of the table."""
    join_key: str
    """Column of a row that says which entity it is; text."""
    kinds: Mapping[str, str]
    """Feature -> the field of Feast's `Value` that holds it."""

    @property
    def upsert(self) -> str:
        """SQL that replaces the value of one feature of one entity."""
        columns = ", ".join(_COLUMNS)
        changed = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])
        return (
            f'INSERT INTO "{self.name}" ({columns}) VALUES (?, ?, ?, ?, ?, ?) '
            f"ON CONFLICT(entity_key, feature_name) DO UPDATE SET {changed}"
        )


class SqliteRows:
    """Writes to some views; for one thread at a time."""

    def __init__(self, file: Path, tables: Iterable[ViewTable]) -> None:
        """Open the file; nothing is created."""
        from feast.infra.key_encoding_utils import serialize_entity_key_prefix
        from feast.protos.feast.types.Value_pb2 import ValueType

        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=_WAIT_MS / 1e3)
        # Otherwise each write waits for the disk; what a power cut takes away is in the event log.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._waits = True
        self._text_type = int(ValueType.STRING)
        self._tables = [
            (table, table.upsert, serialize_entity_key_prefix([table.join_key], entity_key_serialization_version=3))
            for table in tables
        ]

    @contextmanager
    def turn(self, *, waits: bool) -> Iterator[None]:
        """Keep other writers out; what was not written to the end is taken back.

        Raises:
            BlockingIOError: another one writes, or reads where the file has no log of writes; and `waits` is false.
            sqlite3.OperationalError: another one does not end within seconds.
        """
        if waits != self._waits:
            self._database.execute(f"PRAGMA busy_timeout = {_WAIT_MS if waits else 0}")
            self._waits = waits
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
        except sqlite3.OperationalError as error:
            if waits or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise BlockingIOError("another process uses the online store") from error
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows to all views and end the turn."""
        rows = list(rows)
        for table, upsert, prefix in self._tables:
            self._database.executemany(upsert, self._cells(table, prefix, rows))
        self._database.execute("COMMIT")

    def _cells(
        self, table: ViewTable, prefix: bytes, rows: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[bytes, str, bytes, str | None, int, int]]:
        """Yield one row of the table for each feature."""
        for row in rows:
            entity = row[table.join_key].encode()
            key = prefix + _LENGTHS.pack(self._text_type, len(entity)) + entity
            happened, created = _seconds(row["event_timestamp"]), _seconds(row["created_timestamp"])
            for name, kind in table.kinds.items():
                value = proto_value(row[name], kind)
                text = str(getattr(value, kind)) if kind in _AS_TEXT and row[name] is not None else None
                yield key, name, value.SerializeToString(), text, happened, created


def _seconds(moment: datetime) -> int:
    """Return a time as Feast's adapter does, which takes UTC for local time; its reader does so the other way."""
    return int(moment.astimezone(UTC).replace(tzinfo=None).timestamp())
