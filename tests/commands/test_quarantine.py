"""What was set aside is shown, exported, mended and fed back in, once."""

import csv
import json
import shutil
from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commands.quarantine import export, replay, show
from pipelines.errors import DataError
from pipelines.stores.quarantine import Wanted
from pipelines.stores.table_store import REJECTIONS
from tests.toys.catalogue import NOW, empty_tables, pseudonymizer, toy_tables, toy_window, user_pseudonym

UNKNOWN, WRONG, UNREADABLE = "item_id is not in items", "value is wrong", "a value has the wrong type"


def rejected(*rows):
    return pa.Table.from_pylist(
        [{"row_id": row, "rule": rule, "reason": reason} for row, rule, reason in rows], schema=REJECTIONS
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    home = tmp_path_factory.mktemp("shop")
    tables, window = toy_window(home)
    for table in ("events", "items"):
        path = window.folder / f"{table}.parquet"
        pq.write_table(pq.read_table(path).sort_by("row_number"), path)
    events = rejected((0, "item_is_known", UNKNOWN), (1, "item_is_known", UNKNOWN), (1, "value_believable", WRONG))
    tables.accept(window, rejections={"events": events, "items": rejected((59, "price_believable", WRONG))})
    return home


@pytest.fixture
def tables(shop, tmp_path):
    """Events 0 and 1 have an unknown item, 1 a wrong value as well; item 59 has a wrong value."""
    for name in ("tables", "quarantine", "shop"):
        shutil.copytree(shop / name, tmp_path / name)
    return empty_tables(tmp_path)


def lines(tables, wanted=None, **options):
    said: list[str] = []
    show(
        tables, wanted or Wanted(), rows=options.get("rows", 0), as_json=options.get("as_json", False), echo=said.append
    )
    return said


def send(tables, file=None, **wanted):
    said: list[str] = []
    replay(tables, file, Wanted(**wanted), pseudonymizer=pseudonymizer, echo=said.append)
    return said


def waiting(tables):
    """Return the rows of all replays that wait, by table."""
    return {
        table: pq.read_table(path).to_pylist()
        for waits in tables.pending_replays()
        for table, path in waits.files.items()
    }


def test_reasons_are_counted_by_window_and_table_with_what_to_do(tables):
    window = tables.manifest().windows[0].window
    said = lines(tables)
    assert said[0] == f"Window {window}, table events"
    assert said[1] == f"          2  {UNKNOWN} (rule item_is_known)"
    assert "replay these rows unchanged" in said[2]
    assert f"Window {window}, table items" in said


def test_examples_name_row_source_and_values(tables):
    said = lines(tables, Wanted(table="events", reason="NOT IN ITEMS"), rows=1)
    assert len(said) == 4
    assert "row 1 of sales.csv" in said[3] and '"event_id": "sale-00-00-0"' in said[3]


def test_json_has_one_object_a_reason(tables):
    found = [json.loads(line) for line in lines(tables, Wanted(table="events"), as_json=True, rows=5)]
    assert [(one["reason"], one["rows"], one["open"], len(one["examples"])) for one in found] == [
        (UNKNOWN, 2, 2, 2),
        (WRONG, 1, 1, 1),
    ]


def test_nothing_set_aside_says_so(tmp_path):
    assert lines(toy_tables(tmp_path)) == ["Nothing is set aside that fits."]


def test_folder_of_a_killed_step_is_not_shown(tables):
    stranger = tables.quarantine / "20270101T000000.000000Z"
    stranger.mkdir()
    (window,) = tables.manifest().windows
    (stranger / "events.parquet").write_bytes((tables.quarantine / window.window / "events.parquet").read_bytes())
    assert not any("20270101" in line for line in lines(tables))


def test_rows_replayed_unchanged_wait_and_are_no_longer_open(tables):
    said = send(tables, table="events", reason=UNKNOWN)
    assert said[0].startswith("2 rows of events are replayed (replay ")
    found = waiting(tables)["events"]
    assert [(row["row_number"], row["source"], row["unreadable"]) for row in found] == [
        (1, "sales.csv", None),
        (2, "sales.csv", None),
    ]
    said = lines(tables, Wanted(table="events"))
    assert said[1] == f"          2  {UNKNOWN} (rule item_is_known, 2 of them replayed)"
    assert "2 replayed rows wait" in said[-1]


def test_replaying_again_changes_nothing(tables):
    send(tables, table="events")
    before = waiting(tables)
    assert send(tables, table="events") == [
        "No open row is set aside that fits: `headrace quarantine show` lists what there is."
    ]
    assert waiting(tables) == before


def test_mended_csv_goes_back_in_with_a_pseudonym_for_a_raw_user(tables, tmp_path):
    file = tmp_path / "broken.csv"
    export(tables, file, Wanted(table="events", reason=WRONG), echo=lambda _: None)
    with file.open(newline="") as text:
        (row,) = csv.DictReader(text)
    assert row["reasons"] == WRONG
    kept = row["user_id"]
    row |= {"value": "2.5", "user_id": "customer 3", "reasons": ""}
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(row))
        writer.writeheader()
        writer.writerow(row)
    said = send(tables, file)
    assert said[0].startswith("1 rows of events are replayed")
    (found,) = waiting(tables)["events"]
    assert (found["value"], found["user_id"], found["row_number"]) == (2.5, user_pseudonym(3), 2)
    assert kept != user_pseudonym(3) and len(kept) == 32
    assert "were replayed before" in send(tables, file)[0]
    assert len(tables.pending_replays()) == 1


def test_row_that_was_never_set_aside_is_refused(tables, tmp_path):
    file = tmp_path / "made up.csv"
    export(tables, file, Wanted(table="events"), echo=lambda _: None)
    with file.open(newline="") as text:
        header, first, *_ = csv.reader(text)
    first[header.index("row_number")] = "77"
    with file.open("w", newline="") as written:
        csv.writer(written).writerows([header, first])
    with pytest.raises(DataError, match=r"1 rows were never set aside, the first is row 77 of sales\.csv in"):
        send(tables, file)
    assert not tables.pending_replays()


def test_items_keep_their_attributes_through_a_csv(tables, tmp_path):
    file = tmp_path / "items.csv"
    export(tables, file, Wanted(table="items"), echo=lambda _: None)
    send(tables, file)
    (found,) = waiting(tables)["items"]
    assert (found["item_id"], found["attributes"]) == ("item-59", [("aisle", "5")])


def test_pseudonym_in_a_file_stays_as_it_is(tables, tmp_path):
    file = tmp_path / "broken.parquet"
    export(tables, file, Wanted(table="events"), echo=lambda _: None)
    before = sorted(pq.read_table(file)["user_id"].to_pylist())
    send(tables, file)
    assert sorted(row["user_id"] for row in waiting(tables)["events"]) == before


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        pytest.param("value", "cheap", r"broken.csv, row 1: `value` is 'cheap' and must be DOUBLE", id="number"),
        pytest.param("event_timestamp", "soon", "row 1: `event_timestamp` is 'soon'", id="moment"),
        pytest.param("unreadable", "value", "row 1: `unreadable` still names 'value'", id="not mended"),
    ],
)
def test_value_that_cannot_be_read_is_named_and_nothing_is_replayed(tables, tmp_path, column, value, sentence):
    file = tmp_path / "broken.csv"
    export(tables, file, Wanted(table="events", reason=WRONG), echo=lambda _: None)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS FROM read_csv('{file}', all_varchar = true)")
        connection.execute(f"UPDATE t SET {column} = ?", [value])
        connection.execute(f"COPY t TO '{file}' (FORMAT csv, HEADER)")
    with pytest.raises(DataError, match=sentence):
        send(tables, file)
    assert waiting(tables) == {}


def test_column_that_is_gone_is_named(tables, tmp_path):
    file = tmp_path / "broken.parquet"
    export(tables, file, Wanted(table="events"), echo=lambda _: None)
    pq.write_table(pq.read_table(file).drop_columns(["source", "value"]), file)
    with pytest.raises(DataError, match="has no column `source`, `value`: keep all columns"):
        send(tables, file, table="events")


def test_unreadable_rows_are_not_replayed_unchanged(tmp_path):
    tables, window = toy_window(tmp_path)
    path = window.folder / "events.parquet"
    rows = pq.read_table(path).sort_by("row_number")
    marks = pa.array(["value", *[None] * (rows.num_rows - 1)])
    pq.write_table(rows.set_column(rows.column_names.index("unreadable"), "unreadable", marks), path)
    tables.accept(window, rejections={"events": rejected((0, "readable", UNREADABLE), (1, "value", WRONG))})
    said = send(tables)
    assert said[0].startswith("1 rows of events are replayed")
    assert said[1].startswith("1 rows of events stay: a value could not be read")
    assert [row["row_number"] for row in waiting(tables)["events"]] == [2]


def test_export_of_several_tables_asks_for_one(tables, tmp_path):
    with pytest.raises(DataError, match=r"Rows of 2 tables are set aside \(events, items\)"):
        export(tables, tmp_path / "all.csv", Wanted(), echo=lambda _: None)
    with pytest.raises(DataError, match=r"ends with `.xlsx`"):
        export(tables, tmp_path / "all.xlsx", Wanted(table="events"), echo=lambda _: None)


def test_replayed_rows_are_in_the_tables_after_the_next_window_and_only_once(tables, tmp_path):
    send(tables, table="events")
    until = NOW + timedelta(hours=1)
    _, window = toy_window(tmp_path, until=until)
    assert window.rows == {"events": 2}
    tables.accept(window, rejections={})
    with tables.connect() as connection:
        counted = connection.sql("SELECT count(*), count(DISTINCT event_id) FROM events").fetchall()
    assert counted == [(1500, 1500)]
    assert tables.pending_replays() == []
    assert "wait" not in lines(tables)[-1]
