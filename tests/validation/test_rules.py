"""Which facts are true of which rows, which rows repeat a key, and that every rule names a column that exists."""

from datetime import UTC, datetime

import duckdb
import pytest

from pipelines.config import ValidationConfig
from pipelines.schemas import TABLES
from pipelines.sources.base import ORIGIN_COLUMNS, contract_query
from pipelines.validation.repeats import find_repeats
from pipelines.validation.rules import ADVICE, KEYS, ORIGIN, judged_query, rules_for, types_of

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT = {
    "event_id": "'e'",
    "event_type": "'view'",
    "item_id": "'a'",
    "event_timestamp": "TIMESTAMPTZ '2026-03-01 10:00:00+00'",
    "created_timestamp": "TIMESTAMPTZ '2026-03-01 10:00:00+00'",
}


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE known_items AS SELECT 'a' AS item_id")
        yield connection


def judged(connection, table, *rows, since=SINCE, pass_rows=100, **settings):
    """Return the rows with their facts; a row is column -> SQL expression."""
    parts = [
        f"SELECT *, {number} AS row_id FROM ({contract_query(table, row, '(SELECT 1)')})"
        for number, row in enumerate(rows)
    ]
    connection.execute(f"CREATE OR REPLACE TABLE given AS {' UNION ALL '.join(parts)}")
    find_repeats(connection, table, "given", len(rows), pass_rows=pass_rows)
    query = judged_query(table, "given", ValidationConfig(**settings), since=since, until=UNTIL)
    return connection.sql(f"{query} ORDER BY row_id").to_arrow_table().to_pylist()


def test_second_event_with_an_id_is_not_the_first(connection):
    rows = judged(connection, "events", EVENT, EVENT | {"event_id": "'f'"}, EVENT)
    assert [row["is_first"] for row in rows] == [True, True, False]


@pytest.mark.parametrize("pass_rows", [1, 2, 100])
def test_repeats_are_found_in_any_number_of_passes(connection, pass_rows):
    ids = ["'a'", "'b'", "'a'", "NULL", "'b'", "'c'", "NULL", "'a'"]
    rows = judged(connection, "events", *(EVENT | {"event_id": name} for name in ids), pass_rows=pass_rows)
    assert [row["row_id"] for row in rows if not row["is_first"]] == [2, 4, 6, 7]


@pytest.mark.parametrize(
    ("event_type", "item_id", "query", "known", "has_subject"),
    [
        ("view", "'a'", "NULL", True, True),
        ("view", "'z'", "NULL", False, True),
        ("view", "NULL", "NULL", True, False),
        ("view", "NULL", "'bread'", True, False),
        ("search", "NULL", "'bread'", True, True),
        ("search", "NULL", "''", True, False),
    ],
)
def test_facts_of_an_event(connection, event_type, item_id, query, known, has_subject):
    (row,) = judged(connection, "events", EVENT | {"event_type": f"'{event_type}'", "item_id": item_id, "query": query})
    assert (row["item_is_known"], row["has_subject"]) == (known, has_subject)


@pytest.mark.parametrize(
    ("happened", "arrived", "after", "in_time"),
    [
        pytest.param("2026-03-01 10:00", "2026-03-01 10:00", True, True, id="at once"),
        pytest.param("2026-03-01 10:05", "2026-03-01 10:00", True, True, id="a clock five minutes ahead"),
        pytest.param("2026-03-01 10:06", "2026-03-01 10:00", False, True, id="a clock six minutes ahead"),
        pytest.param("2026-01-30 10:00", "2026-03-01 10:00", True, True, id="thirty days late"),
        pytest.param("2026-01-30 09:59", "2026-03-01 10:00", True, False, id="a minute more"),
        pytest.param("2027-01-01 00:00", "2026-03-01 10:00", True, True, id="the future has a rule of its own"),
        pytest.param("1971-01-01 00:00", "2026-03-01 10:00", True, True, id="so has 1971"),
    ],
)
def test_time_between_an_event_and_its_arrival(connection, happened, arrived, after, in_time):
    moments = {
        "event_timestamp": f"TIMESTAMPTZ '{happened}:00+00'",
        "created_timestamp": f"TIMESTAMPTZ '{arrived}:00+00'",
    }
    (row,) = judged(connection, "events", EVENT | moments)
    assert (row["arrived_after_it_happened"], row["not_too_late"]) == (after, in_time)


def test_nothing_of_the_first_window_is_too_late(connection):
    old = EVENT | {"event_timestamp": "TIMESTAMPTZ '2020-01-01 00:00:00+00'"}
    assert [row["not_too_late"] for row in judged(connection, "events", old, since=None)] == [True]


def test_item_may_come_twice_with_another_date(connection):
    item = {"item_id": "'a'", "updated_at": "TIMESTAMPTZ '2026-03-01 10:00:00+00'"}
    other = item | {"updated_at": "TIMESTAMPTZ '2026-03-01 11:00:00+00'"}
    rows = judged(connection, "items", item, other, other)
    assert [row["is_first"] for row in rows] == [True, True, False]


def test_nul_in_any_text_is_seen(connection):
    rows = judged(
        connection,
        "items",
        {"item_id": "'a'", "title": "'b'", "attributes": "MAP {'k': 'v'}"},
        {"item_id": "'a' || chr(0)"},
        {"description": "chr(0)"},
        {"attributes": "MAP {'k': 'v' || chr(0)}"},
    )
    assert [row["nul_free"] for row in rows] == [True, False, False, False]


def test_long_text_is_cut_behind_its_limit_and_short_text_is_whole(connection):
    rows = judged(
        connection, "items", {"title": "repeat('é', 1000000)"}, {"title": "repeat('é', 100)"}, max_text_characters=100
    )
    assert [len(row["title"]) for row in rows] == [101, 100]


@pytest.mark.parametrize("table", list(TABLES))
def test_rules_have_names_of_their_own_and_look_at_columns_or_facts(connection, table):
    rules = rules_for(table, ValidationConfig(), since=SINCE, until=UNTIL)
    assert len({rule.name for rule in rules}) == len(rules)
    (row,) = judged(connection, table, {})
    assert {rule.column for rule in rules} <= set(row)
    assert {*types_of(table, ValidationConfig()), "row_id"} == set(row)


def test_advice_is_about_rules_that_exist():
    names = {rule.name for table in KEYS for rule in rules_for(table, ValidationConfig(), since=None, until=UNTIL)}
    assert set(ADVICE) <= names


def test_origin_columns_are_those_of_the_sources():
    assert tuple(ORIGIN_COLUMNS) == ORIGIN


def test_limits_come_from_the_settings():
    rules = {rule.name: rule for rule in rules_for("events", ValidationConfig(max_value=50), since=SINCE, until=UNTIL)}
    assert rules["value_believable"].arguments == {"min_value": 0, "max_value": 50}
    assert rules["event_timestamp_believable"].arguments == {
        "min_value": "1990-01-01T00:00:00+00:00",
        "max_value": "2026-03-01T12:05:00+00:00",
    }
    assert rules["created_timestamp_in_window"].arguments == {
        "min_value": "2026-03-01T00:00:00+00:00",
        "max_value": "2026-03-01T12:00:00+00:00",
        "strict_min": True,
    }
