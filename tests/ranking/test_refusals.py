"""Words for one item agree with the array for all."""

import itertools

import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.ranking.filtering import Filters, allowed_items
from pipelines.ranking.refusals import refusal
from tests.toys.toy_bundle import write_toy_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "b1"
    write_toy_bundle(folder)
    return load_bundle(folder)


def test_an_item_is_refused_exactly_where_it_is_filtered_out(bundle):
    choices = [((), ("fruit",), ("Toys", "Bakery")), ((), ("MILL",)), (None, 2.0), (None, 3.0), ((), ("Dairy",))]
    for categories, brands, lowest, highest, excluded in itertools.product(*choices):
        filters = Filters(categories, brands, lowest, highest, excluded)
        refused = [refusal(bundle, row, filters) is None for row in range(bundle.n_items)]
        assert refused == allowed_items(bundle, filters).tolist(), filters


@pytest.mark.parametrize(
    ("item", "filters", "words"),
    [
        ("f", None, "it is not available"),
        ("a", Filters(categories=("Dairy",)), "filters.categories: it is none of them"),
        ("c", Filters(brands=("Mill",)), "filters.brands: it is none of them"),
        ("e", Filters(min_price=1), "filters.min_price: it has no price"),
        ("d", Filters(max_price=3.5), "filters.max_price: it costs 4"),
        ("d", Filters(excluded_categories=("bakery",)), "other_categories: it is of the same category"),
    ],
)
def test_words(bundle, item, filters, words):
    assert refusal(bundle, "abcdef".index(item), filters) == words
