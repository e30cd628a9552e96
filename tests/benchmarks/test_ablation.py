"""Taking a part away, on the toy bundle."""

import pytest

from pipelines.benchmarks.ablation import parts_of, without
from pipelines.inference.bundle import load_bundle
from pipelines.inference.ranker_features import ranker_features
from pipelines.ranking.candidates import recommend_candidates
from tests.toys.toy_bundle import bought, write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


def found_in(bundle):
    vector, _ = bundle.user_embedding(bought("a"), 100.0)
    scores = bundle.item_vectors @ vector
    return recommend_candidates(bundle, bought("a"), vector, 100.0, bundle.available, dense_scores=scores)


def test_every_part_has_a_name(bundle):
    assert parts_of(bundle) == ("item_to_item", "dense", "trending", "ranker")


@pytest.mark.parametrize(("part", "left"), [("item_to_item", ["a", "b"]), ("dense", ["a", "b", "d"])])
def test_a_part_that_is_gone_proposes_nothing_and_says_nothing(bundle, part, left):
    names = ranker_features(bundle.generators)
    found = found_in(without(bundle, part))
    assert [bundle.item_ids[row] for row in found.rows] == left
    own = [column for column, name in enumerate(names) if name.startswith(f"{part}.")]
    assert not found.features[:, own].any()
    assert found_in(bundle).features[:, own].any()
