"""The whole evaluation on six items, with a real bundle, a real encoder and a real MLflow."""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pipelines.config import EvaluationConfig, FloorCase, ServingConfig
from pipelines.inference.preprocessing import Preprocessing
from pipelines.progress import SilentProgress
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.schemas import CompressedBundle, TrainingSet
from pipelines.steps.evaluate_model import evaluate_model
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.stores.mlflow_view import COLUMNS
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.shadow_answers import ShadowAnswersLog
from pipelines.stores.table_store import TableStore
from tests.toys.evaluation_rows import TEST_START, row, write_rows
from tests.toys.event_tables import day, event, tables_with
from tests.toys.toy_bundle import ITEMS, POPULARITY, one_hot, write_toy_bundle

pytestmark = pytest.mark.slow


@dataclass
class Shop:
    home: Path
    encoder: Path
    tables: TableStore
    registry: ModelRegistry
    tracker: ExperimentTracker

    def challenger(self, bundle):
        folder = self.home / "bundles" / bundle
        if not folder.exists():
            write_toy_bundle(folder, encoder_name=str(self.encoder))
        return CompressedBundle(
            run=f"run-{bundle}",
            bundle=bundle,
            folder=folder,
            version=self.registry.register(f"run-{bundle}", bundle, folder),
            size_mib=0.1,
            cosine_to_float=0.99,
            metrics={},
        )

    def evaluate(self, compressed, **settings):
        training_set = TrainingSet(
            run=compressed.run,
            folder=self.home / "training",
            fingerprint="f" * 64,
            champion=None,
            rows={"test": 2},
            validation_start=TEST_START - timedelta(days=7),
            test_start=TEST_START,
            test_end=TEST_START + timedelta(days=7),
        )
        return evaluate_model(
            training_set,
            compressed,
            tables=self.tables,
            bundles_dir=self.home / "bundles",
            registry=self.registry,
            tracker=self.tracker,
            config=EvaluationConfig(
                **{"bootstrap_samples": 100, "latency_requests": 20, "search_queries": 12, **settings}
            ),
            serving=ServingConfig(),
            shadow_answers=self.home / "shadow_answers",
            cache_dir=self.home / "cache",
            progress=SilentProgress(),
        )


@pytest.fixture
def shop(tmp_path, mlflow_folder, tiny_encoder_folder):
    bought = [("ann", "a"), ("bob", "a"), ("cid", "a"), ("ann", "b"), ("bob", "c"), ("dot", "d"), ("dot", "e")]
    events = [event(user, item, day(20), number=number) for number, (user, item) in enumerate([*bought, ("dot", "f")])]
    write_rows(
        tmp_path / "training",
        [
            row(1, "ann", history=["a", "b"], seen=["a", "b"], targets=["a", "c"], new=["c"]),
            row(2, "bob", history=["a", "c"], seen=["a", "c"], targets=["f"]),
        ],
    )
    return Shop(
        home=tmp_path,
        encoder=tiny_encoder_folder,
        tables=tables_with(tmp_path, events, until=day(40)),
        registry=ModelRegistry(mlflow_folder),
        tracker=ExperimentTracker(mlflow_folder),
    )


def test_every_case_is_measured_on_the_same_rows(shop, mlflow_folder):
    challenger = shop.challenger("b1")
    report = shop.evaluate(challenger)
    assert {case for case in report.metrics if not case.startswith("gain")} == {
        "headrace",
        "headrace_dense",
        "popularity",
        "item_knn",
        "untouched_encoder",
        "lexical",
    }
    assert {f"gain over {case}" for case in get_args(FloorCase)} <= set(report.metrics)
    # a was bought three times, every other item once, so popularity ranks a b c d e f.
    # ann: without a and b, c is first. bob: without a and c, f is fourth (b d e f).
    assert report.metrics["popularity"]["mrr"].value == (1 + 1 / 4) / 2
    assert report.metrics["popularity"]["next_basket.mrr"].value == (1 + 1 / 6) / 2
    # dense, ann: "red apple" and "green apple" look like c (green pear, 0.32) and f (red bread, 0.32), so c is first;
    # bob: "red apple" and "green pear" look like b (1 word of each) and then f.
    assert report.metrics["headrace_dense"]["mrr"].value == (1 + 1 / 2) / 2
    assert report.metrics["headrace"]["finite_share"].value == 1
    # popularity shows ann c d e f and bob b d e f: every item but a, which both have
    assert report.metrics["popularity"]["coverage"].value == 5 / 6
    assert report.metrics["popularity"]["cold items.recall@10"].value == 1  # nothing has more than five events
    assert report.users == 2
    page = report.report.read_text()
    assert "Full ranking of 6 items" in page
    assert "Cold items" in page
    assert "popularity_rank" in page
    assert shop.registry.report(challenger.version) == report
    backend = MlflowBackend(mlflow_folder)
    logged = backend.client.get_run(backend.find_run("run-b1", "evaluate_model"))
    assert logged.data.metrics["popularity.mrr"] == 0.625
    assert logged.data.params["metric.ties"].startswith("equal scores")
    headline = backend.client.get_run(backend.find_run("run-b1")).data.metrics
    assert headline["mrr"] == report.metrics["headrace"]["mrr"].value
    shown = {column.split("`")[1] for column in COLUMNS if column.startswith("metrics.")}
    assert shown - set(headline) == {"gain_over_champion.recall_at_10"}  # there is no champion yet
    plots = {entry.path for entry in backend.client.list_artifacts(logged.info.run_id, "plots")}
    assert plots == {
        "plots/quality_of_each_case.png",
        "plots/quality_of_each_slice.png",
        "plots/quality_against_latency.png",
        "plots/latency_of_an_answer.png",
    }
    parent = backend.client.get_run(backend.find_run("run-b1"))
    assert parent.info.run_name == "2026-01-22 run-b1 from zero"
    assert parent.data.params["rows_until"].startswith("2026-01-22")
    described = backend.client.get_model_version("headrace", challenger.version).description
    assert parent.data.tags["mlflow.note.content"] == described
    assert "2 users, every item ranked: recall@10" in described
    assert {one.dataset.name for one in parent.inputs.dataset_inputs} == {"training_rows", "test_rows"}
    assert logged.data.metrics["headrace.memory_mib"] == report.costs["headrace"]["memory_mib"] > 0


def test_the_parent_of_an_evaluation_with_other_settings_stays(shop, mlflow_folder):
    challenger = shop.challenger("b1")
    shop.evaluate(challenger)
    backend = MlflowBackend(mlflow_folder)
    before = backend.find_run("run-b1")
    shop.evaluate(challenger, bootstrap_samples=101)
    assert backend.find_run("run-b1") == before


def test_a_challenger_that_left_items_out_misses_them(shop):
    shop.registry.set_champion(shop.challenger("b1").version)
    places = [place for place, item in enumerate(ITEMS["item_id"].to_pylist()) if item != "f"]
    write_toy_bundle(
        shop.home / "bundles" / "b2",
        encoder_name=str(shop.encoder),
        items=ITEMS.take(places),
        item_vectors=np.stack([one_hot(title) for title in ITEMS["title"].take(places).to_pylist()]),
        neighbors={"item_to_item": NeighborTable.from_padded(np.full((5, 1), -1, np.int32), np.zeros((5, 1)))},
        popularity=POPULARITY[places],
    )
    report = shop.evaluate(shop.challenger("b2"))
    assert report.slice_rows["cold items"] == 2  # bob's f counts, though the challenger does not have it
    # it stands behind the three others that bob had not seen; ann's c is first, second or third
    of_ann = 2 * report.metrics["headrace"]["mrr"].value - 1 / 4
    assert min(abs(of_ann - 1 / rank) for rank in (1, 2, 3)) < 1e-9


def test_a_challenger_that_does_not_open_has_a_report_that_says_so(shop):
    challenger = shop.challenger("b1")
    (challenger.folder / "encoder.onnx").write_bytes(b"nothing")
    report = shop.evaluate(challenger)
    assert [(found.name, found.passed) for found in report.findings] == [("opens", False)]
    assert "encoder.onnx of the bundle" in report.findings[0].words
    assert report.metrics == {}
    assert shop.registry.report(challenger.version) == report


def test_a_challenger_that_equals_the_champion_gains_nothing(shop):
    champion = shop.challenger("b1")
    shop.registry.set_champion(champion.version)
    report = shop.evaluate(shop.challenger("b2"))
    assert report.metrics["champion"]["recall@10"] == report.metrics["headrace"]["recall@10"]
    gain = report.metrics["gain over champion"]
    assert (gain["mrr"].value, gain["mrr"].low, gain["mrr"].high) == (0, 0, 0)
    assert gain["search.mrr"].value == 0


def test_a_challenger_that_failed_as_a_shadow_has_a_finding_against_it(shop):
    challenger = shop.challenger("b1")
    log = ShadowAnswersLog(shop.home / "shadow_answers", keep_days=7)
    for shadow in ("b1", "b9"):
        log.offer(
            now=TEST_START, call="search", live="b0", shadow=shadow, live_items=["a"], shadow_items=[], live_ms=1,
            shadow_ms=1, error="RuntimeError: broken",
        )  # fmt: skip
    log.close()
    [found] = [one for one in shop.evaluate(challenger).findings if one.name == "shadow"]
    assert not found.passed
    assert found.words.startswith("as a shadow of b0 it was asked 1 live requests: 1 failed")


def test_running_it_twice_gives_the_same_metrics(shop):
    challenger = shop.challenger("b1")
    first = shop.evaluate(challenger)
    shop.registry.set_champion(challenger.version)  # promoted in between: it is not its own champion
    again = shop.evaluate(challenger)
    assert (again.metrics, again.findings, again.slice_rows) == (first.metrics, first.findings, first.slice_rows)
    assert again.rows_fingerprint == first.rows_fingerprint != ""


def test_a_champion_whose_folder_is_gone_is_fetched_from_the_registry(shop):
    champion = shop.challenger("b1")
    shop.registry.set_champion(champion.version)
    champion.folder.rename(shop.home / "elsewhere")
    assert "champion" in shop.evaluate(shop.challenger("b2")).metrics
    assert champion.folder.is_dir()


def test_a_champion_with_other_activity_features_is_left_out_with_the_reason(shop):
    champion = shop.challenger("old")
    shop.registry.set_champion(champion.version)
    older = Preprocessing(activity_features=("events_1d", "spend_28d")).model_dump_json().encode()
    (champion.folder / "preprocessing.json").write_bytes(older)
    manifest = json.loads((champion.folder / "manifest.json").read_text())
    manifest["files"]["preprocessing.json"] = {"sha256": hashlib.sha256(older).hexdigest(), "bytes": len(older)}
    (champion.folder / "manifest.json").write_text(json.dumps(manifest))
    report = shop.evaluate(shop.challenger("new"))

    assert "champion" not in report.metrics
    assert "The champion is left out. The bundle" in report.report.read_text()


def test_a_champion_of_another_format_is_left_out_with_the_reason(shop):
    champion = shop.challenger("old")
    shop.registry.set_champion(champion.version)
    manifest = json.loads((champion.folder / "manifest.json").read_text())
    (champion.folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    report = shop.evaluate(shop.challenger("new"))

    assert "champion" not in report.metrics
    assert report.champion == "old"
    assert "has format 1" in report.report.read_text()
