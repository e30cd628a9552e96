"""Item-to-item co-occurrence, worked out by hand."""

from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import DataError
from pipelines.retrieval.cooccurrence import build_item_to_item, history_weights
from pipelines.retrieval.neighbors import NeighborTable

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def padded(table: NeighborTable, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids padded with −1 and scores padded with 0, `(n_items, width)`."""
    ids, scores = np.full((len(table), width), -1, np.int32), np.zeros((len(table), width), np.float32)
    for row in range(len(table)):
        near, values = table.of(row)
        ids[row, : len(near)], scores[row, : len(near)] = near, values
    return ids, scores


def item_to_item(events: pa.Table, item_ids: list[str], **settings: float) -> tuple[np.ndarray, np.ndarray]:
    return padded(build_item_to_item(events, item_ids, **settings), int(settings.get("neighbors", 50)))


plain_cosine = partial(item_to_item, user_weight=0.0, shrinkage=0.0)


def events(*rows: tuple[str, str | None, str, float], event_type: str = "purchase") -> pa.Table:
    """Rows of user, session, item, age in days."""
    return pa.table(
        {
            "user_id": [row[0] for row in rows],
            "session_id": pa.array([row[1] for row in rows], pa.string()),
            "item_id": [row[2] for row in rows],
            "event_type": [event_type] * len(rows),
            "event_timestamp": pa.array([NOW - timedelta(days=row[3]) for row in rows], pa.timestamp("us", "UTC")),
        }
    )


def neighbors(ids: np.ndarray, scores: np.ndarray, row: int) -> dict[int, float]:
    return {int(i): pytest.approx(float(s), abs=1e-5) for i, s in zip(ids[row], scores[row], strict=True) if i >= 0}


def test_cosine_of_shared_baskets():
    # a: baskets 1 2, b: baskets 1 2, c: basket 2, d: alone.
    baskets = {"1": "ab", "2": "abc", "3": "d"}
    table = events(*(("u", session, item, 0) for session, items in baskets.items() for item in items))
    ids, scores = plain_cosine(table, ["a", "b", "c", "d"], neighbors=3)
    assert ids.tolist() == [[1, 2, -1], [0, 2, -1], [0, 1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(scores[0], [1.0, 1 / np.sqrt(2), 0.0], rtol=1e-5)
    np.testing.assert_allclose(scores[2], [1 / np.sqrt(2)] * 2 + [0.0], rtol=1e-5)


def test_an_old_basket_counts_less():
    # a and b share a basket of weight 1/2 (one half-life old); a has another of weight 1.
    table = events(("u", "old", "a", 30), ("u", "old", "b", 30), ("u", "new", "a", 0))
    ids, scores = plain_cosine(table, ["a", "b"], neighbors=1, half_life_days=30)
    assert ids.tolist() == [[1], [0]]
    assert scores[0, 0] == pytest.approx(0.5 / np.sqrt(1.5 * 0.5))


def test_a_session_of_another_user_is_another_basket_and_a_day_stands_in_for_a_session():
    days = [("w", None, "c", 5), ("w", None, "d", 5), ("w", None, "e", 7)]
    table = events(("u", "1", "a", 0), ("v", "1", "b", 0), *days)
    ids, _ = plain_cosine(table, list("abcde"), neighbors=2)
    assert ids.tolist() == [[-1, -1], [-1, -1], [3, -1], [2, -1], [-1, -1]]


def test_only_the_best_neighbours_are_kept_ties_in_row_order():
    table = events(*(("u", "1", item, 0) for item in "abcd"), ("u", "2", "a", 0), ("u", "2", "d", 0))
    ids, _ = plain_cosine(table, list("abcd"), neighbors=2)
    assert ids[0].tolist() == [3, 1]


def test_unknown_items_impressions_and_huge_baskets_say_nothing():
    known = [("u", "1", item, 0) for item in "ab"]
    ids, _ = plain_cosine(events(*known), ["a"], neighbors=1)
    assert ids.tolist() == [[-1]]
    ids, _ = plain_cosine(events(*known, event_type="impression"), ["a", "b"], neighbors=1)
    assert ids.tolist() == [[-1], [-1]]
    ids, _ = plain_cosine(events(*known), ["a", "b"], neighbors=1, max_basket=1)
    assert ids.tolist() == [[-1], [-1]]


def test_items_of_one_user_count_where_asked():
    table = events(("u", "1", "a", 0), ("u", "2", "b", 0))
    assert plain_cosine(table, ["a", "b"], neighbors=1)[0].tolist() == [[-1], [-1]]
    ids, scores = plain_cosine(table, ["a", "b"], neighbors=1, user_weight=1.0)
    assert neighbors(ids, scores, 0) == {1: 0.5}


def test_of_a_user_only_the_heaviest_items_count():
    table = events(("u", "1", "c", 0), ("u", "2", "c", 0), ("u", "3", "a", 0), ("u", "4", "b", 0))
    ids, _ = item_to_item(table, list("abc"), neighbors=2, shrinkage=0.0, max_user_items=2)
    assert ids.tolist() == [[2, -1], [-1, -1], [0, -1]]


def test_shrinkage_puts_a_proven_neighbor_before_a_coincidence():
    # a shares 4 of its 5 baskets with b, and its fifth, the only one of c, with c.
    together = [("u", str(number), item, 0) for number in range(4) for item in "ab"]
    table = events(*together, ("u", "4", "a", 0), ("u", "4", "c", 0))
    _, plain = plain_cosine(table, ["a", "b", "c"], neighbors=1)
    assert plain[2, 0] == pytest.approx(1 / np.sqrt(5))
    ids, shrunk = item_to_item(table, ["a", "b", "c"], neighbors=2, user_weight=0.0, shrinkage=5.0)
    assert ids[0].tolist() == [1, 2]
    np.testing.assert_allclose(shrunk[0], [4 / np.sqrt(10 * 9), 1 / np.sqrt(10 * 6)], rtol=1e-5)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="no column session_id"):
        plain_cosine(events(("u", "1", "a", 0)).drop_columns("session_id"), ["a"])


def test_history_weights_fall_by_basket_not_by_item():
    np.testing.assert_allclose(history_weights([10, 10, 20, 30, 30], 0.5), [0.25, 0.25, 0.5, 1, 1])
