"""A bundle with items that arrived since it was made: everything is known of them but what users do with them."""

import math

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import ServingConfig
from pipelines.errors import DataError
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.inference.bundle_writing import default_texts
from pipelines.inference.new_items import NewItems, embed_items, item_tower_fields, log_price_scale, scaled_log_prices
from pipelines.ranking.answers import recommend, search, similar
from pipelines.retrieval.lexical import LexicalIndex
from tests.toys.toy_bundle import bought, new_items_table, one_hot, write_toy_bundle

TITLES = ("oat pear", "rye milk")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def new_items(bundle: Bundle, titles=TITLES, vectors=None) -> NewItems:
    items = new_items_table(*titles)
    lexical = LexicalIndex.build(default_texts(pa.concat_tables([bundle.items, items])))
    return NewItems(items, embed_items(bundle, items, titles) if vectors is None else vectors, lexical)


@pytest.fixture(scope="module")
def grown(bundle) -> Bundle:
    for value in (bundle.categories, bundle.brands, bundle.popularity_score, bundle.display):
        assert len(value)  # whatever is cached of the bundle alone must not be taken for the grown one
    return bundle.with_new_items(new_items(bundle))


def test_new_items_stand_behind_the_others_and_the_bundle_itself_stays(bundle, grown):
    assert (bundle.n_items, grown.n_items) == (6, 8)
    assert grown.item_ids == [*bundle.item_ids, *TITLES]
    assert grown.row_of("rye milk") == 7
    np.testing.assert_array_equal(grown.item_vectors[:6], bundle.item_vectors)
    np.testing.assert_allclose(grown.item_vectors[6:], [one_hot(title) for title in TITLES], atol=1e-6)
    assert grown.popularity.tolist() == [*bundle.popularity.tolist(), 0, 0]
    assert all(len(grown.links.of("item_to_item", row)[0]) == 0 for row in range(6, grown.n_items))


def test_nothing_that_counts_items_is_left_at_the_old_length(bundle, grown):
    for part in (bundle, grown):
        assert len(part.display) == len(part.popularity_score) == len(part.categories[1]) == part.n_items
    short = [
        name
        for name, value in vars(grown).items()
        if hasattr(value, "__len__") and len(value) == bundle.n_items and len(vars(bundle)[name]) == bundle.n_items
    ]
    assert short == []


def test_a_search_finds_a_new_item_by_its_words_and_by_its_meaning(grown):
    ranking = search(grown, "rye milk", k=1, now_s=0.0, serving=ServingConfig())
    assert [grown.item_ids[row] for row in ranking.rows] == ["rye milk"]
    assert {name: part[0] for name, part in ranking.parts.items()} == pytest.approx({"lexical": 1.0, "dense": 1.0})


def test_a_new_item_is_recommended_to_who_likes_its_like_and_counts_in_a_history(grown):
    serving = ServingConfig(exclude_purchased_days=0)
    ranking = recommend(grown, bought("e"), k=4, now_s=100.0, serving=serving)
    assert set(TITLES) < {grown.item_ids[row] for row in ranking.rows}
    embedding, attention = grown.user_embedding(bought("rye milk"), now_s=100.0)
    np.testing.assert_allclose(embedding, one_hot("rye milk"), atol=1e-3)
    assert attention.tolist() == [1.0]
    assert "rye milk" in [grown.item_ids[row] for row in similar(grown, "e", k=3, serving=serving).rows]
    assert len(similar(grown, "rye milk", k=3, kind="goes_with", serving=serving).rows) == 0


def test_the_dense_index_scores_old_items_as_before_and_new_ones_exactly(bundle, grown):
    vector = one_hot("rye milk")
    scores = grown.dense_index.scores(vector)
    assert grown.dense_index.n_items == len(scores) == 8
    np.testing.assert_array_equal(scores[:6], bundle.dense_index.scores(vector))
    np.testing.assert_allclose(scores[6:], [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"titles": ("a",)}, "1 items that the bundle has already, first a", id="known item"),
        pytest.param({"vectors": np.ones((2, 8), np.float32)}, "vectors that are not of length 1", id="length"),
        pytest.param(
            {"vectors": np.ones((2, 3), np.float32)}, r"vectors of shape \(2, 3\) for 2 items of 8", id="shape"
        ),
    ],
)
def test_what_does_not_fit_is_refused(bundle, changes, sentence):
    if changes.get("titles") == ("a",):
        changes = {**changes, "vectors": one_hot("red")[None]}
    with pytest.raises(DataError, match=f"{sentence}.*headrace embed_new_items"):
        bundle.with_new_items(new_items(bundle, **changes))


def test_prices_are_scaled_as_in_training():
    mean, deviation = log_price_scale(np.array([math.e, math.e**3, math.nan, 0.0]))
    assert (mean, deviation) == (pytest.approx(2.0), pytest.approx(1.0))
    scaled = scaled_log_prices(np.array([math.e**4, math.nan, -1.0]), mean, deviation)
    assert scaled.tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert log_price_scale(np.array([1.0])) == (0.0, 0.0)
    assert scaled_log_prices(np.array([5.0]), 0.0, 0.0).tolist() == [0.0]


def test_fields_keep_the_numbers_of_the_names():
    fields = item_tower_fields(["", "Fruit"], ["", "Mill"], np.array([1.0, 2.0]))
    assert (fields.categories, fields.brands) == (("", "Fruit"), ("", "Mill"))
    assert (fields.image_encoder, fields.image_dim) == ("", 0)
