"""Going back to an earlier champion, on a real MLflow."""

import pytest

from pipelines.errors import DataError
from pipelines.steps.rollback_champion import rollback_champion
from pipelines.stores.model_registry import ModelRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def registry(mlflow_folder, tmp_path):
    registry = ModelRegistry(mlflow_folder)
    for bundle in ("b1", "b2", "b3", "never"):
        folder = tmp_path / bundle
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        version = registry.register(f"run-{bundle}", bundle, folder)
        if bundle != "never":
            registry.set_champion(version)
    return registry


def test_the_champion_before_takes_over(registry):
    decision = rollback_champion(registry=registry)
    assert (decision.bundle, decision.champion, decision.run) == ("b2", "b2", "run-b2")
    assert decision.reasons == ("rolled back by hand from b3",)
    assert registry.champion().bundle == "b2"


def test_each_call_goes_one_further_back_until_the_first(registry):
    assert [rollback_champion(registry=registry).champion for _ in range(2)] == ["b2", "b1"]
    with pytest.raises(DataError, match=r"nothing to roll back to: bundle b1 is the first champion"):
        rollback_champion(registry=registry)
    assert registry.champion().bundle == "b1"


def test_with_a_name_it_can_be_repeated(registry):
    for _ in range(2):
        assert rollback_champion(registry=registry, to="b1").champion == "b1"
    assert rollback_champion(registry=registry, to="b3").champion == "b3"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        pytest.param(
            "never",
            r"Bundle never \(version 4\) was never the champion.*: b1, b2, b3\)",
            id="registered but never the champion",
        ),
        pytest.param("b9", r"Bundle b9 is not registered \(registered are: b1, b2, b3, never\)", id="unknown"),
    ],
)
def test_only_an_earlier_champion_can_take_over(registry, to, message):
    with pytest.raises(DataError, match=message):
        rollback_champion(registry=registry, to=to)
    assert registry.champion().bundle == "b3"


def test_an_empty_registry_has_nothing_to_go_back_to(mlflow_folder):
    with pytest.raises(DataError, match=r"there is no champion yet"):
        rollback_champion(registry=ModelRegistry(mlflow_folder))
