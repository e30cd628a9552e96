"""Taking a part away, on the toy bundle."""

import copy

import numpy as np
import pytest

from pipelines.benchmarks.ablation import Ablation, parts_of, without
from pipelines.config import HeadraceConfig, RankerConfig, TrainingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import RankerSettings
from pipelines.inference.ranker_features import ranker_features
from pipelines.model.ranker import HEADS
from pipelines.progress import SilentProgress
from pipelines.ranking.candidates import recommend_candidates
from pipelines.ranking.fusion import recommendation_scores
from pipelines.ranking.learned import served_scores
from pipelines.training.learned_ranking import RankingRows
from tests.toys.chance_rows import chance_rows
from tests.toys.toy_bundle import bought, write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


def with_ranker(bundle):
    """Return the bundle with a ranker that knows nothing."""
    other = copy.copy(bundle)
    other.ranker = Nothing()
    settings = RankerSettings(features=ranker_features(bundle.generators), heads=HEADS, head_weights={"purchase": 1.0})
    other.preprocessing = bundle.preprocessing.model_copy(update={"ranker": settings})
    return other


class Nothing:
    def scores(self, features):
        return np.full(len(features), 0.5, np.float32)


def ablation_of(part, bundle, folder, rows):
    ranker = RankerConfig(min_rows=20, epochs=4, min_steps=0, width=8, batch=8, learning_rate=2e-2)
    config = HeadraceConfig(ranker=ranker, training=TrainingConfig(seed=0))
    return Ablation(
        part, then=bundle.folder, now=bundle, rows=rows, config=config, folder=folder, progress=SilentProgress()
    )


def never():
    raise AssertionError("what was learned is kept")


def scores(bundle):
    return served_scores(bundle, [bought("a")], [100_000.0])[0]


def found_in(bundle):
    vector, _ = bundle.user_embedding(bought("a"), 100.0)
    scores = bundle.item_vectors @ vector
    return recommend_candidates(bundle, bought("a"), vector, 100.0, bundle.available, dense_scores=scores)


def test_every_part_has_a_name(bundle):
    assert parts_of(bundle) == ("item_to_item", "dense", "trending")
    assert parts_of(with_ranker(bundle)) == ("item_to_item", "dense", "trending", "ranker")


@pytest.mark.parametrize(("part", "left"), [("item_to_item", ["a", "b"]), ("dense", ["a", "b", "d"])])
def test_a_part_that_is_gone_proposes_nothing_and_says_nothing(bundle, part, left):
    names = ranker_features(bundle.generators)
    found = found_in(without(bundle, part))
    assert [bundle.item_ids[row] for row in found.rows] == left
    own = [column for column, name in enumerate(names) if name.startswith(f"{part}.")]
    assert not found.features[:, own].any()
    assert found_in(bundle).features[:, own].any()


def test_where_no_ranker_is_kept_without_the_part_the_fusion_that_was_learned_anew_decides(bundle, tmp_path):
    full = with_ranker(bundle)
    part = ablation_of("item_to_item", full, tmp_path, lambda: chance_rows(2)).bundle()
    assert part.ranker is None
    assert part.preprocessing.ranker is None
    assert part.preprocessing.fusion.recommend != full.preprocessing.fusion.recommend
    assert scores(part).tolist() == recommendation_scores(part, [bought("a")], [100_000.0])[0].tolist()
    again = ablation_of("item_to_item", full, tmp_path, never).bundle()
    assert again.preprocessing == part.preprocessing
    assert again.ranker is None
    assert full.ranker is not None


@pytest.mark.slow
def test_a_ranker_that_was_learned_without_the_part_is_kept_for_a_later_run(bundle, tmp_path):
    part = ablation_of("trending", bundle, tmp_path, lambda: chance_rows(0)).bundle()
    assert part.ranker is not None
    again = ablation_of("trending", bundle, tmp_path, never).bundle()
    np.testing.assert_array_equal(scores(again), scores(part))
    assert bundle.ranker is None


@pytest.mark.parametrize("part", ["item_to_item", "dense"])
def test_a_part_that_a_fusion_alone_uses_is_missed(bundle, tmp_path, part):
    few = RankingRows(**{name: values[:10] for name, values in vars(chance_rows(0)).items() if values is not None})
    ablated = ablation_of(part, bundle, tmp_path, lambda: few).bundle()
    assert ablated.ranker is None
    assert scores(ablated).argmax() != scores(bundle).argmax()


def test_without_the_ranker_the_weights_stay(bundle, tmp_path):
    full = with_ranker(bundle)
    part = ablation_of("ranker", full, tmp_path, never).bundle()
    assert part.ranker is None
    assert part.preprocessing == full.preprocessing
