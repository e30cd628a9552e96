"""Baselines, worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.evaluation.baselines import DirectedCooccurrence, ItemKnn, OwnHistory, Popularity, TextProfile, TfIdf
from pipelines.evaluation.interactions import read_interactions
from tests.toys.evaluation_rows import row, rows_of
from tests.toys.event_tables import day, event, tables_with

CATALOGUE = ["a", "b", "c", "d"]
#        user 0 bought a and b, user 1 bought a and b, user 2 bought a and c; nobody bought d
USERS = np.asarray([0, 0, 1, 1, 2, 2, 0])
ITEMS = np.asarray([0, 1, 0, 1, 0, 2, 0])  # the last event repeats the first: it counts once


@pytest.fixture
def rows(tmp_path):
    def rows(*histories, **options):
        made = [row(number, f"user-{number}", history=history, **options) for number, history in enumerate(histories)]
        return rows_of(tmp_path, CATALOGUE, *made)

    return rows


def test_popularity_is_the_same_for_everybody(rows):
    assert Popularity(np.asarray([3, 0, 1, 0])).scores(rows(["a"], [])).tolist() == [[3, 0, 1, 0], [3, 0, 1, 0]]


def test_item_knn_is_the_cosine_over_users(rows):
    knn = ItemKnn(USERS, ITEMS, n_items=4)
    [scores] = knn.scores(rows(["a"]))
    # a has 3 users, b 2, c 1: two share a and b, one shares a and c
    assert scores.tolist() == pytest.approx([1, 2 / math.sqrt(6), 1 / math.sqrt(3), 0])


def test_item_knn_weighs_older_baskets_less(rows):
    knn = ItemKnn(USERS, ITEMS, n_items=4)
    [scores] = knn.scores(rows(["c", "b"]))  # c was bought a basket before b
    assert scores[0] == pytest.approx(0.7 / math.sqrt(3) + 2 / math.sqrt(6))
    assert scores[2] == pytest.approx(0.7)


def test_items_of_one_basket_weigh_the_same(rows):
    knn = ItemKnn(USERS, ITEMS, n_items=4)
    [scores] = knn.scores(rows(["c", "b"], days_apart=0))
    assert scores[0] == pytest.approx(1 / math.sqrt(3) + 2 / math.sqrt(6))


def test_item_knn_ignores_items_that_left_the_catalogue(rows):
    knn = ItemKnn(USERS, ITEMS, n_items=4)
    gone, known = knn.scores(rows(["gone"], ["gone", "a"]))
    assert gone.tolist() == [0, 0, 0, 0]
    assert known.tolist() == pytest.approx([1, 2 / math.sqrt(6), 1 / math.sqrt(3), 0])


def test_item_knn_without_any_event_scores_nothing(rows):
    nothing = np.empty(0, np.int64)
    assert ItemKnn(nothing, nothing, n_items=4).scores(rows(["a"])).tolist() == [[0, 0, 0, 0]]


def test_text_profile_is_the_weighted_mean_direction(rows):
    vectors = np.asarray([[1, 0], [0, 1], [0, -1], [0.6, 0.8]], np.float32)
    older_a_newer_b, nobody = TextProfile(vectors).scores(rows(["a", "b"], []))
    length = math.sqrt(0.7**2 + 1)
    assert older_a_newer_b.tolist() == pytest.approx(
        [0.7 / length, 1 / length, -1 / length, (0.6 * 0.7 + 0.8) / length], abs=1e-6
    )
    assert nobody.tolist() == [0, 0, 0, 0]


def test_interactions_are_what_was_known_before_the_window(tmp_path):
    tables = tables_with(
        tmp_path,
        [
            event("u1", "a", day(1)),
            event("u1", "b", day(8), kind="view"),
            event("u2", "a", day(9), arrived=day(11)),  # arrived too late
            event("u2", "c", day(10)),  # happened when the window began
            event("u3", "a", day(9.5), kind="impression"),  # says nothing about taste
            event("u3", "gone", day(9)),
            event("u3", "c", day(9)),
        ],
        until=day(20),
    )
    with tables.connect() as connection:
        known = read_interactions(connection, CATALOGUE, day(10))
    assert known.counts().tolist() == [1, 1, 1, 0]
    assert known.newest(3).counts().tolist() == [0, 1, 1, 0]
    assert known.newest(0.1).counts().tolist() == [1, 1, 1, 0]  # nothing is so new: all of it


def test_item_knn_gives_the_same_whether_its_matrix_is_formed_or_not(rows, monkeypatch):
    formed = ItemKnn(USERS, ITEMS, n_items=4).scores(rows(["c", "b"], ["a"]))
    monkeypatch.setattr("pipelines.evaluation.baselines._FORMED_PAIRS", 0)
    np.testing.assert_allclose(ItemKnn(USERS, ITEMS, n_items=4).scores(rows(["c", "b"], ["a"])), formed, rtol=1e-6)


def test_directed_cooccurrence_looks_ahead_only(rows):
    # user 0 takes a, then b, then c; user 1 takes b, then a: a has 2 events, b 2, c 1
    directed = DirectedCooccurrence(
        np.asarray([0, 0, 0, 1, 1]), np.asarray([0, 1, 2, 1, 0]), np.asarray([0, 1, 2, 0, 1]), n_items=4
    )
    after_a, after_c = directed.scores(rows(["a"], ["c"]))
    assert after_a.tolist() == pytest.approx([0, 1 / 2, 0.8 / math.sqrt(2), 0])  # b a step after, c two steps
    assert after_c.tolist() == [0, 0, 0, 0]


def test_items_of_one_basket_do_not_follow_each_other(rows):
    directed = DirectedCooccurrence(np.asarray([0, 0, 0]), np.asarray([0, 1, 2]), np.asarray([0, 0, 1]), n_items=4)
    [after_a] = directed.scores(rows(["a"]))
    assert after_a.tolist() == [0, 0, 1, 0]


def test_directed_cooccurrence_ends_after_five_steps(rows):
    steps = np.arange(7)
    directed = DirectedCooccurrence(np.zeros(7, np.int64), np.asarray([0, 1, 1, 1, 1, 2, 3]), steps, n_items=4)
    [after_a] = directed.scores(rows(["a"]))
    assert after_a[2] == pytest.approx(0.8**4)
    assert after_a[3] == 0


def test_own_history_counts_often_and_lately(rows):
    [scores] = OwnHistory(4, decay=0.5).scores(rows(["a", "b", "a"]))
    assert scores.tolist() == [1.25, 0.5, 0, 0]


TEXTS = ["red tea", "red pot", "green tea", ""]
"""Terms of at least two texts: red (2), tea (2)."""


def test_tfidf_is_the_cosine_of_shared_terms(rows):
    [scores] = TfIdf(TEXTS).scores(rows(["a"]))
    # red and tea are equally rare, so "red tea" is half red and half tea, and the others are one of them
    assert scores.tolist() == pytest.approx([1, math.sqrt(0.5), math.sqrt(0.5), 0])


def test_tfidf_knows_pairs_of_words():
    tfidf = TfIdf(["red tea", "red tea", "tea red", "tea red"])
    same, turned = tfidf.search_scores(["red tea"])[0, [0, 2]]
    assert same == pytest.approx(1)
    assert turned < 0.9


def test_tfidf_search_finds_nothing_for_unknown_words():
    assert TfIdf(TEXTS).search_scores(["blue cup"]).tolist() == [[0, 0, 0, 0]]
