"""What histories reach in neighbor tables, worked out by hand and by adding up every item."""

import threading

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.links import Links
from pipelines.retrieval.neighbors import NeighborTable

ONES = np.ones((1, 12), np.float32)


@pytest.fixture
def table() -> NeighborTable:
    return NeighborTable.from_padded(
        np.array([[1, 2], [2, -1], [-1, -1]], np.int32), np.array([[0.5, 0.25], [1.0, 0], [0, 0]], np.float32)
    )


def random_table(rng: np.random.Generator, digits: int = 7) -> NeighborTable:
    ids = np.array([rng.choice(300, 20, replace=False) for _ in range(300)], np.int32)
    return NeighborTable.from_padded(ids, np.round(rng.random((300, 20)), digits).astype(np.float32) + np.float32(0.1))


def added_up(table: NeighborTable, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(table))
    for row, weight in zip(rows.tolist(), weights, strict=True):
        ids, of_ids = table.of(row)
        scores[ids] += of_ids * weight
    return scores.astype(np.float32)


def test_a_history_adds_up_weighted_neighbors(table):
    links = Links.of_tables({"one": table})
    scores = links.spread("one", np.array([0, 1, 0]), np.array([1.0, 0.5, 2.0], np.float32))
    assert scores.tolist() == [0, 1.5, 1.25]
    assert links.spread("one", np.empty(0, np.int64), np.empty(0, np.float32)).tolist() == [0, 0, 0]


def test_joined_tables_say_what_each_said(table):
    rng = np.random.default_rng(2)
    tables = {"b": random_table(rng), "a": random_table(rng), "none": NeighborTable.empty(300)}
    links = Links.of_tables(tables)
    assert links.names == ("a", "b", "none")
    assert len(links) == 300
    for name, found in links.tables().items():
        np.testing.assert_array_equal(found.offsets, tables[name].offsets)
        np.testing.assert_array_equal(found.ids, tables[name].ids)
        np.testing.assert_array_equal(found.scores, tables[name].scores)
    assert [part.tolist() for part in Links.of_tables({"one": table}).of("one", 0)] == [[1, 2], [0.5, 0.25]]
    assert [part.tolist() for part in links.of("b", 7)] == [part.tolist() for part in tables["b"].of(7)]


def test_tables_of_other_items_do_not_join(table):
    with pytest.raises(DataError, match="found one of 3, other of 4"):
        Links.of_tables({"one": table, "other": NeighborTable.empty(4)})


def test_new_items_have_no_neighbors(table):
    links = Links.of_tables({"one": table, "same": table})
    grown = links.grown(2)
    assert (len(grown), len(grown.first(4)), len(links)) == (5, 4, 3)
    assert grown.of("same", 4)[0].tolist() == []
    assert grown.of("same", 0)[0].tolist() == [1, 2]
    assert grown.first(4).of("one", 1)[0].tolist() == [2]


def test_what_a_history_reaches_is_what_adding_up_every_item_gives():
    rng = np.random.default_rng(0)
    tables = {"one": random_table(rng), "two": random_table(rng)}
    rows, weights = rng.integers(0, 300, 12), rng.random((2, 12)).astype(np.float32)
    reached = Links.of_tables(tables).reached(rows, weights)
    by_way = reached.of(np.arange(300))
    for place, table in enumerate(tables.values()):
        for way, scores, top in zip(weights, by_way[:, place], reached.tops[:, place], strict=True):
            np.testing.assert_array_equal(scores, added_up(table, rows, way))
            assert top == scores.max()


def test_two_histories_at_once_do_not_mix_in_one_thread_or_two():
    rng = np.random.default_rng(4)
    links = Links.of_tables({"one": random_table(rng)})
    one, other = (links.reached(rng.integers(0, 300, 12), ONES) for _ in range(2))
    expected = [found.of(np.arange(300)).tolist() for found in (one, other)]
    assert expected[0] != expected[1]
    assert [found.of(np.arange(300)).tolist() for found in (one, other)] == expected
    found = []
    thread = threading.Thread(target=lambda: found.append(one.of(np.arange(300)).tolist()))
    thread.start()
    thread.join()
    assert found == expected[:1]


def test_a_larger_catalogue_after_a_smaller_one_is_looked_up_as_well(table):
    rng = np.random.default_rng(5)
    large = random_table(rng)
    for one in (table, large, table):
        rows = np.array([0, 1])
        reached = Links.of_tables({"one": one}).reached(rows, ONES[:, :2])
        np.testing.assert_array_equal(reached.of(np.arange(len(one)))[0, 0], added_up(one, rows, ONES[0, :2]))


def test_the_best_that_a_history_reaches_are_those_of_all_items():
    rng = np.random.default_rng(1)
    table = random_table(rng, digits=1)
    rows, allowed = rng.integers(0, 300, 12), rng.random(300) < 0.7
    links = Links.of_tables({"one": table})
    scores = np.where(allowed, links.spread("one", rows, ONES[0]), 0)
    for most in (1, 5, 50, 300):
        (best,) = links.reached(rows, ONES).best(most, allowed)
        assert sorted(best.tolist()) == sorted(row for row in top_rows(scores, most).tolist() if scores[row] > 0)


def test_without_a_history_nothing_is_reached(table):
    reached = Links.of_tables({"one": table}).reached(np.empty(0, np.int64), np.empty((2, 0), np.float32))
    assert reached.best(3, np.ones(3, bool))[0].tolist() == []
    assert reached.of(np.array([0, 2])).tolist() == [[[0, 0]], [[0, 0]]]
    assert reached.tops.tolist() == [[0], [0]]
