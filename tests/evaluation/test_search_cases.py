"""Search measured on queries with known answers."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.evaluation.search_cases import JudgedQueries, measure_search, same_text_targets


def test_items_that_read_the_same_are_all_right():
    targets = same_text_targets(np.asarray([1, 2]), ["pear", "apple", "plum", "apple"])
    assert [found.tolist() for found in targets] == [[1, 3], [2]]


def test_every_item_is_ranked_for_every_query():
    judged = JudgedQueries(["first", "second", "third"], [np.asarray([n]) for n in (0, 2, 3)], "hand")

    def score(queries):
        return np.tile(np.asarray([4, 3, 2, np.inf], np.float32), (len(queries), 1))

    found = measure_search(judged, {"x": score}, 4, block_queries=2)["x"]
    assert found.finite_share == 0.75  # the infinite score ranks last
    assert found.values["mrr"].tolist() == [1, 1 / 3, 1 / 4]


def test_scores_of_another_shape_are_refused():
    judged = JudgedQueries(["first"], [np.asarray([0])], "hand")
    with pytest.raises(DataError, match=r"search case x gave scores of shape \(1, 2\), \(1, 4\) is needed"):
        measure_search(judged, {"x": lambda queries: np.zeros((1, 2))}, 4)


def test_slices_of_queries_count_only_their_own():
    judged = JudgedQueries(["first", "second"], [np.asarray([0]), np.asarray([1])], "hand")
    scores = np.asarray([2, 1], np.float32)
    found = measure_search(
        judged,
        {"x": lambda queries: np.tile(scores, (len(queries), 1))},
        2,
        query_slices={"han script": np.asarray([False, True])},
    )["x"]
    assert found.values["han script.ndcg@10"].tolist() == pytest.approx([np.nan, 1 / np.log2(3)], nan_ok=True)
