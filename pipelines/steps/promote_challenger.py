"""Step: give the challenger the champion alias if it passes the gate."""

import logging

from pipelines.config import PromotionConfig
from pipelines.promotion.gate import CHAMPION_CASE, GateAnswer, decide_promotion, refuse_diverged
from pipelines.schemas import CompressedBundle, EvaluationReport, PromotionDecision
from pipelines.steps.rollback_champion import ROLLED_BACK
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.model_registry import ModelRegistry, ModelVersion

STEP = "promote_challenger"
_LOGGER = logging.getLogger(__name__)


def promote_challenger(
    report: EvaluationReport,
    compressed: CompressedBundle,
    *,
    registry: ModelRegistry,
    tracker: ExperimentTracker,
    policy: PromotionConfig,
    force: bool = False,
) -> PromotionDecision:
    """Move the champion alias to the challenger, or record why it stays.

    Safe to run twice: alias and tags end up the same. A challenger that is the champion already stays it, whatever the
    gate says now; one that was rolled back by hand is refused, and so is one that was compared with a champion that is
    no more.

    Args:
        force: Promote in spite of the gate; its objections are kept with the decision.
    """
    answer = _answer(report, compressed, registry, policy)
    champion = registry.champion()
    is_champion = champion is not None and champion.bundle == compressed.bundle
    promoted = answer.passed or force or is_champion
    reasons = answer.reasons
    if promoted and not answer.passed:
        reasons = ("forced by hand in spite of:" if force else "it is the champion already, in spite of:", *reasons)
    with tracker.step(report.run, STEP) as log:
        if not is_champion or force or answer.passed:
            registry.tag(compressed.version, "promotion", "promoted" if promoted else "refused")
            registry.tag(compressed.version, "promotion_reasons", "; ".join(reasons))
        if promoted:
            _forget_rollback(compressed.bundle, registry)
            registry.set_champion(compressed.version)
            champion = registry.champion()
        decision = PromotionDecision(
            run=report.run,
            bundle=compressed.bundle,
            promoted=promoted,
            reasons=reasons,
            champion=champion.bundle if champion else None,
        )
        log.params(policy.model_dump())
        _tag(decision, log, tracker)
    return decision


def _forget_rollback(bundle: str, registry: ModelRegistry) -> None:
    """Empty the mark of a rollback where there is one: an empty tag would only puzzle whoever looks at it."""
    known = registry.find(bundle)
    if known is not None and known.tags.get(ROLLED_BACK):
        registry.tag(known.version, ROLLED_BACK, "")


def _answer(
    report: EvaluationReport, compressed: CompressedBundle, registry: ModelRegistry, policy: PromotionConfig
) -> GateAnswer:
    known = registry.find(compressed.bundle)
    if known and (rolled_back_to := known.tags.get(ROLLED_BACK)):
        return GateAnswer(passed=False, reasons=(f"this bundle was rolled back by hand to {rolled_back_to}",))
    champion = registry.champion()
    if stale := _compared_with_another(report, champion):
        return GateAnswer(passed=False, reasons=(stale,))
    return decide_promotion(report, policy)


def _compared_with_another(report: EvaluationReport, champion: ModelVersion | None) -> str | None:
    """Say that the champion has changed since the evaluation, in which it may have been compared with baselines alone.

    What was never measured, because it does not open, was compared with nothing.
    """
    if champion is None or not report.metrics or champion.bundle in (report.bundle, report.champion):
        return None
    if report.champion is None and CHAMPION_CASE in report.metrics:
        return None  # a report of an earlier version, which did not say with which one
    return (
        f"it was compared with {report.champion or 'no champion'}, and the champion is {champion.bundle} now: run "
        f"`headrace evaluate_model --run {report.run}` again"
    )


def refuse_diverged_training(
    run: str, reason: str, *, registry: ModelRegistry, tracker: ExperimentTracker
) -> PromotionDecision:
    """Record the gate's no to a run whose training was stopped; there is no model version to tag.

    Args:
        reason: What the training said when it stopped.
    """
    with tracker.step(run, STEP) as log:
        champion = registry.champion()
        decision = PromotionDecision(
            run=run,
            bundle=run,
            promoted=False,
            reasons=refuse_diverged(reason).reasons,
            champion=champion.bundle if champion else None,
        )
        _tag(decision, log, tracker)
    return decision


def _tag(decision: PromotionDecision, log: StepLog, tracker: ExperimentTracker) -> None:
    """Tag both runs with the decision, and say it in the log, which is the task's in Airflow."""
    outcome = "promoted" if decision.promoted else "refused"
    tags = {
        "promotion": outcome,
        "promotion.reasons": "; ".join(decision.reasons),
        "promotion.champion": decision.champion or "none",
    }
    log.tags(tags)
    tracker.parent(decision.run).tags(tags)
    _LOGGER.info("The gate: %s %s. Champion: %s.", decision.bundle, outcome, decision.champion or "none")
    for reason in decision.reasons:
        _LOGGER.info("The gate: %s", reason)
