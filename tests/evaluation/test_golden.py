"""Golden queries on the toy bundle: whose words find what."""

import json

import numpy as np
import pytest

from pipelines.config import ServingConfig
from pipelines.errors import ConfigError
from pipelines.evaluation.golden import (
    GoldenQuery,
    ask_golden_queries,
    golden_titles,
    read_golden_queries,
    titles_found,
)
from pipelines.inference.bundle import load_bundle
from tests.toys.bad_challengers import change_bundle
from tests.toys.toy_bundle import ITEMS, POPULARITY, write_toy_bundle

SERVING = ServingConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "toy"
    write_toy_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    return load_bundle(folder)


def test_golden_queries_are_read_from_yaml_and_json(tmp_path):
    path = tmp_path / "golden.yaml"
    path.write_text("- {query: red apple, items: [a], k: 3}\n- {query: bread, category: Bakery}\n")
    wanted = [GoldenQuery(query="red apple", items=("a",), k=3), GoldenQuery(query="bread", category="Bakery")]
    assert read_golden_queries(path) == wanted
    path.write_text(json.dumps([one.model_dump() for one in wanted]))
    assert read_golden_queries(path) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("- {query: red apple}", "`items` or `category` must say what is to be found", id="wants nothing"),
        pytest.param("- {query: red apple, itmes: [a]}", "0.itmes: Extra inputs are not permitted", id="misspelt"),
        pytest.param("query: red apple", "the file: Input should be a valid list", id="no list"),
        pytest.param("- {query: [", "is not valid YAML", id="no YAML"),
        pytest.param(None, "which is not there", id="no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_a_sentence(tmp_path, text, words):
    path = tmp_path / "golden.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_golden_queries(path)


def test_each_golden_query_says_what_was_found(bundle):
    golden = [
        GoldenQuery(query="red apple", items=("a",), k=1),
        GoldenQuery(query="rye", category="Bakery", k=1),
        GoldenQuery(query="oat milk", items=("a", "b"), k=1),
    ]
    found = ask_golden_queries(bundle, golden, SERVING)
    assert [one.passed for one in found] == [True, True, False]
    assert found[0].words == "golden query 'red apple': item a is among the first 1"
    assert found[2].words == "golden query 'oat milk': item a, b is not among the first 1 (first: oat milk)"


def test_titles_of_popular_items_are_golden(bundle):
    # f is not available; d has 7, c 3, b 1, and a comes before e
    ids = ITEMS["item_id"].to_pylist()
    assert golden_titles(bundle, ids, POPULARITY, 4) == ["rye bread", "green pear", "green apple", "red apple"]
    assert golden_titles(bundle, ["gone", "a"], np.asarray([9.0, 1.0]), 4) == ["red apple"]


def test_words_find_a_title_where_vectors_do_not(folder, bundle, monkeypatch):
    monkeypatch.setattr("pipelines.evaluation.golden._K", 1)  # of six items, each is among the first ten
    titles = ["red apple", "green pear", "oat milk", "unknown title"]
    assert titles_found(bundle, titles, SERVING) == {"golden.titles": 1.0, "golden.titles_by_vectors": 1.0}

    def swap(other):
        path = other / "item_vectors.npy"
        np.save(path, np.load(path)[[2, 1, 0, 3, 4, 5]])  # the vectors of red apple and green pear

    mixed = load_bundle(change_bundle(folder, folder.with_name("mixed"), swap))
    found = titles_found(mixed, titles, SERVING)
    assert found["golden.titles_by_vectors"] == pytest.approx(1 / 3)
    assert titles_found(bundle, ["unknown title"], SERVING) == {}
