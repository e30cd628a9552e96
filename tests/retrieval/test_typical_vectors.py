"""Made-up users and queries: of any length, out of the catalogue, the same every time."""

import numpy as np
import pytest

from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.retrieval.links import Links
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.retrieval.typical_vectors import typical_queries, typical_users
from tests.toys.toy_bundle import DIM, WORDS, write_toy_bundle


class Listening(Bundle):
    """A bundle that remembers what it was asked to embed."""

    def user_embeddings(self, features, now_s):
        self.asked.append((features, list(now_s)))
        return super().user_embeddings(features, now_s)

    def encode_queries(self, texts):
        self.asked.append(texts)
        return super().encode_queries(texts)


@pytest.fixture
def bundle(tmp_path):
    write_toy_bundle(tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    bundle.__class__, bundle.asked = Listening, []
    return bundle


def test_users_have_short_and_long_histories_of_items_that_go_together(bundle):
    vectors = typical_users(bundle, 100)
    assert vectors.shape == (100, DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    users = [user for part, _ in bundle.asked for user in part]
    lengths = [len(user.item_ids) for user in users]
    assert (min(lengths), max(lengths)) == (1, 50)
    assert np.median(lengths) < 12
    assert {item for user in users for item in user.item_ids} == set(bundle.item_ids)
    now_s = bundle.manifest.created_at.timestamp()
    assert all(user.event_times == sorted(user.event_times) and user.event_times[-1] <= now_s for user in users)
    assert all(len(user.event_times) == len(user.event_types) == len(user.item_ids) for user in users)


def test_an_item_without_neighbors_and_category_goes_with_itself(bundle):
    bundle.categories = bundle.categories[0], np.full(bundle.n_items, -1, np.int32)
    bundle.links = Links.of_tables({"item_to_item": NeighborTable.empty(bundle.n_items)})
    bundle.popularity = np.array([1e9, 0, 0, 0, 0, 0], np.float32)
    vectors = typical_users(bundle, 20)
    np.testing.assert_allclose(vectors, np.tile(bundle.item_vectors[0], (20, 1)), atol=1e-5)


def test_queries_are_words_of_titles_and_items_ask_as_well(bundle):
    vectors = typical_queries(bundle, 40, 4)
    assert vectors.shape == (44, DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-2)
    queries = [query for part in bundle.asked for query in part]
    assert len(queries) == 40
    assert {word for query in queries for word in query.split()} <= set(WORDS)
    assert {len(query.split()) for query in queries} == {1, 2, 3}
    assert len(typical_queries(bundle, 8)) == 8 + bundle.n_items


def test_few_are_embedded_at_once(bundle):
    typical_users(bundle, 21)
    typical_queries(bundle, 21)
    assert [len(part[0]) for part in bundle.asked[:3]] == [8, 8, 5]
    assert [len(part) for part in bundle.asked[3:]] == [8, 8, 5]


def test_the_same_bundle_gives_the_same_vectors(bundle):
    assert np.array_equal(typical_users(bundle, 16), typical_users(bundle, 16))
    assert np.array_equal(typical_queries(bundle, 16), typical_queries(bundle, 16))
