"""The model registry on a real MLflow with SQLite."""

from datetime import UTC, datetime

import pytest
from mlflow.models import Model

from pipelines.errors import DataError
from pipelines.schemas import EvaluationReport, Metric
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.stores.model_registry import ModelRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def registry(mlflow_folder):
    return ModelRegistry(mlflow_folder)


@pytest.fixture
def register(registry, tmp_path):
    def register(bundle, run="run1"):
        folder = tmp_path / "bundles" / bundle
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(bundle)
        return registry.register(run, bundle, folder)

    return register


def champions(registry):
    return [found.version if found else None for found in (registry.champion(), registry.previous_champion())]


def test_an_empty_registry_has_no_champion(registry):
    assert registry.versions() == []
    assert champions(registry) == [None, None]
    assert registry.challenger() is None


def test_a_bundle_is_registered_once(registry, register):
    assert [register("b1"), register("b2", "run2"), register("b1")] == ["1", "2", "1"]
    assert [(found.version, found.bundle, found.run) for found in registry.versions()] == [
        ("1", "b1", "run1"),
        ("2", "b2", "run2"),
    ]


def test_a_registered_bundle_can_be_fetched(registry, register, tmp_path):
    register("b1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in range(2):
        assert [file.read_text() for file in registry.fetch("1", elsewhere).iterdir()] == ["b1"]
    assert [path.name for path in elsewhere.iterdir()] == ["b1"]


def test_a_version_says_in_mlflow_what_it_takes_and_gives(registry, register, mlflow_folder):
    version = register("b1")
    registry.describe(version, "Searches **six** items.")
    client = MlflowBackend(mlflow_folder).client
    assert client.get_model_version("headrace", version).description == "Searches **six** items."
    assert "`champion` is what should be live" in client.get_registered_model("headrace").description
    found = client.download_artifacts(client.get_model_version("headrace", version).run_id, "bundles/b1/MLmodel")
    signature = Model.load(found).signature
    assert signature.inputs.input_names() == ["query", "item_ids", "event_types", "event_times"]
    assert not any(column.required for column in signature.inputs.inputs)
    assert signature.outputs.input_names() == ["item_id", "title", "score"]


def test_champions_follow_one_another_and_a_rollback_returns(registry, register):
    for bundle in ("b1", "b2", "b3"):
        registry.set_champion(register(bundle))
    assert champions(registry) == ["3", "2"]
    registry.set_champion("3")
    assert champions(registry) == ["3", "2"]
    registry.restore_champion("2")
    assert champions(registry) == ["2", "1"]
    registry.restore_champion("1")
    assert champions(registry) == ["1", None]
    registry.set_champion("3")
    assert champions(registry) == ["3", "1"]


def test_a_crash_before_the_alias_moved_changes_nothing(registry, register, mlflow_folder):
    for bundle in ("b1", "b2"):
        registry.set_champion(register(bundle))
    register("b3")
    from pipelines.stores.mlflow_client import MlflowBackend

    # what set_champion("3") writes before it moves the alias
    MlflowBackend(mlflow_folder).client.set_registered_model_tag("headrace", "champions", '["1", "2", "3"]')
    assert champions(registry) == ["2", "1"]
    registry.set_champion("3")
    assert champions(registry) == ["3", "2"]


def test_aliases_and_tags_are_listed_with_the_version(registry, register):
    register("b1")
    registry.set_challenger("1")
    registry.set_champion("1")
    registry.tag("1", "promotion", "promoted")
    [found] = registry.versions()
    assert found.aliases == ("challenger", "champion")
    assert found.tags == {"promotion": "promoted"}
    assert registry.challenger() == registry.champion() == found == registry.find("b1")
    assert registry.find("b9") is None


def test_an_unknown_version_is_named_with_the_known_ones(registry, register):
    with pytest.raises(DataError, match=r"no version '7'.*none is registered yet"):
        registry.set_champion("7")
    register("b1")
    with pytest.raises(DataError, match=r"no version '7'.*there are 1 \(bundle b1\)"):
        registry.set_champion("7")
    with pytest.raises(DataError, match=r"Bundle b1 \(version 1\) was never the champion.*none"):
        registry.restore_champion("1")


def test_a_report_is_kept_with_its_version(registry, register):
    register("b1")
    register("b2")
    report = EvaluationReport(
        run="run1",
        bundle="b1",
        test_start=datetime(2017, 12, 24, tzinfo=UTC),
        test_end=datetime(2017, 12, 31, tzinfo=UTC),
        users=2,
        metrics={"headrace": {"recall@10": Metric(value=0.5, low=0.25, high=0.75)}},
        latency_ms={"recommend": 3.0},
        report=None,
    )
    registry.save_report("1", report)
    assert registry.report("1") == report
    assert registry.report("2") is None
