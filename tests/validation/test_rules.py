"""Which facts are true of which rows, and that every rule names a column that exists."""

from datetime import UTC, datetime

import duckdb
import pytest

from pipelines.config import ValidationConfig
from pipelines.schemas import TABLES
from pipelines.validation.rules import facts_query, rules_for

UNTIL = datetime(2026, 3, 1, 12, tzinfo=UTC)


def facts(table, rows):
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE known_items AS SELECT 'a' AS item_id")
        relation = f"(VALUES {rows[1]}) AS t({rows[0]}, row_id)"
        return connection.sql(f"{facts_query(table, relation)} ORDER BY row_id").to_arrow_table().to_pylist()


def test_second_event_with_an_id_is_not_the_first():
    rows = facts(
        "events", ("event_id, event_type, item_id, query", "('e', 'view', 'a', NULL, 0), ('e', 'view', 'a', NULL, 1)")
    )
    assert [row["is_first"] for row in rows] == [True, False]


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
def test_facts_of_an_event(event_type, item_id, query, known, has_subject):
    (row,) = facts("events", ("event_id, event_type, item_id, query", f"('e', '{event_type}', {item_id}, {query}, 0)"))
    assert (row["item_is_known"], row["has_subject"]) == (known, has_subject)


def test_item_may_come_twice_with_another_date():
    rows = facts("items", ("item_id, updated_at", "('a', 1, 0), ('a', 2, 1), ('a', 2, 2)"))
    assert [row["is_first"] for row in rows] == [True, True, False]


@pytest.mark.parametrize("table", list(TABLES))
def test_rules_have_names_of_their_own_and_look_at_columns_or_facts(table):
    rules = rules_for(table, ValidationConfig(), until=UNTIL)
    assert len({rule.name for rule in rules}) == len(rules)
    known = {*TABLES[table].names, "unreadable", "is_first", "item_is_known", "has_subject"}
    assert {rule.column for rule in rules} <= known


def test_limits_come_from_the_settings():
    rules = {rule.name: rule for rule in rules_for("events", ValidationConfig(max_value=50), until=UNTIL)}
    assert rules["value_believable"].arguments == {"min_value": 0, "max_value": 50}
    assert rules["event_timestamp_believable"].arguments == {
        "min_value": 631_152_000,  # 1990-01-01
        "max_value": 1_772_366_700,  # 2026-03-01 12:05
    }
