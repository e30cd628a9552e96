"""Full ranking of several cases on the same rows, worked out by hand."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.cases import (
    Case,
    CaseResult,
    measure_cases,
    paired_gains,
    slice_gains,
    slice_sizes,
    summarize,
)
from pipelines.progress import SilentProgress
from tests.toys.evaluation_rows import row, rows_of

CATALOGUE = ["a", "b", "c", "d"]
POPULARITY = np.asarray([4.0, 3.0, 2.0, 1.0])
COUNTS = np.asarray([40, 30, 20, 5], np.float32)
"""d alone is cold; a, b and c make 90 of 95 events, so d is the tail too."""


@pytest.fixture
def rows(tmp_path):
    return rows_of(
        tmp_path,
        CATALOGUE,
        row(1, "ann", history=["a"], seen=["a"], targets=["a", "c"], new=["c"]),
        row(2, "ann", history=["a"], seen=["a", "b"], targets=["b"], new=[]),
        row(3, "bob", history=[], seen=[], targets=["d"]),
    )


def alphabetic(rows):
    return np.tile(np.asarray([4, 3, 2, 1], np.float32), (len(rows), 1))


def backwards(rows):
    return np.tile(np.asarray([1, 2, 3, 4], np.float32), (len(rows), 1))


def measure(rows, *cases, block_rows=2):
    return measure_cases(
        rows,
        cases,
        POPULARITY,
        SilentProgress(),
        counts=COUNTS,
        vectors=np.eye(4, dtype=np.float32),
        block_rows=block_rows,
    )


def test_new_items_are_ranked_among_unseen_ones_and_baskets_among_all(rows):
    values = measure(rows, Case("alphabetic", alphabetic))["alphabetic"].values
    # row 1: without a the ranking is b c d, so c is second; row 2 has no new item; row 3: d is fourth
    assert values["mrr"].tolist() == pytest.approx([1 / 2, np.nan, 1 / 4], nan_ok=True)
    # row 1: a is first; row 2: b is second; row 3: d is fourth
    assert values["next_basket.mrr"].tolist() == [1, 1 / 2, 1 / 4]


def test_results_do_not_depend_on_the_size_of_a_block(rows):
    one, three = (measure(rows, Case("x", alphabetic), block_rows=size)["x"].values for size in (1, 3))
    assert all(np.array_equal(one[name], three[name], equal_nan=True) for name in one)


def test_a_stranger_is_ranked_by_popularity_unless_the_case_knows_better(rows):
    found = measure(rows, Case("falls back", backwards), Case("own", backwards, own_fallback=True))
    assert found["falls back"].values["mrr"][2] == 1 / 4
    assert found["own"].values["mrr"][2] == 1


def test_scores_that_are_not_finite_rank_last_and_are_counted(rows):
    def broken(rows):
        scores = alphabetic(rows)
        scores[:, 0] = np.nan
        return scores

    found = measure(rows, Case("broken", broken, own_fallback=True))["broken"]
    assert found.finite_share == 0.75
    assert found.values["next_basket.mrr"].tolist() == [1 / 2, 1, 1 / 3]  # b c d a


def test_an_item_that_is_not_in_the_catalogue_is_never_found(tmp_path):
    rows = rows_of(tmp_path, CATALOGUE, row(1, "ann", seen=["a"], targets=["gone", "lost", "b"]))
    values = measure(rows, Case("alphabetic", alphabetic))["alphabetic"].values
    assert values["recall@10"].tolist() == [pytest.approx(1 / 3)]
    assert values["mrr"].tolist() == [1]


def test_scores_of_another_shape_are_refused(rows):
    with pytest.raises(DataError, match=r"case short gave scores of shape \(2, 3\), \(2, 4\) is needed"):
        measure(rows, Case("short", lambda rows: alphabetic(rows)[:, :3]))


def test_gains_are_paired_by_row(rows):
    results = measure(rows, Case("headrace", backwards, own_fallback=True), Case("popularity", alphabetic))
    bootstrap = UserBootstrap(rows.user_ids, samples=200, seed=1)
    metrics = {**summarize(results, bootstrap), **paired_gains(results, "headrace", bootstrap)}
    assert set(metrics) == {"headrace", "popularity", "gain over popularity"}
    # new items: backwards finds c second and d first, popularity c second and d fourth
    assert metrics["headrace"]["mrr"].value == 0.75
    assert metrics["popularity"]["mrr"].value == 0.375
    gain = metrics["gain over popularity"]["mrr"]
    assert (gain.value, gain.low, gain.high) == (0.375, 0.0, 0.75)  # ann gains 0, bob 0.75
    assert metrics["headrace"]["finite_share"].value == 1


def test_what_no_row_counts_for_has_no_number(rows):
    bootstrap = UserBootstrap(rows.user_ids, samples=200, seed=1)
    results = measure(rows, Case("headrace", backwards), Case("popularity", alphabetic))
    found = summarize(results, bootstrap)["headrace"]
    assert "short histories.recall@10" in found
    assert "long histories.recall@10" not in found  # nobody has one
    nothing = {name: CaseResult({"mrr": np.full(len(rows), np.nan)}, 1.0) for name in ("headrace", "popularity")}
    assert paired_gains(nothing, "headrace", bootstrap) == {"gain over popularity": {}}
    assert summarize(nothing, bootstrap)["headrace"].keys() == {"finite_share"}


def test_slices_count_only_their_own_targets_and_histories(rows):
    values = measure(rows, Case("alphabetic", alphabetic))["alphabetic"].values
    np.testing.assert_array_equal(values["cold items.recall@10"], [np.nan, np.nan, 1])  # only bob's d is cold
    np.testing.assert_array_equal(values["tail items.recall@10"], [np.nan, np.nan, 1])
    np.testing.assert_array_equal(values["short histories.recall@10"], [1, np.nan, 1])
    assert np.isnan(values["long histories.recall@10"]).all()


def test_lists_leave_out_what_was_seen(rows):
    lists = measure(rows, Case("alphabetic", alphabetic))["alphabetic"].lists
    assert lists["coverage"] == 1  # bob sees a, b, c and d
    assert lists["diversity"].tolist() == [1, 1, 1]  # no two items are alike
    assert lists["popularity_rank"].tolist() == [3, 3.5, 2.5]  # b c d; c d; a b c d


def test_a_category_is_a_slice_like_the_others(rows):
    first_two = {"category Tea": np.asarray([False, False, True, False])}
    results = measure_cases(
        rows,
        [Case("headrace", backwards, own_fallback=True), Case("champion", alphabetic, own_fallback=True)],
        POPULARITY,
        SilentProgress(),
        counts=COUNTS,
        vectors=np.eye(4, dtype=np.float32),
        item_slices=first_two,
    )
    sizes = slice_sizes(results["headrace"])
    # ann's c is the one target in the category; bob's d is cold and tail; ann's second row has no new item
    assert sizes == {
        "cold items": 1,
        "tail items": 1,
        "category Tea": 1,
        "short histories": 2,
        "long histories": 0,
    }
    bootstrap = UserBootstrap(rows.user_ids, samples=200, seed=1)
    gains = slice_gains(results, "headrace", "champion", bootstrap)
    # d is first backwards and fourth alphabetically; c is second both times
    assert gains["tail items.ndcg@10"].value == pytest.approx(1 - 1 / np.log2(5))
    assert gains["category Tea.ndcg@10"].value == 0
    assert "ndcg@10" not in gains and "next_basket.ndcg@10" not in gains
    assert slice_sizes(results["headrace"], "search.")["search.tail items"] == 1
