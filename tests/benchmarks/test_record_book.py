"""From rows to records: means over seeds, gains, tables."""

import numpy as np
import pytest

from pipelines.benchmarks.record_book import RecordBook, section
from pipelines.evaluation.bootstrap import UserBootstrap

USERS = 4


@pytest.fixture
def book():
    return RecordBook("recommend", "toy", UserBootstrap(np.arange(USERS), samples=200, seed=0))


def values(*numbers):
    return {"ndcg@10": np.asarray(numbers, float)}


def found(book, case, metric="ndcg@10"):
    [record] = [record for record in book.records if (record.case, record.metric) == (case, metric)]
    return record


def test_a_row_counts_with_its_mean_over_seeds(book):
    book.add_rows("headrace", [values(0, 0, 1, 1), values(1, 1, 1, 1)], over_seeds=["ndcg@10"])
    record = found(book, "headrace")
    assert (record.value, record.seeds) == (0.75, 2)
    assert 0.5 <= record.low < 0.75 < record.high <= 1
    spread = found(book, "headrace", "ndcg@10 over seeds")
    assert (spread.value, spread.low, spread.high) == (0.75, 0.5, 1.0)


def test_one_seed_has_no_spread(book):
    book.add_rows("tfidf", [values(0, 1, 0, 1)], over_seeds=["ndcg@10"])
    assert {record.metric for record in book.records} == {"ndcg@10"}


def test_rows_that_do_not_count_are_left_out(book):
    book.add_rows("tfidf", [values(np.nan, 1, 0, np.nan)], over_seeds=[])
    assert found(book, "tfidf").value == 0.5
    book.add_rows("nothing", [values(np.nan, np.nan, np.nan, np.nan)], over_seeds=[])
    assert "nothing" not in {record.case for record in book.records}
    book.add_rows("headrace", [values(np.nan, 1, 1, np.nan)], over_seeds=[])
    book.add_gains(["nothing", "tfidf"], ["ndcg@10"], best_by="ndcg@10")
    assert found(book, "headrace: gain over tfidf").value == 0.5


def test_gains_are_over_the_best_baseline_and_over_each_ablation(book):
    book.add_rows("weak", [values(0, 0, 0, 0)], over_seeds=[])
    book.add_rows("strong", [values(1, 0, 0, 0)], over_seeds=[])
    book.add_rows("headrace", [values(1, 1, 1, 0)], over_seeds=[])
    book.add_rows("without words", [values(1, 1, 0, 0)], over_seeds=[])
    book.add_gains(["weak", "strong"], ["ndcg@10"], best_by="ndcg@10")
    gains = {record.case: record.value for record in book.records if "gain" in record.case}
    assert gains == {"headrace: gain over strong": 0.5, "headrace: gain over without words": 0.25}
    assert found(book, "headrace: gain over strong").low >= 0  # nobody loses


def both_tables(new, whole):
    return values(*new) | {"next_basket.ndcg@10": np.asarray(whole, float)}


def test_each_table_has_its_own_best_baseline(book):
    book.add_rows("knn", [both_tables((1, 1, 0, 0), (0, 0, 0, 0))], over_seeds=[])
    book.add_rows("own_history", [both_tables((0, 0, 0, 0), (1, 1, 1, 0))], over_seeds=[])
    book.add_rows("headrace", [both_tables((1, 1, 1, 0), (1, 1, 1, 1))], over_seeds=[])
    book.add_gains(["knn", "own_history"], ["ndcg@10"], best_by="ndcg@10")
    book.add_gains(["knn", "own_history"], ["next_basket.ndcg@10"], best_by="next_basket.ndcg@10")
    gains = {(record.case, record.metric): record.value for record in book.records if "gain" in record.case}
    assert gains == {
        ("headrace: gain over knn", "ndcg@10"): 0.25,
        ("headrace: gain over own_history", "next_basket.ndcg@10"): 0.25,
    }


def test_where_no_row_counts_there_is_no_number(book):
    for case in ("knn", "own_history", "headrace"):
        book.add_rows(case, [both_tables([np.nan] * USERS, (0, 1, 0, 1))] * 2, over_seeds=["ndcg@10"])
    book.add_list_value("headrace", "novelty", [np.full(USERS, np.nan)])
    book.add_gains(["knn", "own_history"], ["ndcg@10"], best_by="ndcg@10")
    assert {(record.case, record.metric) for record in book.records} == {
        (case, "next_basket.ndcg@10") for case in ("knn", "own_history", "headrace")
    }


def test_without_the_model_there_are_no_gains(book):
    book.add_rows("weak", [values(0, 0, 0, 0)], over_seeds=[])
    book.add_gains(["weak"], ["ndcg@10"], best_by="ndcg@10")
    assert not [record for record in book.records if "gain" in record.case]


def test_what_lists_are_like_may_be_one_number(book):
    book.add_list_value("tfidf", "coverage", [np.asarray(0.25), np.asarray(0.75)])
    book.add_list_value("tfidf", "novelty", [np.asarray([1.0, 2, 3, 4])], unit="bit")
    assert (found(book, "tfidf", "coverage").value, found(book, "tfidf", "coverage").low) == (0.5, None)
    assert (found(book, "tfidf", "novelty").value, found(book, "tfidf", "novelty").unit) == (2.5, "bit")


def test_a_section_has_the_columns_that_are_asked_for(book):
    book.add_list_value("tfidf", "gini", [np.asarray(0.5)])
    book.add_list_value("tfidf", "coverage", [np.asarray(0.25)])
    assert section("Lists", book.records, ["coverage", "gini"]).splitlines() == [
        "Lists",
        "case   coverage  gini",
        "tfidf  0.2500    0.5000",
    ]
    assert section("Nothing", book.records, ["mrr"]) == ""


def test_gains_have_a_section_of_their_own_with_signs(book):
    book.add_rows("weak", [values(0, 0, 0, 1)], over_seeds=[])
    book.add_rows("headrace", [values(1, 1, 1, 1)], over_seeds=[])
    book.add_gains(["weak"], ["ndcg@10"], best_by="ndcg@10")
    head, line = section("Gains", book.records, ["ndcg@10"], gains=True).splitlines()[1:]
    assert head.split() == ["case", "ndcg@10"]
    assert line.startswith("headrace: gain over weak  +0.7500 [+0.")
    assert "gain" not in section("All", book.records, ["ndcg@10"])


def test_columns_leave_out_what_the_title_says(book):
    book.add_rows("tfidf", [{"cold items.ndcg@10": np.ones(USERS)}], over_seeds=[])
    assert section("Slices", book.records, ["cold items.ndcg@10"], without=".ndcg@10").splitlines()[1] == (
        "case   cold items"
    )
