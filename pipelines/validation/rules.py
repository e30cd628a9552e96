"""What the rows of each table must look like. Pure: rules are values, and whoever judges rows reads them.

A rule that needs more than its own column (is this item known, was this id there before) looks at a *fact*: a true or
false column that `judged_query` adds to the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.config import ValidationConfig
from pipelines.schemas import EVENT_TYPES, TABLES

RULES_VERSION = "2"
"""Grows with every change to what a rule accepts; recorded with each window."""
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Events before this day are wrong units, such as seconds read as milliseconds."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a client's clock may be."""
MAX_GRADE = 1_000
KEYS = {
    "items": ("item_id", "updated_at"),
    "events": ("event_id",),
    "users": ("user_id",),
    "judgements": ("query", "item_id"),
}
"""What no two rows of a window share."""
ORIGIN = ("row_number", "source", "unreadable", "rejected_because")
"""Columns beside the contract's, of every ingested table."""
_TYPE_NAMES = {
    "string": "VARCHAR",
    "double": "DOUBLE PRECISION",
    "float": "REAL",
    "int32": "INTEGER",
    "bool": "BOOLEAN",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
    "map<string, string>": "HSTORE",
}
"""Type in the contract -> its name in SQL as Great Expectations compares it."""
_MICROSECOND = timedelta(microseconds=1)
_IDS = ("event_id", "user_id", "session_id", "item_id")
_LONG = ("description", "image")


@dataclass(frozen=True)
class Rule:
    """One expectation about one column; a row that breaks it is set aside with the reason."""

    name: str
    column: str
    reason: str
    expectation: str
    """Class of Great Expectations."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reason_column: str | None = None
    """Column that holds the reason of each row, in place of `reason`."""


def types_of(table: str, config: ValidationConfig) -> dict[str, str]:
    """Return the columns that the judged relation has beside `row_id`, facts included, with their types."""
    contract = {column.name: _TYPE_NAMES[str(column.type)] for column in TABLES[table]}
    origin = {name: "BIGINT" if name == "row_number" else "VARCHAR" for name in ORIGIN}
    return contract | origin | dict.fromkeys(facts(table, config, since=None, until=EARLIEST), "BOOLEAN")


def _given(column: str) -> Rule:
    return Rule(f"{column}_given", column, f"{column} is missing", "ExpectColumnValuesToNotBeNull")


def _true(fact: str, reason: str) -> Rule:
    return Rule(fact, fact, reason, "ExpectColumnValuesToBeInSet", {"value_set": [True]})


def _between(column: str, reason: str, low: Any, high: Any = None) -> Rule:
    bounds = {"min_value": low} if high is None else {"min_value": low, "max_value": high}
    return Rule(f"{column}_believable", column, reason, "ExpectColumnValuesToBeBetween", bounds)


def _number(column: str, high: float) -> Rule:
    """Refuse what is out of range; NaN is greater than every number in DuckDB, so it is out of range as well."""
    return _between(column, f"{column} is not a number between 0 and {high:,.0f}", 0, high)


READABLE = Rule("readable", "unreadable", "a value has the wrong type", "ExpectColumnValuesToBeNull")
BY_MAPPING = Rule(
    "rejected_by_mapping",
    "rejected_because",
    "the mapping of the source refuses it",
    "ExpectColumnValuesToBeNull",
    reason_column="rejected_because",
)

ADVICE = {
    "readable": "Mend the values named in `unreadable` at the source, or export, mend and replay the rows.",
    "rejected_by_mapping": "Your mapping refuses these rows: change its rule `reject`, or leave them where they are.",
    "item_is_known": "Add the items to the catalogue, let a window with them in, then replay these rows unchanged.",
    "is_first": "The first row with this id was taken. If both are real, give this one an id of its own and replay it.",
    "event_type_known": "Map the word to one of ours (`preparation.event_types`), or export, mend and replay the rows.",
    "event_timestamp_believable": "Mend the unit or the clock at the source; then export, mend and replay the rows.",
    "not_too_late": "Raise `validation.late_days` if such delays are normal with you, then replay these rows.",
    "created_timestamp_in_window": "The sender's clock or the column mapped to `created_timestamp` is wrong: mend it.",
    "arrived_after_it_happened": "An event cannot arrive before it happens: mend the clock, or the mapping of the two.",
}
"""Rule -> what a person can do about it; the others have `DEFAULT_ADVICE`."""
DEFAULT_ADVICE = "Mend it at the source, or export the rows, mend them and replay the file."


def text_columns(table: str, config: ValidationConfig) -> dict[str, int]:
    """Return the text columns of a table with the most characters that each may have."""
    limits = {}
    for column in TABLES[table]:
        if str(column.type) != "string":
            continue
        limits[column.name] = config.max_text_characters
        if column.name in _IDS:
            limits[column.name] = config.max_id_characters
        elif column.name in _LONG:
            limits[column.name] = config.max_description_characters
    return limits


def _lengths(table: str, config: ValidationConfig) -> list[Rule]:
    return [
        Rule(
            f"{column}_short",
            column,
            f"{column} is longer than {limit:,} characters",
            "ExpectColumnValueLengthsToBeBetween",
            {"max_value": limit},
        )
        for column, limit in text_columns(table, config).items()
        if column not in ("event_type", "user_id")  # one of a set; a pseudonym
    ]


def rules_for(table: str, config: ValidationConfig, *, since: datetime | None, until: datetime) -> tuple[Rule, ...]:
    """Return the rules of a table.

    Args:
        since: What arrived up to this moment is in an earlier window; None for the first.
        until: End of the window; an event cannot have happened or arrived later.
    """
    always = [
        READABLE,
        BY_MAPPING,
        _true("nul_free", "a text holds a NUL character"),
        *_lengths(table, config),
        *(_given(column.name) for column in TABLES[table] if not column.nullable),
    ]
    return (*always, *_rules_of(table, config, since, until))


def _rules_of(table: str, config: ValidationConfig, since: datetime | None, until: datetime) -> list[Rule]:
    if table == "items":
        return [
            Rule("title_text", "title", "title is blank", "ExpectColumnValuesToMatchRegex", {"regex": r"\S"}),
            _number("price", config.max_price),
            _true("attributes_short", f"attributes are longer than {config.max_description_characters:,} characters"),
            _true("is_first", "item_id appears twice with the same updated_at"),
        ]
    if table == "users":
        return [
            _true("attributes_short", f"attributes are longer than {config.max_description_characters:,} characters"),
            _true("is_first", "user_id appears twice"),
        ]
    if table == "judgements":
        return [
            _number("grade", MAX_GRADE),
            _true("item_is_known", "item_id is not in items"),
            _true("is_first", "the pair of query and item_id appears twice"),
        ]
    return [
        Rule(
            "event_type_known",
            "event_type",
            f"event_type is none of {', '.join(EVENT_TYPES)}",
            "ExpectColumnValuesToBeInSet",
            {"value_set": list(EVENT_TYPES)},
        ),
        _between(
            "event_timestamp",
            "event_timestamp is before 1990 or in the future",
            EARLIEST.isoformat(),
            (until + CLOCK_SKEW).isoformat(),
        ),
        Rule(
            "created_timestamp_in_window",
            "created_timestamp",
            "created_timestamp is not in the window in which the event arrived",
            "ExpectColumnValuesToBeBetween",
            {
                "min_value": (since or EARLIEST).isoformat(),
                "max_value": until.isoformat(),
                "strict_min": since is not None,
            },
        ),
        _true("arrived_after_it_happened", "created_timestamp is before event_timestamp"),
        _true("not_too_late", f"the event happened more than {config.late_days} days before it arrived"),
        _number("value", config.max_value),
        _between("position", "position is negative", 0),
        _between("propensity", "propensity is not a number between 0 and 1", 0, 1),
        _true("has_subject", "item_id is missing (only a search may have a query instead)"),
        _true("item_is_known", "item_id is not in items"),
        _true("is_first", "event_id appears twice"),
    ]


def facts(table: str, config: ValidationConfig, *, since: datetime | None, until: datetime) -> dict[str, str]:
    """Return the facts of a table: name -> SQL expression that is true or false.

    A fact about two moments is true where one of them is missing or not believable: another rule says so.

    They refer to the relations `repeats` (`row_id` of the rows whose key an earlier row has) and `known_items`.
    """
    texts = [*text_columns(table, config), *(["CAST(attributes AS VARCHAR)"] if table in ("items", "users") else [])]
    # NOT IN over a relation that is never null, and mostly empty.
    found = {
        "is_first": "row_id NOT IN (SELECT row_id FROM repeats)",
        "nul_free": " AND ".join(f"NOT coalesce(contains({text}, chr(0)), false)" for text in texts),
    }
    if table in ("items", "users"):
        limit = config.max_description_characters
        found["attributes_short"] = f"coalesce(length(CAST(attributes AS VARCHAR)), 0) <= {limit}"
    if table in ("events", "judgements"):
        found["item_is_known"] = "item_id IS NULL OR item_id IN (SELECT item_id FROM known_items)"
    if table == "events":
        found["has_subject"] = "item_id IS NOT NULL OR (event_type = 'search' AND coalesce(query, '') <> '')"
        # In microseconds: arithmetic with time zones takes ten times as long.
        happened, came = "epoch_us(event_timestamp)", "epoch_us(created_timestamp)"
        future = f"{happened} > {_microseconds(until + CLOCK_SKEW)}"
        arrived = f"{came} >= {happened} - {CLOCK_SKEW // _MICROSECOND} OR {future}"
        found["arrived_after_it_happened"] = f"coalesce({arrived}, true)"
        horizon = timedelta(days=config.late_days) // _MICROSECOND
        in_time = f"{happened} >= {came} - {horizon} OR {happened} < {_microseconds(EARLIEST)}"
        found["not_too_late"] = "true" if since is None else f"coalesce({in_time}, true)"
    return found


def _microseconds(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // _MICROSECOND


def judged_query(
    table: str, relation: str, config: ValidationConfig, *, since: datetime | None, until: datetime
) -> str:
    """Return the query of what is judged: the table with its facts, and each text cut just behind its limit.

    A text that is too long stays too long, but a million characters of it never reach a page of the Data Docs.

    Args:
        relation: The table with `row_id`, the place of each row.
    """
    cut = ", ".join(
        f"CASE WHEN strlen({column}) > {limit} THEN left({column}, {limit + 1}) ELSE {column} END AS {column}"
        for column, limit in text_columns(table, config).items()
    )
    added = ", ".join(
        f"{expression} AS {name}" for name, expression in facts(table, config, since=since, until=until).items()
    )
    return f"SELECT * REPLACE ({cut}), {added} FROM {relation}"
