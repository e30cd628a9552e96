"""What the tables hold after windows were accepted, and after a call was killed."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import DataError, StoreError
from pipelines.schemas import IngestedWindow
from pipelines.stores.files import write_text
from pipelines.stores.table_store import REJECTIONS, window_id
from tests.toys.catalogue import NOW, START, empty_tables, toy_tables, toy_window, user_pseudonym
from tests.toys.event_tables import event, tables_with

DAY = timedelta(days=1)


def rejected(*rows):
    return pa.Table.from_pylist(
        [{"row_id": row, "rule": rule, "reason": reason} for row, rule, reason in rows], schema=REJECTIONS
    )


def state(tables):
    """Everything below the tables folder, by content."""
    return {
        str(file.relative_to(tables.folder)): file.read_bytes() for file in tables.folder.rglob("*") if file.is_file()
    }


def test_window_ids_sort_by_time():
    moments = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=n) for n in (0, 1, 500_000, 1_000_000, 10**12)]
    assert sorted(map(window_id, moments)) == [window_id(moment) for moment in moments]


def test_nothing_accepted_yet_names_the_command(tmp_path):
    tables = empty_tables(tmp_path)
    assert tables.accepted_until() is None
    for call in (tables.connect, tables.fingerprint, lambda: tables.items_path):
        with pytest.raises(DataError, match="run `headrace ingest_tables`"):
            call()


def test_rejected_rows_go_to_quarantine_with_their_reasons(tmp_path):
    tables, window = toy_window(tmp_path)
    rows = rejected((0, "value", "value is wrong"), (0, "item", "item is wrong"), (7, "item", "item is wrong"))
    result = tables.accept(window, rejections={"events": rows})
    assert result.accepted["events"] == 1498
    assert result.quarantined == {"events": 2}
    assert result.reasons == {"events: item is wrong": 2, "events: value is wrong": 1}
    found = pq.read_table(tables.quarantine / window.window / "events.parquet").to_pylist()
    assert [(row["row_number"], row["source"], row["rule"], row["event_id"]) for row in found] == [
        (1, "sales.csv", "item", "sale-00-00-0"),
        (1, "sales.csv", "value", "sale-00-00-0"),
        (8, "sales.csv", "item", "sale-24-00-1"),
    ]


def test_quarantined_rows_are_not_in_the_tables(tmp_path):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={"events": rejected((0, "value", "value is wrong"))})
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM events WHERE event_id = 'sale-00-00-0'").fetchall() == [(0,)]


def test_each_arrival_day_is_a_file_sorted_by_arrival_then_time_then_id(tmp_path):
    tables = toy_tables(tmp_path)
    days = tables.event_days()
    assert list(days) == sorted(days)
    rows = 0
    for day in days:
        events = pq.read_table(tables.event_file(day)).to_pylist()
        assert {event["created_timestamp"].date().isoformat() for event in events} == {day}
        keys = [(event["created_timestamp"], event["event_timestamp"], event["event_id"]) for event in events]
        assert keys == sorted(keys)
        assert days[day].rows == len(events)
        rows += len(events)
    assert rows == 1500


def test_next_window_rewrites_only_the_days_it_touches(tmp_path):
    tables = toy_tables(tmp_path)
    before = tables.event_days()
    newest = list(before)[-1]
    moment = datetime.fromisoformat(newest).replace(tzinfo=UTC) + timedelta(hours=23)
    tables_with(tmp_path, [event("u", "item-01", moment), event("u", "item-02", moment + DAY)], until=NOW + DAY)
    after = tables.event_days()
    assert {day for day in after if after[day] != before.get(day)} == {newest, (moment + DAY).date().isoformat()}
    assert after[newest].rows == before[newest].rows + 1
    with tables.connect(days=[newest]) as connection:
        assert connection.sql("SELECT count(*) FROM events").fetchall() == [(after[newest].rows,)]


def test_replaced_files_stay_for_their_readers_until_the_next_window(tmp_path):
    tables = toy_tables(tmp_path)
    newest = list(tables.event_days())[-1]
    old = tables.event_file(newest)
    moment = datetime.fromisoformat(newest).replace(tzinfo=UTC)
    tables_with(tmp_path, [event("u", "item-01", moment)], until=NOW + DAY)
    assert tables.event_file(newest) != old
    assert old.exists()
    tables_with(tmp_path, [event("u", "item-01", NOW + DAY)], until=NOW + 2 * DAY)
    assert not old.exists()


def test_windows_that_were_read_side_by_side_do_not_double_events(tmp_path):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={})
    beside = IngestedWindow(
        **{**window.model_dump(), "window": window_id(NOW + DAY), "since": START, "until": NOW + DAY}
    )
    assert tables.accept(beside, rejections={}).accepted["events"] == 0
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM events").fetchall() == [(1500,)]


def test_manifest_is_parsed_once_and_again_when_another_writer_replaced_it(tmp_path):
    tables = toy_tables(tmp_path)
    before = tables.manifest()
    assert tables.manifest() is before
    tables_with(tmp_path, [event("u", "item-01", NOW)], until=NOW + DAY)
    assert tables.manifest().accepted_until == NOW + DAY
    assert before.accepted_until == NOW


def test_tables_of_another_format_name_the_way_out(tmp_path):
    tables = toy_tables(tmp_path)
    path = tables.folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(StoreError, match=r"has the format 1, this version reads 2: move .* away"):
        tables.fingerprint()


def test_accepting_twice_changes_nothing(tmp_path):
    tables, window = toy_window(tmp_path)
    first = tables.accept(window, rejections={})
    before = state(tables)
    assert tables.accept(window, rejections={}) == first
    assert state(tables) == before


def test_same_content_has_the_same_fingerprint(tmp_path):
    assert toy_tables(tmp_path / "one").fingerprint() == toy_tables(tmp_path / "two").fingerprint()


def test_fewer_events_have_another_fingerprint(tmp_path):
    tables, window = toy_window(tmp_path / "two")
    tables.accept(window, rejections={"events": rejected((0, "value", "value is wrong"))})
    assert tables.fingerprint() != toy_tables(tmp_path / "one").fingerprint()


def test_call_killed_before_the_manifest_leaves_the_old_state(tmp_path):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={})
    undisturbed = state(tables)
    fingerprint = tables.fingerprint()
    (tables.quarantine / "20260303T000000.000000Z").mkdir(parents=True)
    # The same as if it had been killed after the files and before the manifest, in a window that never came back.
    stranger = tables.folder / "events" / f"2026-03-03.{window_id(NOW + timedelta(hours=1))}.parquet"
    stranger.write_bytes(tables.event_file(next(iter(tables.event_days()))).read_bytes())
    assert tables.fingerprint() == fingerprint
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM events").fetchall() == [(1500,)]
    write_text(tables.folder / "manifest.json", "{}")  # and here: before the manifest was ever written
    tables.accept(window, rejections={})
    assert state(tables) == undisturbed
    assert not list(tables.quarantine.iterdir())


def test_empty_window_moves_the_clock_and_not_the_fingerprint(tmp_path):
    tables = toy_tables(tmp_path)
    fingerprint = tables.fingerprint()
    later, window = toy_window(tmp_path, until=NOW + timedelta(hours=1))
    assert window.rows == {}
    later.accept(window, rejections={})
    assert tables.accepted_until() == NOW + timedelta(hours=1)
    assert tables.fingerprint() == fingerprint
    assert len(tables.manifest().windows) == 1


def test_views_of_absent_tables_are_empty(tmp_path):
    with toy_tables(tmp_path).connect() as connection:
        assert connection.sql("SELECT count(*) FROM judgements").fetchall() == [(0,)]


def test_clock_of_the_views_is_utc(tmp_path):
    with toy_tables(tmp_path).connect() as connection:
        ((first,),) = connection.sql("SELECT min(event_timestamp) FROM events").fetchall()
    assert first == datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert first.utcoffset() == timedelta(0)


def test_users_have_pseudonyms_and_attributes(tmp_path):
    with toy_tables(tmp_path).connect() as connection:
        found = connection.execute(
            "SELECT attributes, consent FROM users WHERE user_id = ?", [user_pseudonym(1)]
        ).fetchall()
    assert found == [({"town": "Lower"}, True)]


def test_unreadable_manifest_is_reported(tmp_path):
    tables = toy_tables(tmp_path)
    (tables.folder / "manifest.json").write_text("not json")
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read"):
        tables.fingerprint()


def test_ingested_folder_that_is_gone_is_reported(tmp_path):
    tables, window = toy_window(tmp_path)
    (window.folder / "window.json").unlink()
    with pytest.raises(DataError, match="run `headrace ingest_tables` again"):
        tables.accept(window, rejections={})
