"""Each rule on a handful of events, with the rows that have to remain."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipelines.config import PreparationConfig
from pipelines.preparation import behavior
from pipelines.preparation.behavior import prepare_events
from pipelines.schemas import EVENTS
from pipelines.stores.sql import open_duckdb

START = datetime(2026, 1, 1, tzinfo=UTC)
ORIGIN = [
    pa.field("row_number", pa.int64()),
    *(pa.field(n, pa.string()) for n in ("source", "unreadable", "rejected_because")),
]
SCHEMA = pa.schema([*EVENTS, *ORIGIN])
NULLABLE = pa.schema([field.with_nullable(True) for field in SCHEMA])
REPEAT = "events: repeat within 2 s"


def event(event_id, at=0.0, **columns):
    """Return a view of `item` by `ann`, `at` seconds after the start, arrived as it happened."""
    moment = START + timedelta(seconds=at) if at is not None else None
    given = {"user_id": "ann", "event_type": "view", "item_id": "item"}
    return given | {"event_id": event_id, "event_timestamp": moment, "created_timestamp": moment} | columns


def prepare(tmp_path, events, *, known=None, since=None, **settings):
    """Return the remaining rows and what `prepare_events` says."""
    file = tmp_path / "events.parquet"
    pq.write_table(pa.Table.from_pylist(events, schema=NULLABLE), file)
    with open_duckdb() as connection:
        if known is not None:
            connection.register("known_events", pa.Table.from_pylist(known, schema=NULLABLE))
        prepared = prepare_events(
            connection,
            file,
            PreparationConfig(**settings),
            since=since,
            until=START + timedelta(days=1),
            known="known_events" if known is not None else None,
        )
        table = connection.sql(prepared.query).to_arrow_table()
    assert table.column_names == SCHEMA.names
    assert prepared.rows == table.num_rows == len(events) - sum(prepared.removed.values())
    return table.to_pylist(), prepared


def ids(rows):
    return [row["event_id"] for row in rows]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("view", "view"),
        (" VIEW ", "view"),
        ("Page View", "view"),
        ("page-view", "view"),
        ("\tBuy\n", "purchase"),
        ("teleport", "teleport"),
        ("", ""),
        (None, None),
        ("it's", "it's"),
    ],
)
def test_event_types_are_told_in_our_words(tmp_path, given, ours):
    (row,), prepared = prepare(tmp_path, [event("a", event_type=given)])
    assert row["event_type"] == ours
    assert prepared.changed == ({"events: event type normalized": 1} if given != ours else {})
    assert prepared.unchanged is (given == ours)


def test_words_of_the_mapping_are_folded_as_well(tmp_path):
    (row,), _ = prepare(tmp_path, [event("a", event_type="in den Korb")], event_types={"In Den-Korb": "cart"})
    assert row["event_type"] == "cart"


def test_mapping_to_a_type_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="purchase"):
        PreparationConfig(event_types={"buy": "bought"})


def test_missing_time_stays_missing_by_default(tmp_path):
    (row,), prepared = prepare(tmp_path, [event("a", event_timestamp=None)])
    assert row["event_timestamp"] is None
    assert prepared.unchanged


def test_missing_time_is_the_arrival_where_that_is_chosen(tmp_path):
    rows, prepared = prepare(
        tmp_path,
        [
            event("a", 5, event_timestamp=None),
            event("b", 6, event_timestamp=None, unreadable="event_timestamp"),
            event("c", None),
        ],
        missing_event_timestamp="arrival",
    )
    assert [row["event_timestamp"] for row in rows] == [START + timedelta(seconds=5), None, None]
    assert prepared.changed == {"events: missing event_timestamp filled with the arrival": 1}


def test_missing_arrival_is_the_time_of_the_event_but_within_the_window(tmp_path):
    since = START + timedelta(seconds=10)
    rows, prepared = prepare(
        tmp_path,
        [event("before", 10, created_timestamp=None), event("within", 20, created_timestamp=None), event("given", 3)],
        since=since,
    )
    assert [row["created_timestamp"] for row in rows] == [
        START + timedelta(days=1),
        START + timedelta(seconds=20),
        START + timedelta(seconds=3),
    ]
    assert prepared.changed == {"events: missing created_timestamp filled with the event's time": 2}


def test_the_same_event_told_twice_is_one_event(tmp_path):
    later = START + timedelta(hours=1)
    rows, prepared = prepare(
        tmp_path,
        [
            event("a", created_timestamp=later, row_number=1),
            event("a", row_number=2),
            event("b", 9, row_number=3),
            event("a", created_timestamp=later, row_number=4, source="other file"),
        ],
    )
    assert [row["row_number"] for row in rows] == [2, 3]
    assert prepared.removed == {"events: exact duplicate": 2}


@pytest.mark.parametrize(
    "other",
    [{"item_id": "other"}, {"value": 2.0}, {"unreadable": "value"}, {"rejected_because": "closed"}, {"query": ""}],
    ids=lambda other: next(iter(other)),
)
def test_the_same_id_with_other_content_is_left_to_validation(tmp_path, other):
    rows, prepared = prepare(tmp_path, [event("a", event_type="cart"), event("a", event_type="cart", **other)])
    assert ids(rows) == ["a", "a"]
    assert prepared.unchanged


def test_spellings_of_a_type_are_one_content(tmp_path):
    rows, prepared = prepare(tmp_path, [event("a", event_type="buy"), event("a", event_type="ORDER")])
    assert ids(rows) == ["a"]
    assert prepared.changed == {"events: event type normalized": 2}
    assert prepared.removed == {"events: exact duplicate": 1}


def test_adjacent_repeats_are_merged_into_the_first(tmp_path):
    rows, prepared = prepare(
        tmp_path,
        [
            event("third", 3.5),  # follows the second, which is itself a repeat
            event("first", 0),
            event("second", 2),
            event("much later", 5.6),
            event("other user", 1, user_id="bob"),
            event("other item", 1, item_id="other"),
            event("other type", 1, event_type="click"),
            event("bought", 0, event_type="purchase"),
            event("bought again", 1, event_type="purchase"),
        ],
    )
    assert ids(rows) == ["first", "much later", "other user", "other item", "other type", "bought", "bought again"]
    assert prepared.removed == {REPEAT: 2}


def test_repeats_at_one_moment_keep_the_first_row(tmp_path):
    rows, _ = prepare(tmp_path, [event("a"), event("b"), event("c")])
    assert ids(rows) == ["a"]


def test_rows_without_user_item_or_time_are_no_repeats(tmp_path):
    events = [
        event(f"{name}{i}", **{name: None}) for name in ("user_id", "item_id", "event_timestamp") for i in range(2)
    ]
    _, prepared = prepare(tmp_path, events)
    assert prepared.unchanged


def test_no_gap_keeps_every_repeat(tmp_path):
    rows, _ = prepare(tmp_path, [event("a"), event("b")], repeat_gap_s=0)
    assert ids(rows) == ["a", "b"]


@pytest.mark.parametrize(("at", "kept"), [(-2.5, True), (-2, False), (0, False), (2, False), (2.5, True)])
def test_repeats_of_what_was_accepted_before_are_merged_into_it(tmp_path, at, kept):
    rows, prepared = prepare(tmp_path, [event("new", at)], known=[event("known", 0)])
    assert ids(rows) == (["new"] if kept else [])
    assert prepared.removed == ({} if kept else {REPEAT: 1})


def test_duplicates_are_kept_where_that_is_chosen(tmp_path):
    rows, _ = prepare(tmp_path, [event("a", event_type="cart")] * 2, remove_duplicates=False)
    assert ids(rows) == ["a", "a"]


def test_passes_give_what_one_pass_gives(tmp_path, monkeypatch):
    events = [
        event(f"{i % 70}", i % 7 / 2, user_id=f"user {i % 5}", item_id=f"item {i % 2}", row_number=i)
        for i in range(100)
    ]
    one, prepared = prepare(tmp_path, events, known=events[:10])
    monkeypatch.setattr(behavior, "_PASS_ROWS", 9)
    many, prepared_in_passes = prepare(tmp_path, events, known=events[:10])
    assert one == many
    assert prepared.removed == prepared_in_passes.removed
    assert len(prepared.removed) == 2


def test_empty_window(tmp_path):
    rows, prepared = prepare(tmp_path, [], known=[])
    assert rows == []
    assert prepared.unchanged
