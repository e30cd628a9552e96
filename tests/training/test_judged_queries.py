"""Judged queries: pairs by worth, rivals, and judgements that cannot be used."""

import duckdb
import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.progress import SilentProgress
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.training.judged_queries import JudgedQueries, judged_queries, mine_rivals
from tests.toys.training_workers import TITLES, toy_catalog


def judged(*rows: tuple[str, list[int], list[float]]) -> JudgedQueries:
    return JudgedQueries(
        [query for query, _, _ in rows],
        [np.array(items, np.int64) for _, items, _ in rows],
        [np.array(gains, np.float64) for _, _, gains in rows],
    )


def table(*rows: tuple[str, str, float]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE judgements (query VARCHAR, item_id VARCHAR, grade FLOAT)")
    if rows:
        connection.executemany("INSERT INTO judgements VALUES (?, ?, ?)", list(rows))
    return connection


def test_pairs_are_drawn_by_what_an_item_is_worth():
    queries, rows = judged(("a", [3, 4, 5], [2.0, 1.0, 0.0])).pairs(4_000, np.random.default_rng(0))
    assert set(queries) == {"a"}
    assert np.bincount(rows, minlength=6)[3:] / 4_000 == pytest.approx([3 / 4, 1 / 4, 0], abs=0.02)


def test_a_batch_has_distinct_queries_while_there_are_enough():
    many = judged(*((f"q{number}", [number], [1.0]) for number in range(8)), ("none", [1], [0.0]))
    queries, rows = many.pairs(8, np.random.default_rng(0))
    assert sorted(queries) == [f"q{number}" for number in range(8)]
    assert [f"q{row}" for row in rows] == queries


def test_a_held_out_query_stays_held_out():
    many = judged(*((f"q{number}", [0], [1.0]) for number in range(2_000)))
    rest, held_out = many.divided(0.25)
    assert sorted(rest.queries + held_out.queries) == sorted(many.queries)
    assert len(held_out) == pytest.approx(500, abs=60)
    more = judged(("new", [0], [1.0]), *((query, [1], [1.0]) for query in reversed(held_out.queries)))
    assert set(more.divided(0.25)[0].queries) <= {"new"}
    assert 60 < len(held_out.divided(0.25, "other")[1]) < 190  # another name, another division


def test_rivals_share_words_with_the_query_and_do_not_answer_it():
    queries = judged(("apple", [0, 8], [1.0, 0.0]))  # red apple answers it, the blue plum was judged not to
    rivals = mine_rivals(queries, LexicalIndex.build(TITLES), 5, SilentProgress())
    assert TITLES[8] == "blue plum"
    drawn = rivals(["apple", "made up"], np.array([0, 4]), np.random.default_rng(0))
    assert drawn.rows.tolist() == [3, 6, 8]  # green and blue apple, and what was judged
    assert drawn.answers.tolist() == [[True, *[False] * 4], [False] * 5]


def test_no_rival_is_also_a_positive_of_the_batch():
    rivals = mine_rivals(judged(("apple", [0], [1.0])), LexicalIndex.build(TITLES), 5, SilentProgress())
    assert rivals(["apple", "green apple"], np.array([0, 3]), np.random.default_rng(0)).rows.tolist() == [6]


def test_queries_without_rivals_give_none():
    rivals = mine_rivals(judged(("zebra", [0], [1.0])), LexicalIndex.build(TITLES), 1, SilentProgress())
    drawn = rivals(["zebra"], np.array([0]), np.random.default_rng(0))
    assert drawn.rows.tolist() == []
    assert drawn.answers.tolist() == [[True]]


def test_judgements_of_the_tables():
    connection = table((" Apple ", "0", 3.0), ("apple", "1", 1.0), ("apple", "gone", 3.0), (" ", "2", 3.0))
    found = judged_queries(connection, toy_catalog())
    assert found.queries == ["apple"]
    assert found.items[0].tolist() == [0, 1]
    assert found.gains[0].tolist() == [2.0, 0.0]
    assert found.answered.tolist() == [0]


def test_where_all_grades_are_equal_every_judged_item_answers():
    assert judged_queries(table(("apple", "0", 5.0)), toy_catalog()).gains[0].tolist() == [1.0]


def test_no_judgements_are_no_queries():
    assert len(judged_queries(table(), toy_catalog())) == 0


@pytest.mark.parametrize(
    "grades", [pytest.param((1.0, float("nan")), id="no number"), pytest.param((0.0, 100.0), id="percentages")]
)
def test_grades_that_cannot_be_gains_are_refused(grades):
    rows = [("apple", str(place), grade) for place, grade in enumerate(grades)]
    with pytest.raises(DataError, match=r"1 of 1 queries have a grade .* first 'apple'"):
        judged_queries(table(*rows), toy_catalog())
