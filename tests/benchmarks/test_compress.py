"""The compression bench on a shop of a few hundred items: every case has its numbers, and nothing leaks."""

import json

import numpy as np
import pytest

from pipelines.benchmarks.compress import CompressOptions, bench_compress
from pipelines.benchmarks.compress_bundle import bundle_mib
from pipelines.benchmarks.compress_task import compress_task, without_queries
from pipelines.config import DistillationConfig, TrainingConfig
from pipelines.model.encoder import load_encoder
from pipelines.progress import SilentProgress
from tests.toys.bench_folders import write_judgements, write_table

COLORS, THINGS = ("red", "green", "blue", "gray", "pink", "teal"), ("tea", "pot", "cup", "jug", "pan", "mug", "jar")
TITLES = [f"{color} {thing}" for color in COLORS for thing in THINGS]


@pytest.fixture
def shop(tmp_path):
    folder = write_table(tmp_path / "shop", "items", {"item_id": [str(n) for n in range(42)], "title": TITLES})
    judged = [(title[::-1] if n % 2 else title, str(n), 3.0) for n, title in enumerate(TITLES)]
    return write_judgements(folder, [*judged, *((query, str((int(item) + 1) % 42), 1.0) for query, item, _ in judged)])


@pytest.fixture
def options(shop, tmp_path, tiny_encoder_folder):
    return CompressOptions(
        data=str(shop),
        work=tmp_path / "work",
        cache=tmp_path / "cache",
        variants=("2-layer int8", "1-layer int8", "static"),
        item_variants=("2-layer int8", "static"),
        quick=True,
        json_file=tmp_path / "compress.json",
        distillation=DistillationConfig(texts=60, steps=3, batch=8, static_steps=5, static_batch=8),
        training=TrainingConfig(
            encoder=str(tiny_encoder_folder), encoder_steps=2, encoder_batch=4, max_tokens=16, frozen_layers=1
        ),
    )


@pytest.mark.slow
def test_every_case_has_quality_speed_and_size(options, capsys):
    records = bench_compress(options, SilentProgress())
    found = {(record.case, record.metric): record.value for record in records}
    cases = ("full float32", "2-layer int8", "1-layer int8", "static")
    for case in cases:
        assert found[case, "encode_ms"] > 0
        assert found[case, "size_mib"] > 0
        assert 0 <= found[case, "recall@10"] <= 1
    assert found["full float32", "ndcg_kept"] == pytest.approx(1)
    assert found["full float32", "speedup"] == pytest.approx(1)
    assert found["static", "speedup"] > found["2-layer int8", "speedup"] > 1
    assert found["2-layer int8", "recall@10"] > 0.8
    assert found["items int8, 16 dims, rescored", "recall@10"] > 0.95
    for name in ("2-layer int8", "static"):
        everything, part = (
            {metric: found[f"items by {name}, {kind}", metric] for metric in ("ndcg_kept", "recall@10", "items_per_s")}
            for kind in ("all", "a tenth new")
        )
        assert everything["items_per_s"] == part["items_per_s"] > 0
        assert everything["recall@10"] <= part["recall@10"] <= 1
    assert found["items by static, all", "items_per_s"] > found["items by 2-layer int8, all", "items_per_s"]
    assert found["items by 2-layer int8, all", "cosine"] > 0.98  # the encoder itself in int8
    assert found["2,000 items", "bundle_mib"] > found["2,000 items, new ones read by the encoder alone", "bundle_mib"]
    written = json.loads(options.json_file.read_text())
    assert {record["bench"] for record in written} == {"compress"}
    assert options.json_file.with_suffix(".png").stat().st_size > 1_000
    assert "QUICK" in capsys.readouterr().out


def test_what_is_measured_is_not_learned(shop, tmp_path, tiny_encoder_folder):
    training = TrainingConfig(encoder=str(tiny_encoder_folder))
    task = compress_task(str(shop), tmp_path, seed=0, quick=False, training=training)
    assert len(task.queries) > 3
    assert not set(task.queries.queries) & set(task.typed)
    assert [rows[0] for rows in task.queries.items]


def test_a_held_out_query_is_drawn_again():
    drawn = iter([(["Red  tea", "cup"], np.array([1, 2])), (["red tea"], np.array([1])), (["pot"], np.array([3]))])
    queries, rows = without_queries(lambda n, rng: next(drawn), ["red tea"])(2, np.random.default_rng(0))
    assert queries == ["pot", "cup"]
    assert rows.tolist() == [3, 2]


@pytest.mark.slow
def test_links_and_vectors_are_most_of_what_more_items_cost(tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    small, large = (
        bundle_mib(encoder, tiny_encoder_folder / "tokenizer.json", TITLES, n_items=n) for n in (500, 1_500)
    )
    per_item = (large - small) * 2**20 / 1_000
    assert 103 * 3 + 16 + 4 < per_item < 103 * 3 + 16 + 4 + 300  # links, vector, scale, and texts, words and trends
