"""Rows of the SQLite online store beside others that use its file."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from pipelines.stores.sqlite_rows import SqliteRows, ViewTable

VIEW = ViewTable("view", "user_id", {"n_events": "int64_val"})
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
ROW = {"user_id": "u", "n_events": 3, "event_timestamp": WHEN, "created_timestamp": WHEN}


@pytest.fixture
def database(tmp_path):
    """A file whose readers keep writers from their last step, as one that was copied back without its log of writes."""
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as database:
        database.execute(
            "CREATE TABLE view (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, event_ts TIMESTAMP,"
            " created_ts TIMESTAMP, PRIMARY KEY (entity_key, feature_name))"
        )
        assert database.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        yield database


def test_who_may_not_wait_is_told_of_a_reader_and_nothing_is_written(database, tmp_path):
    rows = SqliteRows(tmp_path / "online.db", [VIEW])
    database.execute("BEGIN")
    database.execute("SELECT * FROM view").fetchall()
    with pytest.raises(BlockingIOError), rows.turn(waits=False):
        rows.write([ROW])
    database.execute("ROLLBACK")
    assert database.execute("SELECT * FROM view").fetchall() == []
    with rows.turn(waits=False):
        rows.write([ROW])
    assert database.execute("SELECT feature_name, value_text FROM view").fetchall() == [("n_events", "3")]


def test_a_table_that_is_not_there_is_an_error_of_its_own(database, tmp_path):
    database.execute("DROP TABLE view")
    rows = SqliteRows(tmp_path / "online.db", [VIEW])
    with pytest.raises(sqlite3.OperationalError, match="no such table"), rows.turn(waits=False):
        rows.write([ROW])
