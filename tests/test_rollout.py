"""Promotion, rollback, canary and shadow on a real MLflow and a home with toy bundles."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.commands.models import as_text, model_rows
from pipelines.commands.rollback import roll_back
from pipelines.config import DeploymentConfig, HeadraceConfig
from pipelines.errors import BundleError, ConfigError, DataError, StoreError
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.rollout.plan import CanaryStop
from pipelines.schemas import EvaluationReport, Metric
from pipelines.steps.prune_bundles import prune_bundles
from pipelines.stores.planned_trials import STOPPED, end_trial, follow_registry, start_trial
from pipelines.stores.rollout_file import read_plan, write_stop
from pipelines.stores.serving_pointer import read_pointer
from pipelines.wiring import Wiring, run_step
from tests.toys.toy_bundle import CREATED_AT, write_toy_bundle

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUNDLES = ("b1", "b2", "b3", "other")


@pytest.fixture
def wiring(mlflow_folder, tmp_path) -> Wiring:
    """A home in which b1, b2 and b3 were promoted and deployed one after the other; another bundle is registered."""
    wiring = Wiring(Places(tmp_path), HeadraceConfig(), SilentProgress())
    for bundle in BUNDLES:
        write_toy_bundle(wiring.places.bundles / bundle)
        version = wiring.registry.register(f"run-{bundle}", bundle, wiring.places.bundles / bundle)
        if bundle != "other":
            wiring.registry.set_champion(version)
            run_step("deploy_bundle", wiring=wiring, bundle=bundle, known=bundle != "b1")
    return wiring


@pytest.fixture
def promoted(wiring) -> Wiring:
    """The same, as deployments and not rollbacks have written the pointer."""
    path = wiring.places.current_bundle
    path.write_text(json.dumps(json.loads(path.read_text()) | {"before": ["b1", "b2"]}))
    return wiring


def live(wiring: Wiring) -> str:
    pointer = read_pointer(wiring.places.current_bundle)
    assert pointer is not None
    return pointer.bundle


def champion(wiring: Wiring) -> str:
    found = wiring.registry.champion()
    assert found is not None
    return found.bundle


def test_one_call_moves_pointer_and_alias_each_one_further_back(promoted):
    assert roll_back(None, promoted) == "Bundle b2 is champion and live again, after b3; no service runs."
    assert (live(promoted), champion(promoted)) == ("b2", "b2")
    roll_back(None, promoted)
    assert (live(promoted), champion(promoted)) == ("b1", "b1")
    with pytest.raises(DataError, match="nothing to roll back to: bundle b1 is the first champion"):
        roll_back(None, promoted)
    assert (live(promoted), champion(promoted)) == ("b1", "b1")


def test_a_bundle_that_was_removed_is_fetched(promoted):
    shutil.rmtree(promoted.places.bundles / "b1")
    roll_back("b1", promoted)
    assert (live(promoted), champion(promoted)) == ("b1", "b1")
    assert (promoted.places.bundles / "b1" / "manifest.json").is_file()


def test_only_a_champion_is_gone_back_to(promoted):
    with pytest.raises(DataError, match=r"Bundle other .* was never the champion"):
        roll_back("other", promoted)
    assert (live(promoted), champion(promoted)) == ("b3", "b3")


def test_a_registry_that_does_not_answer_delays_no_rollback(promoted, tmp_path):
    broken = Wiring(promoted.places, promoted.config, SilentProgress())
    broken.registry = type(promoted.registry)(tmp_path / "elsewhere", "http://127.0.0.1:9")
    broken.registry._backend.__dict__["client"] = _Silent()
    with pytest.raises(StoreError, match=r"Bundle b2 is live again, .* run `headrace rollback --to b2` again"):
        roll_back(None, broken)
    assert live(promoted) == "b2"


class _Silent:
    """A client of a server that is down."""

    def __getattr__(self, name: str):
        from mlflow.exceptions import MlflowException

        raise MlflowException(f"{name}: connection refused")


def test_a_champion_that_cannot_go_live_loses_the_alias_and_says_why(promoted):
    version = promoted.registry.find("other").version
    promoted.registry.set_champion(version)
    (promoted.places.bundles / "other" / "popularity.npy").write_bytes(b"")
    with pytest.raises(BundleError, match=r"popularity\.npy"):
        run_step("deploy_bundle", wiring=promoted, bundle="other")
    assert (live(promoted), champion(promoted)) == ("b3", "b3")
    assert "popularity.npy" in promoted.registry.find("other").tags["not_deployed_because"]


def test_old_bundles_go_and_what_is_needed_stays(promoted):
    old = CREATED_AT + timedelta(days=100)
    policy = DeploymentConfig(keep_champions=2, keep_days=14)
    bentos = promoted.places.bentoml / "bentos" / "headrace"
    for bundle in ("b1", "b3"):
        shutil.copytree(promoted.places.bundles / bundle, bentos / f"{bundle}-0a" / "src" / "bundle")
    manifest = promoted.places.bundles / "b1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))  # this version cannot open it
    pruned = prune_bundles(registry=promoted.registry, places=promoted.places, config=policy, now=old)
    assert pruned.removed == ("b1", "other")
    assert pruned.kept == {"b2": "champion before", "b3": "live"}
    assert pruned.freed_mib >= 0
    assert sorted(path.name for path in promoted.places.bundles.iterdir() if "source" not in path.name) == ["b2", "b3"]
    assert [path.name for path in bentos.iterdir()] == ["b3-0a"]
    again = prune_bundles(registry=promoted.registry, places=promoted.places, config=policy, now=old)
    assert again.removed == ()


def test_a_canary_is_planned_by_the_registry_and_copied_for_the_service(promoted):
    registry, places = promoted.registry, promoted.places
    trial = start_trial("canary", "other", 0.05, registry=registry, places=places, now=NOW)
    plan = read_plan(places.rollout)
    assert plan.canary == trial
    assert (trial.bundle, trial.share, trial.id) == ("other", 0.05, "other-20260301T000000")
    assert registry.holder("canary").bundle == "other"
    more = start_trial("canary", "other", 0.2, registry=registry, places=places, now=NOW + timedelta(days=1))
    assert (more.id, more.share) == (trial.id, 0.2)
    end_trial("canary", registry=registry, places=places)
    assert read_plan(places.rollout).canary is None
    assert registry.holder("canary") is None


def test_what_the_guard_stopped_is_kept_with_the_version(promoted):
    registry, places = promoted.registry, promoted.places
    trial = start_trial("canary", "other", 0.05, registry=registry, places=places, now=NOW)
    write_stop(places.canary_stops, CanaryStop(id=trial.id, bundle="other", stopped_at=NOW, reason="slow", answers=9))
    assert follow_registry(registry, places).canary is None
    assert registry.find("other").tags[STOPPED] == "2026-03-01T00:00:00+00:00: slow"
    assert registry.holder("canary") is None
    again = start_trial("canary", "other", 0.05, registry=registry, places=places, now=NOW + timedelta(hours=1))
    assert again.id != trial.id
    assert registry.find("other").tags[STOPPED] == ""


@pytest.mark.parametrize(
    ("bundle", "error", "message"),
    [
        pytest.param("b9", DataError, r"Bundle b9 is not registered", id="unknown"),
        pytest.param("b3", ConfigError, r"Bundle b3 is live already", id="live"),
    ],
)
def test_what_cannot_be_tried(promoted, bundle, error, message):
    with pytest.raises(error, match=message):
        start_trial("shadow", bundle, 0.1, registry=promoted.registry, places=promoted.places, now=NOW)


def test_what_is_promoted_is_not_tried_any_more(promoted):
    start_trial("shadow", "other", 0.1, registry=promoted.registry, places=promoted.places, now=NOW)
    promoted.registry.set_champion(promoted.registry.find("other").version)
    run_step("deploy_bundle", wiring=promoted, bundle="other", known=True)
    assert read_plan(promoted.places.rollout).shadow is None


def test_the_list_says_who_is_what(promoted):
    registry, places = promoted.registry, promoted.places
    start_trial("shadow", "other", 0.1, registry=registry, places=places, now=NOW)
    version = registry.find("b3").version
    registry.tag(version, "promotion", "promoted")
    registry.save_report(version, _report("b3"))
    shutil.rmtree(places.bundles / "b1")
    rows = {row.bundle: row for row in model_rows(registry, places)}
    assert rows["b1"].roles == ("pruned",)
    assert rows["b2"].roles == ("live before",)
    assert rows["b3"].roles == ("live", "champion")
    assert rows["other"].roles == ("shadow 10%",)
    assert "recall@10 0.1500 [0.1400, 0.1600]; no receipt" in as_text(rows["b3"])
    assert as_text(rows["b3"]).endswith("promoted")


def _report(bundle: str) -> EvaluationReport:
    own = {"recall@10": Metric(value=0.15, low=0.14, high=0.16)}
    return EvaluationReport(
        run=f"run-{bundle}",
        bundle=bundle,
        test_start=NOW,
        test_end=NOW,
        users=9,
        metrics={"headrace": own},
        latency_ms={},
        report=None,
    )
