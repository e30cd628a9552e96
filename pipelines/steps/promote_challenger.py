"""Step: give the challenger the champion alias if it passes the gate."""

from pipelines.config import PromotionConfig
from pipelines.promotion.gate import GateAnswer, decide_promotion, refuse_diverged
from pipelines.schemas import CompressedBundle, EvaluationReport, PromotionDecision
from pipelines.steps.rollback_champion import ROLLED_BACK
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.model_registry import ModelRegistry

STEP = "promote_challenger"


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

    Safe to run twice: alias and tags end up the same. A challenger that is the champion already stays it; one that was
    rolled back by hand is refused.

    Args:
        force: Promote in spite of the gate; its objections are kept with the decision.
    """
    answer = decide_promotion(report, compressed.size_mib, policy)
    known = registry.find(compressed.bundle)
    if known and (rolled_back_to := known.tags.get(ROLLED_BACK)):
        answer = GateAnswer(passed=False, reasons=(f"this bundle was rolled back by hand to {rolled_back_to}",))
    promoted = answer.passed or force
    reasons = answer.reasons if answer.passed or not force else ("forced by hand in spite of:", *answer.reasons)
    with tracker.step(report.run, STEP) as log:
        registry.tag(compressed.version, "promotion", "promoted" if promoted else "refused")
        registry.tag(compressed.version, "promotion_reasons", "; ".join(reasons))
        if promoted:
            registry.tag(compressed.version, ROLLED_BACK, "")
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
    tags = {
        "promotion": "promoted" if decision.promoted else "refused",
        "promotion.reasons": "; ".join(decision.reasons),
        "promotion.champion": decision.champion or "none",
    }
    log.tags(tags)
    tracker.parent(decision.run).tags(tags)
