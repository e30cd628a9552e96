"""What a query finds from two short lists is what the full ranking begins with."""

import numpy as np
import pytest

from pipelines.benchmarks.synthetic_shop import make_shop, write_shop_bundle
from pipelines.config import ServingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.inference.preprocessing import Fusion, SearchFusion
from pipelines.ranking.answers import search
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.fusion import weighted_mean
from pipelines.ranking.prepared import Prepared
from pipelines.ranking.query_results import query_result
from pipelines.retrieval.dense import dense_scores

SERVING = ServingConfig(candidates=20)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A shop of 3,000 items and so few words that many match a query alike."""
    folder = tmp_path_factory.mktemp("shop") / "b1"
    shop = make_shop(items=3_000, users=1, words=12, seed=3)
    write_shop_bundle(shop, folder, dim=16, seed=3)
    return load_bundle(folder)


def with_weights(bundle, dense: float, lexical: float):
    fusion = Fusion(search=SearchFusion(dense=dense, lexical=lexical))
    other = bundle.with_vector_index(bundle.vector_index)
    other.preprocessing = bundle.preprocessing.model_copy(update={"fusion": fusion})
    return other


def full_ranking(bundle, query: str, vector: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    lexical = bundle.lexical.scores(query)
    parts = {
        "dense": np.maximum(dense_scores(vector[None], bundle.item_vectors)[0], 0),
        "lexical": lexical / (lexical.max() or 1),
    }
    return np.where(allowed, weighted_mean(parts, bundle.preprocessing.fusion.search.model_dump()), -1)


def queries(bundle) -> list[str]:
    generator = np.random.default_rng(5)
    return [" ".join(bundle.titles[row].split()[:n]) for n in (1, 2, 3) for row in generator.integers(0, 3_000, 4)]


@pytest.mark.parametrize(
    ("dense", "lexical"), [(0.6, 0.4), (0.1, 0.9), (0.95, 0.05), (1, 0), (0, 1)], ids=lambda weight: str(weight)
)
@pytest.mark.parametrize("most", [10, 60], ids="{} of each".format)
def test_the_first_places_are_those_of_the_full_ranking(bundle, dense, lexical, most):
    weighted = with_weights(bundle, dense, lexical)
    allowed = np.ones(bundle.n_items, bool)
    for query in [*queries(bundle), "zzz"]:
        vector = bundle.encode_queries([query])[0]
        full = full_ranking(weighted, query, vector, allowed)
        found = query_result(weighted, query, vector, per_generator=most, sure=10)
        np.testing.assert_allclose(found.scores[:10], np.sort(full)[::-1][:10], atol=1e-6)
        np.testing.assert_allclose(found.scores, full[found.rows], atol=1e-6)
        assert len(set(found.rows.tolist())) == len(found.rows)


@pytest.mark.parametrize("warm", [False, True], ids=["first time", "remembered"])
def test_a_filtered_search_is_the_top_of_what_is_allowed(bundle, warm):
    for category, k in (("kind 3", 5), ("kind 7", 20)):
        filters = Filters(categories=(category,))
        for query in queries(bundle):
            prepared = Prepared(SERVING)
            if warm:
                search(bundle, query, k=k, now_s=0, serving=SERVING, prepared=prepared)
            found = search(bundle, query, k=k, now_s=0, serving=SERVING, filters=filters, prepared=prepared)
            vector = bundle.encode_queries([query])[0]
            full = full_ranking(bundle, query, vector, allowed_items(bundle, filters))
            np.testing.assert_allclose(found.scores, np.sort(full)[::-1][:k], atol=1e-6)


def test_a_query_that_was_asked_before_is_not_searched_again(bundle):
    class Counting:
        asked = 0

        def nearest(self, vector, k, allowed=None):
            self.asked += 1
            return bundle.vector_index.nearest(vector, k, allowed)

    index, prepared = Counting(), Prepared(SERVING)
    counted = bundle.with_vector_index(index)
    query = bundle.titles[0]
    first = search(counted, query, k=10, now_s=0, serving=SERVING, prepared=prepared)
    again = search(counted, query, k=10, now_s=0, serving=SERVING, prepared=prepared)
    assert index.asked == 1
    assert again.rows.tolist() == first.rows.tolist()
    more = search(counted, query, k=50, now_s=0, serving=SERVING, prepared=prepared)
    assert index.asked == 2  # the first places were sure, fifty were not
    assert more.rows[:10].tolist() == first.rows.tolist()
