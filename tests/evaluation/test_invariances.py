"""What must not change an answer, on bundles that are and are not steady."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import ServingConfig
from pipelines.evaluation.invariances import query_overlaps, recommendation_checks
from pipelines.inference.bundle import ITEM_COLUMNS, load_bundle
from pipelines.retrieval.neighbors import NeighborTable
from tests.toys.evaluation_rows import row, rows_of
from tests.toys.toy_bundle import one_hot, write_toy_bundle

SERVING = ServingConfig()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return load_bundle(folder)


def test_white_space_changes_nothing(bundle):
    assert query_overlaps(bundle, ["red apple", "oat milk"], SERVING)["same.blanks"] == 1
    assert query_overlaps(bundle, [], SERVING) == {}


def many_items(folder, titles):
    """A bundle with an item a title, each with the vector of its words."""
    n = len(titles)
    columns = {
        "item_id": [f"i{place}" for place in range(n)],
        "title": titles,
        "available": [True] * n,
        **{name: pa.nulls(n, ITEM_COLUMNS.field(name).type) for name in ("category", "brand", "price", "currency")},
    }
    write_toy_bundle(
        folder,
        items=pa.table(columns, schema=pa.schema([ITEM_COLUMNS.field(name) for name in columns])),
        item_vectors=np.stack([one_hot(title) for title in titles]),
        neighbors={"item_to_item": NeighborTable.from_padded(np.full((n, 1), -1, np.int32), np.zeros((n, 1)))},
        popularity=np.zeros(n, np.float32),
    )
    return load_bundle(folder)


def test_a_bundle_whose_scores_are_all_equal_lets_the_catalogue_decide(tmp_path):
    alike = many_items(tmp_path / "alike", ["red apple"] * 14)
    rows = rows_of(tmp_path, alike.item_ids, row(1, "ann", history=["i0"]))
    assert recommendation_checks(alike, rows, [0], SERVING) == {"same.again": 1.0, "tied": 1.0}


def test_different_scores_at_the_border_are_no_tie(tmp_path):
    titles = ["red " * (1 + place) + "apple" for place in range(7)] + [
        "red " * (1 + place) + "pear" for place in range(7)
    ]
    bundle = many_items(tmp_path / "various", titles)
    rows = rows_of(tmp_path, bundle.item_ids, row(1, "ann", history=["i0"]))
    assert recommendation_checks(bundle, rows, [0], SERVING) == {"same.again": 1.0, "tied": 0.0}
    assert recommendation_checks(bundle, rows, [], SERVING) == {}


def test_capitals_change_half_of_the_answers_of_a_tokenizer_that_tells_case_apart(tmp_path):
    # BM25 folds case: the five reds are found either way. The vector of "red" is like none of the others, so the
    # catalogue decides; that of the unknown word RED is like all words, and so like the longest titles.
    titles = ["red milk"] * 5 + ["oat"] * 5 + ["green apple pear bread rye"] * 5
    found = query_overlaps(many_items(tmp_path / "cased", titles), ["red"], SERVING)
    assert found == {"same.case": 0.5, "same.blanks": 1.0}
