"""What is remembered of users gives the answers that remembering nothing gives."""

import numpy as np
import pytest
import torch

from pipelines.compression.onnx_export import export_ranker
from pipelines.config import ServingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Preprocessing, RankerSettings
from pipelines.inference.ranker_features import ranker_features
from pipelines.model.ranker import HEADS, Ranker
from pipelines.ranking.answers import recommend, search, similar
from pipelines.ranking.filtering import Filters
from pipelines.ranking.prepared import Kept, Prepared
from pipelines.retrieval.trends import build_trends
from tests.toys.toy_bundle import User, bought, write_toy_bundle

DAY_S = 86_400
NOW_S = 100 * DAY_S + 3_605
SERVING = ServingConfig()


class Counting:
    """A vector index that counts how often it is asked."""

    def __init__(self, index) -> None:
        self.index, self.asked = index, 0

    def nearest(self, vector, k, allowed=None, **more):
        self.asked += 1
        return self.index.nearest(vector, k, allowed, **more)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The toy bundle with a ranker of random weights, and trends."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(4)
    features = ranker_features(("item_to_item", "dense"))
    export_ranker(Ranker(len(features), 8), folder / "ranker.onnx")
    settings = RankerSettings(features=features, heads=HEADS, head_weights={"purchase": 1.0}, per_generator=2)
    trends = build_trends(np.array([4, 3, 1]), np.array([70, 100, 101]) * DAY_S, 6)
    preprocessing = Preprocessing(ranker=settings)
    write_toy_bundle(folder / "toy", preprocessing=preprocessing, ranker=folder / "ranker.onnx", trends=trends)
    return load_bundle(folder / "toy")


def shopper() -> User:
    return User(
        ["a", "gone", "d", "a", "c"],
        ["view", "purchase", "purchase", "purchase", "view"],
        [NOW_S - 90 * DAY_S, NOW_S - 20 * DAY_S, NOW_S - 7 * DAY_S + 90, NOW_S - 6 * DAY_S, NOW_S - 3_500],
    )


def answer(bundle, user, now_s, **more):
    return recommend(bundle, user, k=6, now_s=now_s, serving=SERVING, **more)


def test_remembering_changes_no_answer_whenever_it_is_asked(bundle):
    """The purchase of d stops being excluded at +90 s, the newest event is an hour old at +100 s, then comes a day."""
    prepared, user = Prepared(SERVING), shopper()
    moments = [0, 30, 80, 100, 150, 90, 200, 4_000, DAY_S, DAY_S + 60, 2 * DAY_S, 0, 60, 30 * DAY_S]
    for moment in moments:
        fresh, kept = answer(bundle, user, NOW_S + moment), answer(bundle, user, NOW_S + moment, prepared=prepared)
        assert kept.rows.tolist() == fresh.rows.tolist()
        np.testing.assert_array_equal(kept.scores, fresh.scores)
        assert {name: part.tolist() for name, part in kept.parts.items()} == {
            name: part.tolist() for name, part in fresh.parts.items()
        }


def test_candidates_are_found_once_a_day_for_the_same_features(bundle):
    index, prepared = Counting(bundle.vector_index), Prepared(SERVING)
    counted, user = bundle.with_vector_index(index), bought("a", at=NOW_S - 50 * DAY_S)
    for moment, asked in ((0, 1), (20, 1), (70, 1), (DAY_S, 2)):
        answer(counted, user, NOW_S + moment, prepared=prepared)
        assert index.asked == asked
    answer(counted, bought("a", at=NOW_S - 50 * DAY_S), NOW_S + DAY_S, prepared=prepared)
    assert index.asked == 3  # as much is known, but by another object: something may have happened


def test_items_like_an_item_are_looked_for_once(bundle):
    index, prepared = Counting(bundle.vector_index), Prepared(SERVING)
    counted = bundle.with_vector_index(index)
    options = {"serving": SERVING, "prepared": prepared}
    assert [similar(counted, "a", k=k, **options).rows.tolist() for k in (1, 2)] == [[1], [1, 2]]
    assert index.asked == 1
    bakery = Filters(categories=("Bakery",))
    assert similar(counted, "a", k=1, filters=bakery, **options).rows.tolist() == [3]
    assert index.asked == 2


def test_features_that_are_gone_are_not_taken_for_others(bundle):
    prepared = Prepared(SERVING)
    for item in "abcde" * 5:
        user = bought(item, at=NOW_S - 50 * DAY_S)  # the one before is let go, and its place in memory used again
        kept = answer(bundle, user, NOW_S, prepared=prepared)
        np.testing.assert_array_equal(kept.scores, answer(bundle, user, NOW_S).scores)


@pytest.mark.parametrize(
    "more",
    [{"filters": Filters(categories=("Fruit",))}, {"filters": Filters(max_price=2.0)}, {"seed_items": ["b"]}],
    ids=["category", "price", "seed"],
)
def test_filters_and_seed_items_look_for_candidates_of_their_own(bundle, more):
    prepared, user = Prepared(SERVING), shopper()
    answer(bundle, user, NOW_S, prepared=prepared)
    fresh, kept = answer(bundle, user, NOW_S, **more), answer(bundle, user, NOW_S, prepared=prepared, **more)
    assert len(fresh.rows)
    assert kept.rows.tolist() == fresh.rows.tolist()
    np.testing.assert_array_equal(kept.scores, fresh.scores)


@pytest.mark.parametrize(
    "filters", [Filters(categories=("Nothing",)), Filters(min_price=5.0, max_price=1.0)], ids=["category", "price"]
)
def test_a_filter_that_leaves_nothing_is_an_answer_without_items(bundle, filters):
    prepared, user = Prepared(SERVING), shopper()
    for more in ({}, {"prepared": prepared}, {"prepared": prepared}):
        assert len(answer(bundle, user, NOW_S, filters=filters, **more).rows) == 0


def test_a_search_knows_the_taste_that_is_remembered(bundle):
    prepared, user = Prepared(SERVING), bought("c", at=NOW_S - 50 * DAY_S)
    options = {"k": 2, "now_s": NOW_S, "serving": SERVING, "features": user}
    answer(bundle, user, NOW_S, prepared=prepared)
    for _ in range(2):
        found = search(bundle, "apple", prepared=prepared, **options)
        assert [bundle.item_ids[row] for row in found.rows] == ["b", "a"]  # c is green
        np.testing.assert_array_equal(found.scores, search(bundle, "apple", **options).scores)


def test_the_vector_holds_until_an_event_is_a_step_older():
    preprocessing = Preprocessing(gap_bucket_edges_s=(10, 100))
    times = np.array([0, 95, 103])
    since_s, until_s = preprocessing.same_buckets(times, 108.0)  # ages 108, 13, 5
    assert (since_s, until_s) == (105, 113)
    buckets = preprocessing.gap_buckets(times, 108.0).tolist()
    for now_s, same in ((105, False), (105.5, True), (113, True), (113.5, False)):
        assert (preprocessing.gap_buckets(times, now_s).tolist() == buckets) is same


def test_what_was_not_used_for_longest_goes_beyond_the_size():
    kept: Kept[str, int] = Kept(10, float)
    for name, size in (("a", 4), ("b", 4)):
        kept.put(name, size)
    assert kept.get("a") == 4
    kept.put("c", 5)  # 13 in all: b goes
    assert [kept.get(name) for name in "abc"] == [4, None, 5]
    kept.put("a", 1)
    kept.put("d", 4)
    assert [kept.get(name) for name in "acd"] == [1, 5, 4]
    kept.put("e", 11)  # larger than all of it
    assert [kept.get(name) for name in "acde"] == [None, None, None, None]


def test_memory_for_users_is_bounded(bundle):
    prepared = Prepared(ServingConfig(prepared_users_mib=0.01))
    users = [bought("a", at=NOW_S - 50 * DAY_S) for _ in range(20)]
    for user in users:
        answer(bundle, user, NOW_S, prepared=prepared)
    assert 0 < sum(prepared.user(bundle, user) is not None for user in users) < 5


def test_what_is_remembered_of_a_user_ends_with_the_features(bundle):
    prepared = Prepared(SERVING)
    kept = shopper()
    answer(bundle, kept, NOW_S, prepared=prepared)
    for _ in range(5):
        answer(bundle, shopper(), NOW_S, prepared=prepared)  # each an object of its own, as after an event
    answer(bundle, other := shopper(), NOW_S, prepared=prepared)
    assert len(prepared._users._values) == 2
    assert prepared._users._held == sum(user.size for _, user in prepared._users._values.values())
    assert prepared.user(bundle, kept) is not None and prepared.user(bundle, other) is not None
