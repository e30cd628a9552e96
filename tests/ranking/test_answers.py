"""Answers of the toy bundle, worked out by hand."""

import numpy as np
import pytest

from pipelines.config import ServingConfig
from pipelines.errors import DataError
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Fusion, Preprocessing, RecommendFusion, SearchFusion
from pipelines.ranking.answers import recommend, search, similar
from pipelines.ranking.filtering import Filters
from pipelines.ranking.fusion import recommendation_scores
from tests.toys.toy_bundle import User, bought, one_hot, write_toy_bundle

SERVING = ServingConfig()
DAY_S = 86_400
NOW_S = 100 * DAY_S
LONG_AGO = NOW_S - 50 * DAY_S


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    fusion = Fusion(
        recommend=RecommendFusion(dense=0.5, item_to_item=0.25, popularity=0.25),
        search=SearchFusion(dense=0.5, lexical=0.5),
    )
    write_toy_bundle(folder, preprocessing=Preprocessing(fusion=fusion))
    return load_bundle(folder)


def item_ids(bundle, ranking) -> list[str]:
    return [bundle.item_ids[row] for row in ranking.rows]


def test_a_stranger_gets_popular_items(bundle):
    ranking = recommend(bundle, None, k=3, now_s=NOW_S, serving=SERVING)
    assert item_ids(bundle, ranking) == ["d", "c", "b"]
    assert not ranking.personalized


@pytest.mark.parametrize("user", [User(), bought("gone")], ids=["empty history", "unknown items"])
def test_a_user_of_whom_nothing_is_known_gets_popular_items(bundle, user):
    ranking = recommend(bundle, user, k=3, now_s=NOW_S, serving=SERVING)
    assert item_ids(bundle, ranking) == ["d", "c", "b"]
    assert not ranking.personalized


def test_a_recommendation_is_the_weighted_mean_of_its_parts(bundle):
    # After "a" (red apple): dense 1, 1/2, 0, 0, 0; item-to-item b 0.8, d 0.4, relative to b: 1, 1/2.
    ranking = recommend(bundle, bought("a", at=LONG_AGO), k=5, now_s=NOW_S, serving=SERVING)
    expected = {"a": 0.5, "b": 0.25 + 0.25 + 0.25 / 3, "c": 0.25 * 2 / 3, "d": 0.25 / 2 + 0.25, "e": 0.0}
    scores = dict(zip(item_ids(bundle, ranking), ranking.scores.tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=1e-3)
    assert item_ids(bundle, ranking) == ["b", "a", "d", "c", "e"]
    assert ranking.personalized
    assert ranking.parts["item_to_item"].tolist() == pytest.approx([1, 0, 0.5, 0, 0])


def test_the_answer_is_the_top_of_the_full_ranking(bundle):
    user = User(["a", "d", "gone", "e"], ["view", "purchase", "cart", "view"], [0, LONG_AGO, LONG_AGO, LONG_AGO])
    full = recommendation_scores(bundle, [user, User()], [NOW_S, NOW_S])
    full[:, ~bundle.available] = -1
    for row, features in enumerate((user, None)):
        ranking = recommend(bundle, features, k=5, now_s=NOW_S, serving=SERVING)
        assert ranking.rows.tolist() == np.argsort(-full[row], kind="stable")[:5].tolist()
        np.testing.assert_allclose(ranking.scores, full[row, ranking.rows], atol=1e-6)


def test_what_was_just_bought_is_left_out(bundle):
    user = User(["a", "b", "c"], ["purchase", "purchase", "view"], [NOW_S - 8 * DAY_S, NOW_S - DAY_S, NOW_S])
    assert "b" not in item_ids(bundle, recommend(bundle, user, k=6, now_s=NOW_S, serving=SERVING))
    everything = ServingConfig(exclude_purchased_days=0)
    assert set(item_ids(bundle, recommend(bundle, user, k=6, now_s=NOW_S, serving=everything))) == set("abcde")


def test_unavailable_items_never_appear(bundle):
    user = bought("d", at=LONG_AGO)
    assert "f" not in item_ids(bundle, recommend(bundle, user, k=6, now_s=NOW_S, serving=SERVING))
    assert "f" not in item_ids(bundle, search(bundle, "red bread", k=6, now_s=NOW_S, serving=SERVING))
    assert "f" not in item_ids(bundle, similar(bundle, "d", k=6, serving=SERVING, kind="goes_with"))


def test_seed_items_personalize_a_stranger_and_are_not_recommended(bundle):
    ranking = recommend(bundle, None, k=5, now_s=NOW_S, serving=SERVING, seed_items=["a"])
    assert ranking.personalized
    assert item_ids(bundle, ranking)[0] == "b"
    assert "a" not in item_ids(bundle, ranking)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param(Filters(categories=("FRUIT",)), {"a", "b", "c"}, id="category, any case"),
        pytest.param(Filters(brands=("Mill", "Orchard")), {"a", "b", "d", "e"}, id="two brands"),
        pytest.param(Filters(categories=("Toys",)), set(), id="unknown category"),
        pytest.param(Filters(min_price=2.0, max_price=3.0), {"b", "c"}, id="price, ends included"),
        pytest.param(Filters(max_price=100), {"a", "b", "c", "d"}, id="no price does not match a price"),
        pytest.param(Filters(excluded_categories=("FRUIT", "Toys")), {"d", "e"}, id="all but a category"),
        pytest.param(Filters(), {"a", "b", "c", "d", "e"}, id="no filter"),
    ],
)
def test_filters(bundle, filters, expected):
    popular = recommend(bundle, None, k=6, now_s=NOW_S, serving=SERVING, filters=filters)
    assert set(item_ids(bundle, popular)) == expected
    found = search(bundle, "apple", k=6, now_s=NOW_S, serving=SERVING, filters=filters)
    assert set(item_ids(bundle, found)) == expected


def test_search_is_the_weighted_mean_of_meaning_and_words(bundle):
    ranking = search(bundle, "red apple", k=2, now_s=NOW_S, serving=SERVING)
    assert item_ids(bundle, ranking) == ["a", "b"]
    assert ranking.scores[0] == pytest.approx(1.0, abs=1e-3)
    assert ranking.parts["dense"].tolist() == pytest.approx([1.0, 0.5], abs=1e-3)
    assert not ranking.personalized


def test_taste_decides_between_equal_matches(bundle):
    green = bought("c", at=LONG_AGO)
    assert item_ids(bundle, search(bundle, "apple", k=1, now_s=NOW_S, serving=SERVING)) == ["a"]
    ranking = search(bundle, "apple", k=1, now_s=NOW_S, serving=SERVING, features=green)
    assert item_ids(bundle, ranking) == ["b"]
    assert ranking.personalized
    no_taste = ServingConfig(search_personalization=0)
    assert item_ids(bundle, search(bundle, "apple", k=1, now_s=NOW_S, serving=no_taste, features=green)) == ["a"]


def test_a_known_query_vector_is_used(bundle):
    ranking = search(bundle, "zebra", k=1, now_s=NOW_S, serving=SERVING, query_vector=one_hot("oat milk"))
    assert item_ids(bundle, ranking) == ["e"]


def test_similar_items_and_items_that_go_with_it(bundle):
    assert item_ids(bundle, similar(bundle, "a", k=1, serving=SERVING)) == ["b"]
    ranking = similar(bundle, "a", k=5, serving=SERVING, kind="goes_with")
    assert item_ids(bundle, ranking) == ["b", "d"]
    assert ranking.scores.tolist() == pytest.approx([0.8, 0.4], rel=1e-3)  # kept as float16


def test_an_unknown_item_is_named(bundle):
    with pytest.raises(DataError, match="The item 'zzz' is unknown"):
        similar(bundle, "zzz", k=1, serving=SERVING)


def test_scaling_all_weights_changes_nothing(bundle, tmp_path):
    fusion = Fusion(recommend=RecommendFusion(dense=50, item_to_item=25, popularity=25))
    write_toy_bundle(tmp_path / "b", preprocessing=Preprocessing(fusion=fusion))
    user = bought("a", at=LONG_AGO)
    scaled = recommend(load_bundle(tmp_path / "b"), user, k=5, now_s=NOW_S, serving=SERVING)
    ranking = recommend(bundle, user, k=5, now_s=NOW_S, serving=SERVING)
    assert scaled.rows.tolist() == ranking.rows.tolist()
    np.testing.assert_allclose(scaled.scores, ranking.scores, rtol=1e-5)
