"""Who holds the champion alias afterwards, on a real MLflow."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.config import PromotionConfig
from pipelines.schemas import CompressedBundle, EvaluationReport, Metric
from pipelines.steps.promote_challenger import promote_challenger, refuse_diverged_training
from pipelines.steps.rollback_champion import rollback_champion
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.stores.model_registry import ModelRegistry

pytestmark = pytest.mark.slow
POLICY = PromotionConfig(floor_cases=("popularity",))


def report(bundle, against, gain, compared_with=None):
    """A report with a gain over one case; popularity is clearly beaten where it is another one."""
    gains = {"popularity": 0.2, against: gain}
    return EvaluationReport(
        run=f"run-{bundle}",
        bundle=bundle,
        test_start=datetime(2017, 12, 24, tzinfo=UTC),
        test_end=datetime(2017, 12, 31, tzinfo=UTC),
        users=10,
        metrics={
            "headrace": {"recall@10": Metric(value=0.3), "finite_share": Metric(value=1)},
            **{case: {"recall@10": Metric(value=0.3 - value)} for case, value in gains.items()},
            **{
                f"gain over {case}": {"recall@10": Metric(value=value, low=value - 0.01, high=value + 0.01)}
                for case, value in gains.items()
            },
        },
        latency_ms={"recommend_p50": 5.0},
        report=None,
        champion=compared_with,
    )


@pytest.fixture
def registry(mlflow_folder):
    return ModelRegistry(mlflow_folder)


@pytest.fixture
def challenge(registry, mlflow_folder, tmp_path):
    def challenge(bundle, against, gain, *, force=False, compared_with=None):
        folder = tmp_path / "bundles" / bundle
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text("{}")
        version = registry.register(f"run-{bundle}", bundle, folder)
        compressed = CompressedBundle(
            run=f"run-{bundle}",
            bundle=bundle,
            folder=Path(folder),
            version=version,
            size_mib=100,
            cosine_to_float=0.99,
            metrics={},
        )
        return promote_challenger(
            report(bundle, against, gain, compared_with),
            compressed,
            registry=registry,
            tracker=ExperimentTracker(mlflow_folder),
            policy=POLICY,
            force=force,
        )

    return challenge


def test_a_first_bundle_above_the_floor_becomes_the_champion(challenge, registry, mlflow_folder):
    decision = challenge("b1", "popularity", 0.1)
    assert (decision.promoted, decision.champion) == (True, "b1")
    assert registry.champion().tags["promotion"] == "promoted"
    backend = MlflowBackend(mlflow_folder)
    tags = backend.client.get_run(backend.find_run("run-b1")).data.tags
    assert tags["promotion"] == "promoted"
    assert tags["promotion.reasons"].startswith("recall@10 0.3000 against 0.2000 of popularity")


def test_a_no_leaves_the_champion_and_says_why(challenge, registry):
    challenge("b1", "popularity", 0.1)
    decision = challenge("b2", "champion", -0.05)
    assert (decision.promoted, decision.champion) == (False, "b1")
    assert decision.reasons == (
        "recall@10 0.3000 against 0.3500 of champion, gain -0.0500 (95 % interval -0.0600 to -0.0400); "
        "policy gain: the challenger is neither fresher nor smaller, so it must be better: the gain must be above 0",
    )
    assert registry.champion().bundle == "b1"
    assert registry.find("b2").tags["promotion"] == "refused"
    assert registry.find("b2").tags["promotion_reasons"] == decision.reasons[0]


def test_force_promotes_in_spite_of_the_gate_and_keeps_its_objections(challenge, registry):
    challenge("b1", "popularity", 0.1)
    decision = challenge("b2", "champion", -0.05, force=True)
    assert (decision.promoted, decision.champion) == (True, "b2")
    assert decision.reasons[0] == "forced by hand in spite of:"
    assert "gain -0.0500" in decision.reasons[1]
    assert registry.previous_champion().bundle == "b1"


def test_what_was_forced_stays_the_champion_when_the_gate_looks_again(challenge, registry, mlflow_folder):
    challenge("b1", "popularity", 0.1)
    challenge("b2", "champion", -0.05, force=True)
    again = challenge("b2", "champion", -0.05)
    assert (again.promoted, again.champion) == (True, "b2")
    assert again.reasons[0] == "it is the champion already, in spite of:"
    assert registry.champion().tags["promotion"] == "promoted"
    assert registry.champion().tags["promotion_reasons"].startswith("forced by hand")
    assert registry.previous_champion().bundle == "b1"
    backend = MlflowBackend(mlflow_folder)
    assert backend.client.get_run(backend.find_run("run-b2")).data.tags["promotion"] == "promoted"


def test_a_challenger_that_was_compared_with_an_earlier_champion_is_evaluated_again(challenge, registry):
    challenge("b1", "popularity", 0.1)
    challenge("b2", "champion", 0.05, compared_with="b1")
    late = challenge("b3", "champion", 0.05, compared_with="b1")
    assert (late.promoted, late.champion) == (False, "b2")
    assert late.reasons == (
        "it was compared with b1, and the champion is b2 now: run `headrace evaluate_model --run run-b3` again",
    )
    assert challenge("b2", "champion", 0.05, compared_with="b1").promoted
    never = challenge("b4", "popularity", 0.1)
    assert never.reasons[0].startswith("it was compared with no champion, and the champion is b2 now")


def test_the_log_says_what_was_decided_and_why(challenge, caplog):
    caplog.set_level("INFO")
    challenge("b1", "popularity", 0.1)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("promote_challenger")]
    assert lines[0] == "The gate: b1 promoted. Champion: b1."
    assert lines[1].startswith("The gate: recall@10 0.3000 against 0.2000 of popularity")


def test_running_it_twice_gives_the_same_state(challenge, registry):
    challenge("b1", "popularity", 0.1)
    first, second = (challenge("b2", "champion", 0.05) for _ in range(2))
    assert first == second
    assert (registry.champion().bundle, registry.previous_champion().bundle) == ("b2", "b1")


def test_what_was_rolled_back_does_not_come_back_by_itself(challenge, registry):
    challenge("b1", "popularity", 0.02)
    challenge("b2", "champion", 0.02)
    rollback_champion(registry=registry)
    refused = challenge("b2", "champion", 0.02)
    assert (refused.promoted, refused.champion) == (False, "b1")
    assert refused.reasons == ("this bundle was rolled back by hand to b1",)
    assert challenge("b2", "champion", 0.02, force=True).champion == "b2"
    assert challenge("b2", "champion", 0.02).promoted


def test_training_that_diverged_is_refused_with_its_reason_and_the_champion_stays(challenge, registry, mlflow_folder):
    challenge("b1", "popularity", 0.1)
    decision = refuse_diverged_training(
        "run-b2", "The loss is nan.", registry=registry, tracker=ExperimentTracker(mlflow_folder)
    )
    assert (decision.promoted, decision.champion) == (False, "b1")
    assert decision.reasons == ("there is no challenger: The loss is nan.",)
    assert registry.find("b2") is None
    backend = MlflowBackend(mlflow_folder)
    tags = backend.client.get_run(backend.find_run("run-b2")).data.tags
    assert (tags["promotion"], tags["promotion.reasons"]) == ("refused", "there is no challenger: The loss is nan.")
