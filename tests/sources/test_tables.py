"""What a mapping file may say, and the sentence for what it may not."""

import json
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.sources.tables import TablesSource
from pipelines.stores.sql import open_duckdb
from tests.toys.catalogue import MAPPING, NOW, write_csv


def read(mapping, table, *, since=None, until=NOW):
    with open_duckdb() as connection:
        query = TablesSource(mapping).read(connection, since=since, until=until, state={}).queries[table]
        return connection.sql(query).to_arrow_table().to_pylist()


def remapped(tmp_path, old, new):
    mapping = write_csv(tmp_path)
    assert old in MAPPING
    mapping.write_text(MAPPING.replace(old, new))
    return mapping


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        pytest.param("items:", "item:", "`item` is not a table, did you mean `items`?", id="misspelt table"),
        pytest.param("attributes: [aisle]", "atributes: [aisle]", "did you mean `attributes`?", id="misspelt key"),
        pytest.param("title: name", "titel: name", "did you mean `title`?", id="misspelt contract column"),
        pytest.param(
            "title: name",
            "title: nam",
            "items.csv has no column `nam`, did you mean `name`?",
            id="misspelt file column",
        ),
        pytest.param(
            "[aisle]", "[isle]", "items.csv has no column `isle`, did you mean `aisle`?", id="misspelt attribute"
        ),
        pytest.param("files: items.csv", "files: item.csv", "nothing matches item.csv", id="file that does not exist"),
        pytest.param("  files: items.csv\n", "", "`items`: give one of `files` and `postgres`", id="no files"),
        pytest.param("title: name, ", "", "does not say where `title` comes from", id="needed column not mapped"),
        pytest.param("{currency: EUR,", "{price: 1, currency: EUR,", "maps price twice", id="column mapped twice"),
        pytest.param("files: items.csv", "files: items.csv\n  format: xml", "`items.format`", id="unknown format"),
        pytest.param(
            "attributes: [aisle]",
            "expressions: {description: lower(nam)}",
            "`items.expressions.description` cannot be used",
            id="wrong expression",
        ),
        pytest.param("items:", "items: [", "is not valid YAML", id="broken YAML"),
    ],
)
def test_wrong_mapping_gives_one_sentence(tmp_path, old, new, sentence):
    mapping = remapped(tmp_path, old, new)
    with pytest.raises(ConfigError) as failure:
        read(mapping, "items")
    assert sentence in str(failure.value)
    assert str(mapping) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_mapping_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"mapping.yaml does not exist: set source.mapping"):
        TablesSource(tmp_path / "mapping.yaml")


def test_mapping_without_items_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="but not `items`"):
        TablesSource(remapped(tmp_path, MAPPING, MAPPING[MAPPING.index("events:") :]))


def test_empty_table_is_refused(tmp_path):
    mapping = write_csv(tmp_path)
    (tmp_path / "items.csv").write_text("sku,name,group,maker,eur,aisle\n")
    with pytest.raises(DataError, match=r"The table items is empty"):
        read(mapping, "items")


def test_file_that_is_no_table_is_refused(tmp_path):
    mapping = remapped(tmp_path, "items.csv", "items.parquet")
    (tmp_path / "items.parquet").write_bytes(b"not Parquet")
    with pytest.raises(DataError, match=r"The files of `items` \(items\.parquet\) cannot be read") as failure:
        read(mapping, "items")
    assert "\n" not in str(failure.value)


def test_value_of_the_wrong_type_is_named_and_null(tmp_path):
    mapping = write_csv(tmp_path)
    sales = tmp_path / "sales.csv"
    sales.write_bytes(
        sales.read_bytes().replace(
            b"sale-00-00-1,customer 0,receipt-00-00,purchase,item-01,1.10",
            b"sale-00-00-1,customer 0,receipt-00-00,purchase,item-01,free",
        )
    )
    rows = {row["event_id"]: row for row in read(mapping, "events")}
    assert (rows["sale-00-00-1"]["value"], rows["sale-00-00-1"]["unreadable"]) == (None, "value")
    assert (rows["sale-00-00-2"]["value"], rows["sale-00-00-2"]["unreadable"]) == (1.2, None)


def test_row_with_an_unreadable_time_is_not_lost(tmp_path):
    mapping = write_csv(tmp_path)
    sales = tmp_path / "sales.csv"
    sales.write_bytes(sales.read_bytes().replace(b"2026-01-01T08:00:00+00:00", b"yesterday", 1))
    unreadable = [row for row in read(mapping, "events") if row["unreadable"]]
    assert [(row["row_number"], row["unreadable"]) for row in unreadable] == [(1, "event_timestamp, created_timestamp")]


def test_rows_are_numbered_within_their_file(tmp_path):
    mapping = remapped(tmp_path, "files: sales.csv", "files: [sales.csv, more.csv]")
    (tmp_path / "more.csv").write_bytes((tmp_path / "sales.csv").read_bytes())
    rows = read(mapping, "events")
    assert [(row["source"], row["row_number"]) for row in rows if row["event_id"] == "sale-00-00-1"] == [
        ("sales.csv", 2),
        ("more.csv", 2),
    ]


def test_empty_cells_are_no_value(tmp_path):
    mapping = write_csv(tmp_path)
    (tmp_path / "items.csv").write_text("sku,name,group,maker,eur,aisle\nx,Thing, ,Mill,,\n")
    (row,) = read(mapping, "items")
    assert (row["category"], row["price"], row["attributes"], row["unreadable"]) == (None, None, [], None)


def test_window_is_open_at_its_start_and_closed_at_its_end(tmp_path):
    mapping = write_csv(tmp_path)
    first = datetime.fromisoformat("2026-01-01T08:00:00+00:00")
    assert len(read(mapping, "events", until=first)) == 3
    assert not [row for row in read(mapping, "events", since=first) if row["event_timestamp"] == first]


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_other_formats_give_the_same_rows(tmp_path, kind):
    csv_rows = read(write_csv(tmp_path), "items")
    mapping = remapped(tmp_path, "items.csv", f"items.{kind}")
    table = duckdb.sql(f"SELECT * FROM read_csv('{tmp_path / 'items.csv'}')").to_arrow_table()
    if kind == "parquet":
        pq.write_table(table, tmp_path / "items.parquet")
    else:
        (tmp_path / "items.json").write_text(json.dumps(table.to_pylist()))
    rows = read(mapping, "items")
    for row in csv_rows + rows:
        row.pop("source")
    assert rows == csv_rows


def test_expressions_and_constants_fill_columns(tmp_path):
    mapping = remapped(
        tmp_path,
        "    event_timestamp: at\n    created_timestamp: at\n",
        "  expressions: {event_timestamp: 'CAST(\"at\" AS TIMESTAMPTZ) - INTERVAL 60 SECOND'}\n",
    )
    mapping.write_text(
        mapping.read_text()
        .replace("    event_type: kind\n", "")
        .replace("files: sales.csv", "files: sales.csv\n  constants: {event_type: view}")
    )
    row = next(row for row in read(mapping, "events") if row["event_id"] == "sale-00-00-0")
    assert row["event_type"] == "view"
    assert row["event_timestamp"] == row["created_timestamp"] == datetime.fromisoformat("2026-01-01T07:59:00+00:00")


def test_semicolons_and_subfolders(tmp_path):
    mapping = remapped(tmp_path, "files: items.csv", "files: parts/**/*.csv\n  options: {delim: ';'}")
    for part in ("a", "b"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        (tmp_path / "parts" / part / "items.csv").write_text(f"sku;name;group;maker;eur;aisle\n{part};Thing;G;M;1;2\n")
    assert [row["item_id"] for row in read(mapping, "items")] == ["a", "b"]


def test_arrival_is_known_where_its_column_is_mapped(tmp_path):
    with open_duckdb() as connection:
        read_tables = TablesSource(write_csv(tmp_path)).read(
            connection, since=None, until=NOW + timedelta(days=1), state={}
        )
    assert read_tables.arrival_known == {"items": True, "events": True, "users": False}


def test_columns_of_a_query_are_the_contract(tmp_path):
    rows = read(write_csv(tmp_path), "items")
    assert list(rows[0]) == [
        "item_id", "title", "description", "category", "brand", "price", "currency", "image", "attributes",
        "available", "updated_at", "row_number", "source", "unreadable", "rejected_because",
    ]  # fmt: skip
    assert pa.Table.from_pylist(rows).num_rows == 60
