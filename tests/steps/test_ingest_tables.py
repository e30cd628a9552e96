"""What `ingest_tables` reads, and what a second call changes."""

import json
import shutil
from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import PreparationConfig
from pipelines.errors import ConfigError, DataError
from pipelines.progress import SilentProgress
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import EVENTS
from pipelines.sources.tables import TablesSource
from pipelines.steps.ingest_tables import REPLAYED_IN_VAIN, STAMPED_BEFORE, ingest_tables
from pipelines.stores.event_log import EventLog
from pipelines.stores.table_store import REJECTIONS
from tests.toys.catalogue import (
    KEY,
    NOW,
    START,
    NoEvents,
    empty_tables,
    toy_catalogue,
    toy_tables,
    toy_window,
    user_pseudonym,
    write_csv,
)
from tests.toys.catalogue import pseudonymizer as toy_pseudonymizer


def ingest(tables, mapping, *, until, event_log=None, pseudonymizer=None, preparation=None, lookback=timedelta(days=1)):
    return ingest_tables(
        TablesSource(mapping, lookback=lookback),
        tables=tables,
        event_log=event_log or NoEvents(),
        pseudonymizer=pseudonymizer or toy_pseudonymizer(),
        preparation=preparation or PreparationConfig(),
        late_days=30,
        until=until,
        progress=SilentProgress(),
    )


def click(event_id, item_id, at):
    return {
        "event_id": event_id,
        "user_id": user_pseudonym(0),
        "event_type": "click",
        "item_id": item_id,
        "event_timestamp": at,
        "created_timestamp": at,
    }


class Log:
    """An event log in memory."""

    def __init__(self, *events):
        self.table = pa.Table.from_pylist(list(events), schema=EVENTS)

    def read_from(self, cursor, until, *, since=None):
        start = cursor["place"] if cursor else 0
        rows = [row for row in self.table.to_pylist()[start:] if row["created_timestamp"] <= until]
        return pa.Table.from_pylist(rows, schema=EVENTS).to_batches(), {"place": start + len(rows)}


def test_first_window_holds_the_whole_shop(tmp_path):
    _, window = toy_window(tmp_path)
    assert window.rows == {"items": 60, "events": 1500, "users": 30}
    assert (window.since, window.until) == (None, NOW)


def test_rows_keep_the_order_of_their_file(tmp_path):
    _, window = toy_window(tmp_path)
    rows = pq.read_table(window.folder / "events.parquet")["row_number"].to_pylist()
    assert rows == list(range(1, 1_501))


def test_error_of_a_broken_file_does_not_repeat_its_rows(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    with (tmp_path / "shop" / "sales.csv").open("a", newline="") as file:
        file.write("one,Jane Doe of 5 Main Street,too,few\r\n")
    with pytest.raises(DataError) as failure:
        ingest(empty_tables(tmp_path), mapping, until=NOW)
    assert "sales.csv" in str(failure.value) and "1502" in str(failure.value).replace(",", "")
    assert "Jane" not in str(failure.value)


def test_error_of_mixed_line_ends_names_the_file(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    with (tmp_path / "shop" / "sales.csv").open("ab") as file:
        file.write(b"one,two,three\rfour\r\n")
    with pytest.raises(DataError, match=r"sales\.csv"):
        ingest(empty_tables(tmp_path), mapping, until=NOW)


def test_tables_equal_the_contract_form_of_the_shop(tmp_path):
    shop = toy_catalogue()
    with toy_tables(tmp_path).connect() as connection:
        for table, key in (("items", "item_id"), ("events", "event_id"), ("users", "user_id")):
            found = connection.sql(f"SELECT * FROM {table} ORDER BY {key}").to_arrow_table()
            wanted = getattr(shop, table).sort_by(key)
            assert found.schema.types == wanted.schema.types
            assert found.to_pylist() == wanted.to_pylist()


def test_no_raw_user_id_reaches_the_disk(tmp_path):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={})
    for file in [*tables.folder.rglob("*.parquet"), *tables.ingested.rglob("*.parquet")]:
        for row in duckdb.sql(f"SELECT * FROM read_parquet('{file}')").fetchall():
            assert not any("customer " in str(value) for value in row)


def test_pseudonyms_depend_on_the_key(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    users = []
    for name, key in (("one", KEY), ("other", b"another key of 16 bytes and more")):
        window = ingest(empty_tables(tmp_path / name), mapping, until=NOW, pseudonymizer=Pseudonymizer(key))
        users.append(
            duckdb.sql(f"SELECT DISTINCT user_id FROM read_parquet('{window.folder}/events.parquet')").fetchall()
        )
    assert len(users[0]) == len(users[1]) == 30
    assert not set(users[0]) & set(users[1])


def test_two_first_windows_that_overlap_add_each_event_once(tmp_path):
    tables = empty_tables(tmp_path)
    mapping = write_csv(tmp_path / "shop")
    windows = [ingest(tables, mapping, until=until) for until in (START + timedelta(days=30), NOW)]
    assert [window.since for window in windows] == [None, None]
    for window in windows:
        tables.accept(window, rejections={})
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*), count(DISTINCT event_id) FROM events").fetchall() == [(1500, 1500)]


def test_second_window_without_news_is_empty(tmp_path):
    tables = toy_tables(tmp_path)
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1))
    assert window.rows == {}
    assert window.since == NOW


def test_rows_that_arrive_later_form_the_next_window(tmp_path):
    tables = empty_tables(tmp_path)
    mapping = write_csv(tmp_path / "shop")
    halfway = START + timedelta(days=30)
    first = ingest(tables, mapping, until=halfway)
    tables.accept(first, rejections={})
    second = ingest(tables, mapping, until=NOW)
    assert second.rows.keys() == {"events"}
    assert first.rows["events"] + second.rows["events"] == 1500


def test_events_of_the_service_join_the_window(tmp_path):
    tables = toy_tables(tmp_path)
    log = Log(click("e1", "item-03", NOW + timedelta(minutes=5)), click("e2", "item-04", NOW + timedelta(hours=2)))
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1), event_log=log)
    assert window.rows == {"events": 1}
    with tables.connect() as connection:
        found = connection.sql(
            f"SELECT event_id, source FROM read_parquet('{window.folder}/events.parquet')"
        ).fetchall()
    assert found == [("e1", "event_log")]


def test_event_log_on_disk_is_read(tmp_path):
    tables = toy_tables(tmp_path)
    log = EventLog(tmp_path / "log", clock=lambda: NOW + timedelta(minutes=10))
    log.append([{**click("e1", "item-03", NOW + timedelta(minutes=5)), "created_timestamp": None}])
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(minutes=10), event_log=log)
    assert window.rows == {"events": 1}


def test_event_that_a_client_sent_twice_is_read_once(tmp_path):
    tables = toy_tables(tmp_path)
    moments = [NOW + timedelta(minutes=minute) for minute in (5, 6)]
    log = Log(click("e1", "item-03", moments[0]), click("e1", "item-03", moments[1]))
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1), event_log=log)
    with tables.connect() as connection:
        found = connection.sql(
            f"SELECT event_id, event_timestamp FROM read_parquet('{window.folder}/events.parquet')"
        ).fetchall()
    assert found == [("e1", moments[0])]


def test_event_that_was_accepted_lately_is_not_read_again(tmp_path):
    tables = toy_tables(tmp_path)
    with tables.connect() as connection:
        ((known,),) = connection.sql("SELECT max_by(event_id, created_timestamp) FROM events").fetchall()
    log = Log(click(known, "item-03", NOW + timedelta(minutes=5)))
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1), event_log=log)
    assert window.rows == {}


def test_event_log_goes_on_from_its_cursor(tmp_path):
    tables = toy_tables(tmp_path)
    mapping = tmp_path / "shop" / "mapping.yaml"
    moments = [NOW + timedelta(minutes=minute) for minute in (5, 90)]
    log = Log(click("e1", "item-03", moments[0]), click("e2", "item-04", moments[1]))
    tables.accept(ingest(tables, mapping, until=NOW + timedelta(hours=1), event_log=log), rejections={})
    assert tables.source_state("event_log") == {"place": 1}
    window = ingest(tables, mapping, until=NOW + timedelta(hours=2), event_log=log)
    tables.accept(window, rejections={})
    assert window.rows == {"events": 1}
    assert tables.source_state("event_log") == {"place": 2}


def test_window_that_is_not_accepted_leaves_the_cursor(tmp_path):
    tables = toy_tables(tmp_path)
    log = Log(click("e1", "item-03", NOW + timedelta(minutes=5)))
    for hours in (1, 2):
        window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=hours), event_log=log)
        assert window.rows == {"events": 1}


def test_mended_rows_of_quarantine_arrive_with_the_next_window_and_only_once(tmp_path):
    tables, window = toy_window(tmp_path)
    aside = pa.table({"row_id": [0], "rule": ["value"], "reason": ["value is wrong"]}, schema=REJECTIONS)
    tables.accept(window, rejections={"events": aside})
    mapping = without_arrival(tmp_path / "shop" / "mapping.yaml")
    assert ingest(tables, mapping, until=NOW + timedelta(hours=1)).rows == {}
    (found,) = tables.quarantine_files("events")
    mended = pq.read_table(found).drop_columns(["rule", "reason"])
    mended = mended.set_column(mended.column_names.index("value"), "value", pa.array([2.5]))
    folder = tables.quarantine / "replay" / "a1b2"
    folder.mkdir(parents=True)
    pq.write_table(mended, folder / "events.parquet")
    until = NOW + timedelta(hours=2)
    again = ingest(tables, mapping, until=until)
    assert again.rows == {"events": 1}
    tables.accept(again, rejections={})
    with tables.connect() as connection:
        accepted = connection.sql("SELECT value, created_timestamp FROM events WHERE event_id = 'sale-00-00-0'")
        assert accepted.fetchall() == [(2.5, until)]
    assert tables.pending_replays() == []
    assert folder.exists()
    shutil.copytree(folder, folder.with_name("c3d4"))
    in_vain = ingest(tables, mapping, until=NOW + timedelta(hours=3))
    assert (in_vain.rows, in_vain.removed) == ({}, {REPLAYED_IN_VAIN: 1})
    assert ingest(tables, mapping, until=NOW + timedelta(hours=3)).rows == {}


def test_mended_item_of_quarantine_joins_the_catalogue(tmp_path):
    tables, window = toy_window(tmp_path)
    aside = pa.table({"row_id": [0], "rule": ["price"], "reason": ["price is wrong"]}, schema=REJECTIONS)
    tables.accept(window, rejections={"items": aside})
    (found,) = tables.quarantine_files("items")
    mended = pq.read_table(found).drop_columns(["rule", "reason"])
    folder = tables.quarantine / "replay" / "a1b2"
    folder.mkdir(parents=True)
    pq.write_table(mended, folder / "items.parquet")
    again = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1))
    assert again.rows == {"items": 1}
    tables.accept(again, rejections={})
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM items").fetchall() == [(60,)]


def test_rules_of_preparation_are_applied_and_counted(tmp_path):
    tables = toy_tables(tmp_path)
    moments = [NOW + timedelta(seconds=second) for second in (1, 2, 60)]
    log = Log(*(click(f"e{number}", "item-03", moment) for number, moment in enumerate(moments)))
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1), event_log=log)
    assert window.rows == {"events": 2}
    assert window.removed == {"events: repeat within 2 s": 1}
    assert tables.accept(window, rejections={}).removed == window.removed


def test_same_window_twice_gives_the_same_files(tmp_path):
    _, window = toy_window(tmp_path)
    before = (window.folder / "events.parquet").read_bytes()
    assert toy_window(tmp_path)[1] == window
    assert (window.folder / "events.parquet").read_bytes() == before


def test_window_that_was_accepted_is_returned_again(tmp_path):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={})
    assert ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW) == window


def test_earlier_moment_than_the_accepted_one_reads_nothing(tmp_path):
    tables = toy_tables(tmp_path)
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW - timedelta(days=1))
    assert window.until == NOW
    assert tables.accept(window, rejections={}).accepted == {"items": 60, "events": 1500, "users": 30}


def test_another_key_than_that_of_the_tables_is_refused(tmp_path):
    tables = toy_tables(tmp_path)
    mapping = tmp_path / "shop" / "mapping.yaml"
    other = Pseudonymizer(b"another key, long enough")
    with pytest.raises(ConfigError) as failure:
        ingest(tables, mapping, until=NOW + timedelta(hours=1), pseudonymizer=other)
    own = toy_pseudonymizer().fingerprint
    assert tables.manifest().pseudonym_key == own
    assert str(failure.value) == (
        f"The pseudonym key has the fingerprint {other.fingerprint}, but the tables in {tables.folder} were written "
        f"with the key of fingerprint {own}: set HEADRACE_PSEUDONYM_KEY to that key or put its file back."
    )


def test_tables_of_an_older_version_learn_their_key_with_the_next_window(tmp_path):
    tables = toy_tables(tmp_path)
    path = tables.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["pseudonym_key"]
    path.write_text(json.dumps(manifest))
    window = ingest(tables, tmp_path / "shop" / "mapping.yaml", until=NOW + timedelta(hours=1))
    assert tables.manifest().pseudonym_key is None
    tables.accept(window, rejections={})
    assert tables.manifest().pseudonym_key == toy_pseudonymizer().fingerprint


def test_first_window_without_events_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no events up to 2026-01-01 00:00 UTC"):
        ingest(empty_tables(tmp_path), write_csv(tmp_path / "shop"), until=START)
    assert not list((tmp_path / "ingested").iterdir())


def without_arrival(mapping):
    """Take the columns that say when a row arrived out of the mapping."""
    text = (
        mapping.read_text()
        .replace("    created_timestamp: at\n", "")
        .replace('constants: {currency: EUR, updated_at: "2026-01-01T00:00:00+00:00"}', "constants: {currency: EUR}")
    )
    mapping.write_text(text)
    return mapping


def test_late_row_of_a_file_without_arrival_times_is_found(tmp_path):
    tables = empty_tables(tmp_path)
    mapping = without_arrival(write_csv(tmp_path / "shop"))
    tables.accept(ingest(tables, mapping, until=NOW), rejections={})
    with (tmp_path / "shop" / "sales.csv").open("a", newline="\r\n") as file:
        file.write(f"late,customer 1,receipt-late,purchase,item-05,1.50,{START.isoformat()}\n")
    until = NOW + timedelta(hours=1)
    window = ingest(tables, mapping, until=until)
    assert window.rows == {"events": 1}
    tables.accept(window, rejections={})
    with tables.connect() as connection:
        found = connection.sql(
            "SELECT event_timestamp, created_timestamp FROM events WHERE event_id = 'late'"
        ).fetchall()
    assert found == [(START, until)]


@pytest.mark.parametrize("arrival", [pytest.param("", id="absent"), pytest.param("soon", id="unreadable")])
def test_row_without_an_arrival_is_read_once_however_long_ago_that_was(tmp_path, arrival):
    tables = empty_tables(tmp_path)
    mapping = write_csv(tmp_path / "shop")
    mapping.write_text(mapping.read_text().replace("created_timestamp: at", "created_timestamp: arrived"))
    sales = tmp_path / "shop" / "sales.csv"
    head, first, *others = sales.read_text().splitlines()
    dated = [f"{line},{line.rsplit(',', 1)[1]}" for line in others]
    sales.write_text("\n".join([f"{head},arrived", f"{first},{arrival}", *dated]))
    window = ingest(tables, mapping, until=NOW)
    aside = pa.table({"row_id": [0], "rule": ["readable"], "reason": ["not readable"]}, schema=REJECTIONS)
    tables.accept(window, rejections={"events": aside} if arrival else {})
    for days in (1, 90, 180):
        window = ingest(tables, mapping, until=NOW + timedelta(days=days))
        assert window.rows == {}
        tables.accept(window, rejections={})


def sold(shop, line, at, *, kind="purchase", item="item-05"):
    """Add a line to the shop's sales."""
    with (shop / "sales.csv").open("a", newline="\r\n") as file:
        file.write(f"{line},customer 1,receipt-{line},{kind},{item},1.50,{at.isoformat()}\n")


def test_row_that_turns_up_after_its_own_stamp_arrives_when_it_is_seen_and_once(tmp_path):
    tables = toy_tables(tmp_path)
    sold(tmp_path / "shop", "slow", NOW - timedelta(hours=2))
    mapping = tmp_path / "shop" / "mapping.yaml"
    until = NOW + timedelta(hours=1)
    window = ingest(tables, mapping, until=until)
    assert (window.rows, window.mended) == ({"events": 1}, {STAMPED_BEFORE: 1})
    tables.accept(window, rejections={})
    with tables.connect() as connection:
        found = connection.sql("SELECT created_timestamp FROM events WHERE event_id = 'slow'").fetchall()
    assert found == [(until,)]
    again = ingest(tables, mapping, until=NOW + timedelta(hours=2))
    assert (again.rows, again.mended, again.removed) == ({}, {}, {})


def test_row_stamped_before_the_lookback_is_not_seen(tmp_path):
    tables = toy_tables(tmp_path)
    sold(tmp_path / "shop", "slow", NOW - timedelta(hours=2))
    mapping = tmp_path / "shop" / "mapping.yaml"
    assert ingest(tables, mapping, until=NOW + timedelta(hours=1), lookback=timedelta(hours=1)).rows == {}


def test_broken_and_merged_rows_do_not_come_back_with_the_lookback(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    for second in (0, 1, 2):  # the third is no repeat of the first, only of the second
        sold(tmp_path / "shop", f"view-{second}", NOW - timedelta(minutes=5, seconds=-1.5 * second), kind="view")
    tables = empty_tables(tmp_path)
    window = ingest(tables, mapping, until=NOW)
    assert window.removed == {"events: repeat within 2 s": 2}
    ids = pq.read_table(window.folder / "events.parquet")["event_id"].to_pylist()
    aside = {"row_id": [ids.index("view-0")], "rule": ["value"], "reason": ["value is wrong"]}
    tables.accept(window, rejections={"events": pa.table(aside, schema=REJECTIONS)})
    again = ingest(tables, mapping, until=NOW + timedelta(hours=1))
    assert (again.rows, again.mended, again.removed) == ({}, {}, {})


def test_item_that_turns_up_after_its_own_stamp_is_read_and_an_older_one_is_not(tmp_path):
    mapping = write_csv(tmp_path / "shop")
    items = tmp_path / "shop" / "items.csv"
    header, *lines = items.read_text().splitlines()
    text = mapping.read_text().replace(', updated_at: "2026-01-01T00:00:00+00:00"', "")
    mapping.write_text(text.replace("price: eur}", "price: eur, updated_at: changed}"))

    def write(changes):
        text = [f"{header},changed"]
        text += [f"{line},{changes.get(number, NOW - timedelta(hours=3))}" for number, line in enumerate(lines)]
        items.write_text("\n".join(text) + "\n")

    write({})
    tables = empty_tables(tmp_path)
    tables.accept(ingest(tables, mapping, until=NOW), rejections={})
    write({0: NOW - timedelta(hours=1), 1: NOW - timedelta(hours=4)})
    window = ingest(tables, mapping, until=NOW + timedelta(hours=1))
    assert window.rows == {"items": 1}
    assert pq.read_table(window.folder / "items.parquet")["item_id"].to_pylist() == ["item-00"]


def test_only_changed_items_of_a_catalogue_without_dates_are_read(tmp_path):
    tables = empty_tables(tmp_path)
    mapping = without_arrival(write_csv(tmp_path / "shop"))
    tables.accept(ingest(tables, mapping, until=NOW), rejections={})
    items = tmp_path / "shop" / "items.csv"
    items.write_text(items.read_text().replace("Apple, fruit", "Green apple, fruit"))
    window = ingest(tables, mapping, until=NOW + timedelta(hours=1))
    assert window.rows == {"items": 1}
    tables.accept(window, rejections={})
    with tables.connect() as connection:
        assert connection.sql("SELECT title FROM items WHERE item_id = 'item-00'").fetchall() == [
            ("Green apple, fruit, 100 g",)
        ]
        assert connection.sql("SELECT count(*) FROM items").fetchall() == [(60,)]


def test_second_row_of_a_known_item_comes_with_the_first_once(tmp_path):
    tables = empty_tables(tmp_path)
    mapping = without_arrival(write_csv(tmp_path / "shop"))
    tables.accept(ingest(tables, mapping, until=NOW), rejections={})
    items = tmp_path / "shop" / "items.csv"
    known = items.read_text().splitlines()[1]
    with items.open("a", newline="") as file:
        file.write(known.replace("Apple, fruit", "Green apple, fruit") + "\r\n")
    window = ingest(tables, mapping, until=NOW + timedelta(hours=1))
    rows = pq.read_table(window.folder / "items.parquet").to_pylist()
    assert [(row["item_id"], row["title"]) for row in rows] == [
        ("item-00", "Apple, fruit, 100 g"),
        ("item-00", "Green apple, fruit, 100 g"),
    ]
    aside = pa.table({"row_id": [1], "rule": ["is_first"], "reason": ["twice"]}, schema=REJECTIONS)
    tables.accept(window, rejections={"items": aside})
    assert ingest(tables, mapping, until=NOW + timedelta(hours=2)).rows == {}


def test_events_without_ids_get_the_same_id_each_time(tmp_path):
    mapping = without_arrival(write_csv(tmp_path / "shop"))
    mapping.write_text(mapping.read_text().replace("    event_id: line\n", ""))
    tables = empty_tables(tmp_path)
    window = ingest(tables, mapping, until=NOW)
    tables.accept(window, rejections={})
    with tables.connect() as connection:
        assert connection.sql("SELECT count(DISTINCT event_id) FROM events").fetchall() == [(1500,)]
    assert ingest(tables, mapping, until=NOW + timedelta(hours=1)).rows == {}
