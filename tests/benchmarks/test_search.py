"""`bench search` on a folder that can be worked out by hand."""

import hashlib
import json

import numpy as np
import pytest

from pipelines.benchmarks.folder import read_search_folder
from pipelines.benchmarks.protocols import search_split
from pipelines.benchmarks.runs import BenchOptions
from pipelines.benchmarks.search import bench_search, query_metrics
from pipelines.benchmarks.search_baselines import (
    NAMES,
    bm25,
    folded_words,
    plain_words,
    query_blocks,
    sampled_queries,
)
from pipelines.progress import SilentProgress
from tests.toys.bench_folders import TITLES, write_items, write_judgements

WORDS = ["red tea", "green tea", "red pot", "green pot", "cup"]


@pytest.fixture
def shop(tmp_path):
    """A folder with two queries in each part, asking for each item by its own title and a number."""
    judgements = []
    wanted = {0: 2, 1: 2, 2: 2}
    for number in range(200):
        query = f"{WORDS[number % 5]} {number}"
        bucket = hashlib.sha1(query.encode()).digest()[0] % 5
        if wanted.get(bucket, 0):
            wanted[bucket] -= 1
            item = "abcde"[number % 5]
            judgements += [(query, item, 3.0), (query, "a" if item != "a" else "b", 1.0)]
    return write_judgements(write_items(tmp_path / "shop"), judgements)


@pytest.mark.slow
def test_every_baseline_runs_and_is_written(shop, tmp_path, tiny_encoder_folder, capsys):
    options = BenchOptions(
        work=tmp_path / "work", cache=tmp_path / "cache", cases=NAMES, encoder=str(tiny_encoder_folder), samples=100,
        json_file=tmp_path / "search.json",
    )  # fmt: skip
    records = bench_search(shop, options, SilentProgress())
    values = {(record.case, record.metric): record.value for record in records}
    assert {case for case, _ in values} == set(NAMES)
    assert values["bm25", "ndcg@10"] == 1  # each title is its own best answer
    assert values["tfidf", "recall@100"] == 1
    assert {record["bench"] for record in json.loads((tmp_path / "search.json").read_text())} == {"search"}
    assert (tmp_path / "search.png").exists()
    said = capsys.readouterr().out
    assert "gain = grade − 1, at least 0" in said
    assert "2 test queries, 2 validation, 2 train; 5 items" in said


def test_metrics_of_queries(shop):
    queries = search_split(read_search_folder(shop)).test
    values = query_metrics(queries, np.asarray([1, 5, 3, 1]))  # items ascending; the wanted one has gain 2
    places = [int(np.flatnonzero(gains)[0]) for gains in queries.gains]
    ranks = [(1, 5)[places[0]], (3, 1)[places[1]]]
    assert values["ndcg@10"].tolist() == pytest.approx([1 / np.log2(rank + 1) for rank in ranks])
    assert values["mrr"].tolist() == pytest.approx([1 / rank for rank in ranks])
    assert values["recall@10"].tolist() == [1, 1]


def test_plain_bm25_knows_stop_words_and_unknown_words():
    score = bm25(TITLES, plain_words)
    red, unknown, stop = score(["the red", "blue", "the"])
    assert (red > 0).tolist() == [True, False, True, False, False]
    assert not unknown.any()
    assert not stop.any()


@pytest.mark.parametrize("words_of", [plain_words, folded_words])
def test_titles_of_stop_words_alone_are_never_found(words_of):
    score = bm25(["the and of", "of the", "and"], words_of)
    assert score(["the tea", "tea"]).tolist() == [[0, 0, 0]] * 2


def test_blocks_and_samples_keep_the_order(shop):
    queries = search_split(read_search_folder(shop)).test
    assert [block.queries for block in query_blocks(queries, 5)] == [queries.queries]
    assert sampled_queries(queries, 1).queries == queries.queries[:1]
    assert sampled_queries(queries, 2) is queries


def test_folded_words_have_no_plurals():
    [words] = folded_words(["The batteries and boxes of 2 glass cacti, shoes, trees, bus"])
    assert words == ["battery", "boxe", "2", "glass", "cacti", "shoe", "tree", "bus"]
