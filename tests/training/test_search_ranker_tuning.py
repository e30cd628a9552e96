"""Learning the ranker of search on lists whose best order is known."""

import numpy as np
import pytest

from pipelines.config import SearchRankerConfig
from pipelines.errors import DataError
from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.progress import SilentProgress
from pipelines.ranking.search_candidates import SearchCandidates
from pipelines.training.search_ranker_tuning import (
    SearchLists,
    choose_lexical_weight,
    fit_search_ranker,
    gain_over_fusion,
    lists_ndcg,
    ndcg_values,
)

CONFIG = SearchRankerConfig(min_queries=20, epochs=15, width=8, batch=8, learning_rate=1e-2)
COSINE, LEXICAL = SEARCH_FEATURES.index("cosine"), SEARCH_FEATURES.index("lexical_of_best")


def candidates(rows, cosines, words) -> SearchCandidates:
    features = np.zeros((len(rows), len(SEARCH_FEATURES)), np.float32)
    features[:, COSINE], features[:, LEXICAL] = cosines, words
    return SearchCandidates(np.array(rows, np.int64), features, np.ones((len(rows), 2), bool))


def lists(n: int, seed: int) -> SearchLists:
    """Return lists in which only the lexical score tells what is relevant, and the cosine misleads."""
    rng = np.random.default_rng(seed)
    found, items, gains = [], [], []
    for _ in range(n):
        words = rng.random(12)
        found.append(candidates(range(12), rng.random(12), words))
        items.append(np.array([int(words.argmax())]))
        gains.append(np.array([2.0]))
    return SearchLists(found, items, gains)


def test_worth_is_that_of_the_judged_candidates():
    one = SearchLists([candidates([2, 5, 9], 0, 0)], [np.array([9, 2, 11])], [np.array([2.0, 0.0, 3.0])])
    assert one.worth(0).tolist() == [0.0, 0.0, 3.0]
    assert one.useful().tolist() == [0]


def test_ndcg_counts_judged_items_that_are_no_candidates_as_missed():
    one = SearchLists([candidates([2, 5], 0, 0)], [np.array([5, 7])], [np.array([1.0, 1.0])])
    ideal = 1 + 1 / np.log2(3)
    assert lists_ndcg(one, [np.array([1.0, 0.0])]) == pytest.approx(1 / np.log2(3) / ideal)
    assert lists_ndcg(one, [np.array([0.0, 1.0])]) == pytest.approx(1 / ideal)


def test_the_lexical_weight_is_the_smallest_of_the_best():
    one = SearchLists([candidates([0, 1], [0.5, 0.3], [0.0, 1.0])], [np.array([1])], [np.array([1.0])])
    assert choose_lexical_weight(one) == (0.3, 1.0)  # 0.2 would be a tie with the item in front


def test_the_ranker_learns_what_is_relevant():
    fit = fit_search_ranker(lists(80, 1), lists(40, 2), config=CONFIG, seed=0, progress=SilentProgress())
    assert fit.validation_ndcg[fit.best_epoch] > 0.9
    assert fit.validation_ndcg[fit.best_epoch] == max(fit.validation_ndcg.values())
    assert fit.losses[15] < fit.losses[1]


def test_what_the_ranker_gains_over_the_fusion_has_an_error():
    judge = lists(40, 2)
    ranker = fit_search_ranker(lists(80, 1), judge, config=CONFIG, seed=0, progress=SilentProgress()).ranker
    meaning, best = gain_over_fusion(ranker, judge, 0.0), gain_over_fusion(ranker, judge, 1e6)
    assert meaning.is_clear
    assert meaning.mean > 0.3
    assert meaning.standard_error < 0.1
    assert not best.is_clear  # words alone are right for every query


def test_a_query_without_any_gain_does_not_count():
    one = SearchLists([candidates([2], 0, 0)] * 2, [np.array([2])] * 2, [np.array([0.0]), np.array([1.0])])
    scores = [np.array([1.0])] * 2
    assert ndcg_values(one, scores) == pytest.approx([np.nan, 1.0], nan_ok=True)
    assert lists_ndcg(one, scores) == 1.0


def test_the_same_seed_gives_the_same_ranker():
    fits = [
        fit_search_ranker(
            lists(30, 1),
            lists(10, 2),
            config=CONFIG.model_copy(update={"epochs": 1}),
            seed=3,
            progress=SilentProgress(),
        )
        for _ in range(2)
    ]
    assert fits[0].losses == fits[1].losses


def test_too_few_queries_are_refused():
    with pytest.raises(DataError, match=r"19 training and 5 validation queries .* needs 20 and 1"):
        fit_search_ranker(lists(19, 1), lists(5, 2), config=CONFIG, seed=0, progress=SilentProgress())


def test_gains_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match=r"1 of 1 queries have a gain that is negative or no number, first at 0"):
        SearchLists([candidates([0], 0, 0)], [np.array([0])], [np.array([np.nan])])
