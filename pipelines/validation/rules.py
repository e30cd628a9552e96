"""What the rows of each table must look like. Pure: rules are values, and whoever judges rows reads them.

A rule that needs more than its own row (is this item known, was this id there before) looks at a *fact*: a true or
false column that `facts_query` adds to the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.config import ValidationConfig
from pipelines.schemas import EVENT_TYPES

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Events before this day are wrong units, such as seconds read as milliseconds."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a client's clock may be."""


@dataclass(frozen=True)
class Rule:
    """One expectation about one column; a row that breaks it is set aside with the reason."""

    name: str
    column: str
    reason: str
    expectation: str
    """Class of Great Expectations."""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _given(column: str) -> Rule:
    return Rule(f"{column}_given", column, f"{column} is missing", "ExpectColumnValuesToNotBeNull")


def _true(fact: str, reason: str) -> Rule:
    return Rule(fact, fact, reason, "ExpectColumnValuesToBeInSet", {"value_set": [True]})


def _between(column: str, reason: str, low: Any, high: Any = None) -> Rule:
    bounds = {"min_value": low} if high is None else {"min_value": low, "max_value": high}
    return Rule(f"{column}_believable", column, reason, "ExpectColumnValuesToBeBetween", bounds)


READABLE = Rule("readable", "unreadable", "a value has the wrong type", "ExpectColumnValuesToBeNull")


def rules_for(table: str, config: ValidationConfig, *, until: datetime) -> tuple[Rule, ...]:
    """Return the rules of a table; bounds of timestamps are seconds since 1970.

    Args:
        until: End of the window; an event cannot have happened later.
    """
    if table == "items":
        return (
            READABLE,
            _given("item_id"),
            _given("title"),
            Rule("title_text", "title", "title is blank", "ExpectColumnValuesToMatchRegex", {"regex": r"\S"}),
            _given("available"),
            _given("updated_at"),
            _between("price", f"price is not between 0 and {config.max_price:,.0f}", 0, config.max_price),
            _true("is_first", "item_id appears twice with the same updated_at"),
        )
    if table == "events":
        earliest, newest = EARLIEST.timestamp(), (until + CLOCK_SKEW).timestamp()
        kinds = ", ".join(EVENT_TYPES)
        return (
            READABLE,
            _given("user_id"),
            _given("event_type"),
            _given("event_timestamp"),
            _given("created_timestamp"),
            Rule(
                "event_type_known",
                "event_type",
                f"event_type is none of {kinds}",
                "ExpectColumnValuesToBeInSet",
                {"value_set": list(EVENT_TYPES)},
            ),
            _between("event_timestamp", "event_timestamp is before 1990 or in the future", earliest, newest),
            _between("value", f"value is not between 0 and {config.max_value:,.0f}", 0, config.max_value),
            _between("position", "position is negative", 0),
            _between("propensity", "propensity is not between 0 and 1", 0, 1),
            _true("has_subject", "item_id is missing (only a search may have a query instead)"),
            _true("item_is_known", "item_id is not in items"),
            _true("is_first", "event_id appears twice"),
        )
    if table == "users":
        return (READABLE, _given("user_id"), _given("consent"), _true("is_first", "user_id appears twice"))
    return (
        READABLE,
        _given("query"),
        _given("item_id"),
        _given("grade"),
        _true("item_is_known", "item_id is not in items"),
        _true("is_first", "the pair of query and item_id appears twice"),
    )


_FIRST = {
    "items": "item_id, updated_at",
    "events": "event_id",
    "users": "user_id",
    "judgements": "query, item_id",
}


def facts_query(table: str, relation: str) -> str:
    """Return the query that adds facts to a table.

    Args:
        relation: The table with `row_id`, the place of each row; the items that count as known are in the relation
            `known_items`.
    """
    facts = [f"row_number() OVER (PARTITION BY {_FIRST[table]} ORDER BY row_id) = 1 AS is_first"]
    if table in ("events", "judgements"):
        facts.append("item_id IS NULL OR item_id IN (SELECT item_id FROM known_items) AS item_is_known")
    if table == "events":
        facts.append("item_id IS NOT NULL OR (event_type = 'search' AND coalesce(query, '') <> '') AS has_subject")
    return f"SELECT *, {', '.join(facts)} FROM {relation}"
