"""Candidates of the toy bundle, worked out by hand."""

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.inference.ranker_features import ranker_features
from pipelines.ranking.candidates import _fill_generators, moment_of, recommend_candidates
from pipelines.retrieval.links import Links
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.retrieval.trends import build_trends
from tests.toys.toy_bundle import NEIGHBOUR_SCORES, NEIGHBOURS, User, bought, write_toy_bundle

DAY = 86_400
NOW_S = 100.0 * DAY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    table = NeighborTable.from_padded(NEIGHBOURS, NEIGHBOUR_SCORES)
    trends = build_trends(np.array([4, 4, 3]), np.array([70, 70, 100]) * DAY, 6)
    write_toy_bundle(folder, neighbors={"item_to_item": table}, trends=trends)
    return load_bundle(folder)


def candidates_of(bundle, user, per_generator=2):
    vector, _ = bundle.user_embedding(user, NOW_S)
    return recommend_candidates(bundle, user, vector, NOW_S, bundle.available, per_generator=per_generator)


def column(bundle, found, name):
    values = found.features[:, ranker_features(bundle.generators).index(name)]
    return dict(zip((bundle.item_ids[row] for row in found.rows), values.tolist(), strict=True))


def test_every_generator_proposes_its_best(bundle):
    found = candidates_of(bundle, bought("a", at=90 * DAY))
    ids = [bundle.item_ids[row] for row in found.rows]
    assert ids == ["a", "b", "d", "e"]  # neighbors b and d, dense a and b, trending e, repeat a; f is not available
    by = dict(
        zip(ids, found.found_by.tolist(), strict=True)
    )  # item_to_item? no: sorted tables, then dense, trending, repeat
    assert by == {
        "a": [False, True, False, True],
        "b": [True, True, False, False],
        "d": [True, False, False, False],
        "e": [False, False, True, False],
    }


def test_scores_are_relative_to_the_best_item_of_the_user(bundle):
    found = candidates_of(bundle, bought("a", at=90 * DAY))
    near = column(bundle, found, "item_to_item.relative")
    assert near == pytest.approx({"a": 0, "b": 1, "d": 0.5, "e": 0}, abs=1e-3)
    assert column(bundle, found, "item_to_item.rank")["d"] == pytest.approx(1 / np.log2(3))
    assert column(bundle, found, "item_to_item.strength")["b"] == pytest.approx(np.log1p(80), abs=1e-2)
    assert column(bundle, found, "dense.relative")["b"] == pytest.approx(0.5, abs=1e-3)  # both are apples


def test_newer_events_count_more_and_the_newest_alone(bundle):
    user = User(["c", "a"], ["view", "view"], [80 * DAY, 90 * DAY])  # c points to e, a to b and d
    found = candidates_of(bundle, user, per_generator=5)
    recent = column(bundle, found, "item_to_item.recent")
    assert (recent["b"], recent["e"]) == pytest.approx((1, 0.7 * 0.5 / 0.8), abs=1e-3)
    newest = column(bundle, found, "item_to_item.newest")
    assert (newest["b"], newest["e"]) == pytest.approx((1, 0), abs=1e-3)


def test_what_the_user_touched_is_told(bundle):
    user = User(["a", "a"], ["view", "purchase"], [80 * DAY, 90 * DAY])
    found = candidates_of(bundle, user)
    assert column(bundle, found, "times_touched")["a"] == pytest.approx(np.log1p(2))
    assert column(bundle, found, "days_since_touched")["a"] == pytest.approx(np.log1p(10))
    assert column(bundle, found, "touched") == {"a": 1, "b": 0, "d": 0, "e": 0}


def test_what_is_taken_again_is_told_by_moments(bundle):
    """Four moments, ages 3 to 0: item a in three of them, twice in one; b once, before the last one."""
    user = User(["a", "a", "b", "a", "c", "a"], ["view"] * 6, [DAY * day for day in (60, 60, 70, 80, 80, 90)])
    found = candidates_of(bundle, user)  # at day 100
    assert column(bundle, found, "times_touched")["a"] == pytest.approx(np.log1p(3))
    assert column(bundle, found, "recent_touches")["a"] == pytest.approx(np.log1p(0.95**3 + 0.95 + 1), rel=1e-3)
    share = column(bundle, found, "touched_share")
    assert (share["a"], share["b"], share["c"]) == pytest.approx((3 / 4, 1 / 3, 1 / 2))
    overdue = column(bundle, found, "overdue")
    assert (overdue["a"], overdue["b"]) == pytest.approx((np.log1p(10) - np.log1p(15), 0), rel=1e-3)


def test_the_whole_history_is_proposed_again_and_the_tables_see_its_newest_events(bundle):
    user = User(["c", *["a"] * 60], ["view"] * 61, [DAY * (place + 1) for place in range(61)])
    found = candidates_of(bundle, user, per_generator=5)
    assert column(bundle, found, "touched")["c"] == 1
    assert column(bundle, found, "item_to_item.relative")["e"] == 0  # c points to e, and lies before the newest fifty


def test_trends_are_those_of_the_day_before(bundle):
    found = candidates_of(bundle, bought("a", at=90 * DAY))
    assert column(bundle, found, "log_fast")["e"] == pytest.approx(np.log1p(2 * 0.5), rel=1e-3)
    assert column(bundle, found, "log_total")["d"] == 0  # first sold today


def test_features_are_finite_for_one_event_and_for_many(bundle):
    names = ranker_features(bundle.generators)
    for user in (bought("a"), User(["a", "b", "zzz", "c"], ["view"] * 4, [1, 2, 3, 4])):
        found = candidates_of(bundle, user)
        assert found.features.shape == (len(found.rows), len(names))
        assert np.isfinite(found.features).all()


def test_what_generators_say_is_what_the_words_of_its_definition_give():
    """`ranker_features` in NumPy, written out a second time, on random tables and cosines, ties included."""
    rng = np.random.default_rng(3)
    tables = [
        NeighborTable.from_padded(
            np.array([rng.choice(60, 12, replace=False) for _ in range(60)], np.int32),
            np.round(rng.random((60, 12)) + 0.1, 1).astype(np.float32),
        )
        for _ in range(2)
    ]
    rows, weights = rng.integers(0, 60, 4), np.array([[1, 1, 0.5, 0.5], [0.1, 0.2, 0.5, 1], [0, 0, 0, 1]], np.float32)
    candidates, cosines = np.arange(0, 60, 2), rng.uniform(-1, 1, (3, 30)).astype(np.float32)
    columns = np.zeros((30, 18), np.float32)
    links = Links.of_tables(dict(zip("ab", tables, strict=True)))
    _fill_generators(columns, links.reached(rows, weights), candidates, cosines)

    by_way = np.stack([[links.spread(name, rows, way) for name in links.names] for way in weights])
    of_tables, tops = by_way[:, :, candidates], by_way.max(axis=2)
    values = np.concatenate([of_tables, np.maximum(cosines, 0)[:, None]], axis=1)
    tops = np.concatenate([tops, [[values[0, 2].max()], [1], [1]]], axis=1)
    for generator in range(3):
        score = values[0, generator]
        place = np.argsort(np.argsort(-score, kind="stable"))
        relative = values[:, generator] / np.where(tops[:, generator] > 0, tops[:, generator], 1)[:, None]
        said = [
            relative[0],
            np.log1p(100 * score),
            np.where(score > 0, 1 / np.log2(2 + place), 0),
            relative[1],
            relative[2],
        ]
        np.testing.assert_allclose(columns[:, 5 * generator : 5 * generator + 5], np.stack(said, axis=1), rtol=1e-6)
        np.testing.assert_allclose(columns[:, 15 + generator], np.log1p(100 * tops[0, generator]), rtol=1e-6)


@pytest.mark.parametrize(
    ("user", "now_s", "moment_s"),
    [
        pytest.param(bought("a", at=65), 184.9, 125, id="the end of a minute"),
        pytest.param(bought("a", at=65), 185, 185, id="the begin of the next"),
        pytest.param(User(["a", "b"], ["view"] * 2, [7, 65]), 150, 125, id="the newest of two events"),
        pytest.param(bought("a", at=65), 3_664, 3_605, id="within the hour"),
        pytest.param(bought("a", at=65), 4_264, 3_665, id="an hour later"),
        pytest.param(bought("a", at=65), 4_265, 4_265, id="ten minutes more"),
        pytest.param(bought("a", at=65), 10, 5, id="before it"),
        pytest.param(User(), 150, 120, id="no event"),
        pytest.param(None, 150, 120, id="nobody"),
    ],
)
def test_moments_are_counted_from_the_newest_event(user, now_s, moment_s):
    assert moment_of(now_s, user) == moment_s
