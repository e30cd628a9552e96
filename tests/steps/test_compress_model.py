"""Smaller query towers through the real steps, on the toy shop: declared, picked by policy, compared by a person."""

import multiprocessing
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipelines.commands.compress import compress
from pipelines.config import CompressionConfig, DistillationConfig, HeadraceConfig, TrainingConfig
from pipelines.inference.bundle import load_bundle
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.steps.compress_model import compress_model
from pipelines.steps.finetune_model import finetune_model
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.files import file_sha256
from pipelines.stores.model_registry import ModelRegistry
from pipelines.wiring import Wiring
from tests.toys.catalogue import toy_tables
from tests.toys.killed_compress import compress_until
from tests.toys.training_set import toy_rows, write_training_set

pytestmark = pytest.mark.slow
DISTILLATION = DistillationConfig(texts=60, steps=5, batch=8, static_steps=20, static_batch=8)


def config(encoder, **compression):
    training = TrainingConfig(
        encoder=str(encoder), encoder_steps=0, tower_steps=5, tower_batch=16, negatives=16, query_pairs=64,
        validate_every=5, max_tokens=16,
    )  # fmt: skip
    settings = CompressionConfig(min_cosine=0.5, distillation=DISTILLATION, measured_queries=30, **compression)
    return HeadraceConfig(training=training, compression=settings)


@pytest.fixture
def shop(tmp_path, tiny_encoder_folder):
    """Give the places, the tables, and a trained model of the toy shop."""
    places = Places(tmp_path)
    tables = toy_tables(tmp_path)
    training_set = write_training_set(places.training / "run-1", toy_rows())
    trained = finetune_model(
        training_set,
        tables=tables,
        training_dir=places.training,
        tracker=ExperimentTracker(places.mlflow),
        config=config(tiny_encoder_folder).training,
        cache_dir=places.embedding_cache,
        progress=SilentProgress(),
    )
    return places, tables, training_set, trained


def test_the_declared_tower_reads_queries_and_the_encoder_reads_items(shop, tiny_encoder_folder):
    places, tables, training_set, trained = shop
    bundles = {}
    for run, tower, reads_items in (("run-1", "static", "encoder"), ("run-2", "6-layer int8", "static")):
        compressed = compress_model(
            training_set.model_copy(update={"run": run}),
            trained,
            tables=tables,
            bundles_dir=places.bundles,
            registry=ModelRegistry(places.mlflow),
            tracker=ExperimentTracker(places.mlflow),
            config=config(tiny_encoder_folder, query_tower=tower, item_text_tower=reads_items),
            cache_dir=places.embedding_cache,
            progress=SilentProgress(),
            now=datetime(2026, 3, 2, tzinfo=UTC),
        )
        bundles[tower] = load_bundle(compressed.folder)
    small, whole = bundles["static"], bundles["6-layer int8"]
    assert {"query_tower/model.onnx", "query_tower/tokenizer.json"} <= set(small.manifest.files)
    assert not any(name.startswith("query_tower") for name in whole.manifest.files)
    np.testing.assert_array_equal(small.encode_items(["red tea"]), whole.encode_items(["red tea"]))
    np.testing.assert_array_equal(whole.encode_queries(["red tea"]), whole.encode_items(["red tea"]))
    assert not small.manifest.has_item_text_tower
    assert "item_text_tower.cosine_mean" not in small.metrics
    assert 0.5 < whole.metrics["item_text_tower.cosine_mean"] < 1
    assert {"item_text_tower/model.onnx", "item_text_tower/tokenizer.json"} <= set(whole.manifest.files)
    texts = whole.titles[:20]
    cosines = (whole.encode_items(texts, at_first=True) * whole.encode_items(texts)).sum(1)
    assert 0.5 < cosines.mean() < 0.9999
    assert not np.allclose(small.encode_queries(["red tea"]), small.encode_items(["red tea"]), atol=1e-3)


def test_a_person_sees_every_variant_and_what_the_policy_picks(shop, tiny_encoder_folder, capsys):
    places, _, training_set, trained = shop
    settings = config(tiny_encoder_folder, min_ndcg_kept=0.01)
    wiring = Wiring(places, settings, SilentProgress())
    wiring.records.save(training_set.run, "build_training_set", training_set)
    wiring.records.save(training_set.run, "finetune_model", trained)
    assert compress(variants=["6-layer int8", "static"], wiring=wiring) == "static"
    printed = capsys.readouterr().out
    assert "static *" in printed
    assert "The policy picks static: the fastest that keeps 0.01" in printed
    backend = wiring.tracker._backend
    child = backend.find_run(training_set.run, "compress static")
    parent = backend.find_run(training_set.run)
    logged = backend.client.get_run(child).data
    assert logged.metrics["query_tower.speedup"] > 1
    assert logged.metrics["query_tower.ndcg_kept.low"] <= logged.metrics["query_tower.ndcg_kept"]
    assert logged.params["distillation.steps"] == str(DISTILLATION.steps)
    assert logged.tags["picked"] == "true"
    assert [file.path for file in backend.client.list_artifacts(parent, "plots")] == ["plots/query_towers.png"]


def files(home: Path, *, towers: bool) -> dict[str, str]:
    """Return the SHA-256 of every file but those of MLflow and of the cache: the small towers, or all others."""
    own = (path for path in sorted(home.rglob("*")) if path.is_file())
    inside = {path: path.relative_to(home).parts for path in own}
    return {
        "/".join(parts): file_sha256(path)
        for path, parts in inside.items()
        if parts[0] not in ("mlflow", "cache") and ("query_towers" in parts) == towers
    }


def test_a_killed_comparison_ends_as_an_undisturbed_one_and_touches_nothing_else(shop, tiny_encoder_folder):
    places, _, training_set, trained = shop
    settings = config(tiny_encoder_folder, min_ndcg_kept=0.01)
    wiring = Wiring(places, settings, SilentProgress())
    wiring.records.save(training_set.run, "build_training_set", training_set)
    wiring.records.save(training_set.run, "finetune_model", trained)
    before = files(places.home, towers=False)
    variants = ["6-layer int8", "1-layer int8", "static"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.toys.killed_compress", "pipelines.compression.packaging", "mlflow"])
    built = []
    for stage, done in (
        ("models exported", 0),
        ("lessons read by the full model", 1),
        ("static steps", 7),
        ("1-layer int8 steps", 5),
        ("variants measured", 2),
    ):
        process = context.Process(target=compress_until, args=(places.home, settings, variants, stage, done))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, stage
        finished = {name: digest for name, digest in files(places.home, towers=True).items() if ".tmp/" not in name}
        built.append(finished)
        assert files(places.home, towers=False) == before, stage
    assert [len({name.split("/")[-2] for name in found}) for found in built] == [0, 1, 1, 2, 3]

    assert compress(variants=variants, wiring=wiring) == "static"
    found = files(places.home, towers=True)
    assert not [name for name in found if ".tmp/" in name]
    assert built[-1].items() <= found.items()  # what was finished was not made again
    assert files(places.home, towers=False) == before
    client = wiring.tracker._backend.client
    for name in variants:
        child = client.get_run(wiring.tracker._backend.find_run(training_set.run, f"compress {name}"))
        assert child.info.status == "FINISHED"

    shutil.rmtree(kept_folder(places))
    assert compress(variants=variants, wiring=wiring) == "static"
    assert files(places.home, towers=True) == found  # nobody disturbed this one


def kept_folder(places: Places) -> Path:
    (found,) = places.training.rglob("query_towers")
    return found
