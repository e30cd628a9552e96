"""Quality and speed, worked out by hand on vectors with one dimension an item."""

import time

import numpy as np
import pytest

from pipelines.compression.distillation import make_lessons
from pipelines.compression.item_codes import prefix_codes, product_codes, rescored, unscored
from pipelines.compression.lesson_texts import lesson_texts
from pipelines.compression.matryoshka import prefixes, principal_rotation, train_rotation
from pipelines.compression.measurement import (
    HeldOutQueries,
    SearchPath,
    exact_first,
    quality,
    request_cpu_ms,
    share_kept,
    time_encoders,
)
from pipelines.config import DistillationConfig
from pipelines.progress import SilentProgress
from pipelines.retrieval.dense import ItemVectors
from tests.toys.training_workers import toy_catalog

ITEMS = np.eye(12, dtype=np.float32)


def unit(rows):
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def random_vectors(n, dim, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def test_the_search_of_a_bundle_finds_what_exact_products_find(tmp_path):
    items, queries = random_vectors(1_000, 32), random_vectors(20, 32, 1)
    path = SearchPath(items, tmp_path)
    wanted = exact_first(queries, items)
    overlap = [len(set(path.first(query)) & set(rows)) for query, rows in zip(queries, wanted, strict=True)]
    assert np.mean(overlap) > 9.5


def test_ndcg_and_overlap_of_two_rankings():
    queries = HeldOutQueries(["one", "two"], [np.array([3]), np.array([4, 5])], [np.array([1.0]), np.zeros(2)])
    found = [np.array([1, 3, 0]), np.array([4, 5, 6])]
    own = quality(found, queries, [np.array([3, 1, 2]), np.array([7, 8, 9])])
    assert own.ndcg[0] == pytest.approx(1 / np.log2(3))
    assert np.isnan(own.ndcg[1])
    assert own.overlap.tolist() == pytest.approx([2 / 3, 0])


def test_the_share_is_of_the_means_and_queries_without_an_answer_do_not_count():
    own, other = np.array([0.5, np.nan, 1.0]), np.array([1.0, np.nan, 1.0])
    kept, low, high = share_kept(own, other, samples=200, seed=0)
    assert kept == pytest.approx(0.75)
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(1.0)


def test_the_slower_encoder_takes_longer(tmp_path):
    def fast(queries):
        return ITEMS[: len(queries)]

    def slow(queries):
        time.sleep(0.002)
        return fast(queries)

    times = time_encoders({"slow": slow, "fast": fast}, ["a", "b", "c"], rounds=2)
    assert times["slow"] > 2 > 10 * times["fast"]
    assert 0 < request_cpu_ms(fast, SearchPath(ITEMS, tmp_path), ["a", "b"]) < 50


def test_lessons_never_hold_what_is_held_out():
    catalog = toy_catalog()
    rng = np.random.default_rng(0)
    typed = ["Red  Tea", "green tea", "green tea ", "pot"]
    texts = lesson_texts(catalog, typed, ["red tea", catalog.texts[0].upper()], most=60, rng=rng)
    assert "green tea" in texts
    assert len({text.lower() for text in texts}) == len(texts)
    assert not {"red tea", catalog.texts[0].lower()} & {" ".join(text.lower().split()) for text in texts}


def test_a_rotation_changes_no_cosine_and_puts_the_length_first():
    vectors = unit(np.concatenate([random_vectors(300, 4), np.zeros((300, 12))], axis=1) @ random_rotation(16))
    rotation = principal_rotation(vectors)
    assert rotation.T @ rotation == pytest.approx(np.eye(16), abs=1e-4)
    short = prefixes(vectors, rotation, 4)
    assert short @ short.T == pytest.approx(vectors @ vectors.T, abs=1e-3)


def random_rotation(dim):
    return np.linalg.qr(np.random.default_rng(3).standard_normal((dim, dim)))[0].astype(np.float32)


@pytest.mark.slow
def test_training_makes_a_prefix_rank_more_like_the_whole_vector():
    items, texts = random_vectors(200, 16), random_vectors(100, 16, 5)
    lessons = make_lessons([str(n) for n in range(100)], texts, items, k=20, progress=SilentProgress())
    start = principal_rotation(items)
    config = DistillationConfig(items_per_text=8)
    trained = train_rotation(start, lessons, [6], config=config, steps=40, seed=0, progress=SilentProgress())
    assert trained.T @ trained == pytest.approx(np.eye(16), abs=1e-3)

    def overlap(rotation):
        found = exact_first(prefixes(texts, rotation, 6), prefixes(items, rotation, 6))
        wanted = exact_first(texts, items)
        return np.mean([len(set(one) & set(other)) for one, other in zip(found, wanted, strict=True)])

    assert overlap(trained) > overlap(start)


def test_candidates_by_small_codes_are_put_right_by_exact_scores():
    items, queries = random_vectors(2_000, 32), random_vectors(20, 32, 1)
    exact, wanted = ItemVectors.quantized(items), exact_first(queries, items)
    rotation = principal_rotation(items)
    for codes in (
        prefix_codes("16 dims", prefixes(items, rotation, 16), lambda vector: prefixes(vector, rotation, 16)),
        product_codes("PQ", items, 8),
    ):
        alone, again = unscored(codes, queries), rescored(codes, exact, queries, 500)
        shares = [
            np.mean([len(set(one) & set(other)) for one, other in zip(found, wanted, strict=True)])
            for found in (alone, again)
        ]
        assert shares[1] > shares[0] + 1
        assert shares[1] > 8
