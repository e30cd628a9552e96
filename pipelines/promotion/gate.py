"""The gate: may the challenger go live? Pure; every "no" comes with its reasons in words and numbers."""

from pipelines.config import PromotionConfig
from pipelines.promotion.budgets import budget_objections
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE
from pipelines.promotion.quality import Verdict, compare_with_champion, floor_verdict, quality_losses
from pipelines.promotion.soundness import OPENS, soundness_objections
from pipelines.schemas import EvaluationReport, Record

__all__ = ["CHALLENGER_CASE", "CHAMPION_CASE", "GateAnswer", "decide_promotion", "refuse_diverged"]


class GateAnswer(Record):
    """Whether the challenger passes, and why, or why not."""

    passed: bool
    reasons: tuple[str, ...]


def decide_promotion(report: EvaluationReport, policy: PromotionConfig) -> GateAnswer:
    """Compare the challenger with the champion, or, before there is one, with the baselines of the floor.

    All comparisons are paired on the same rows. Later runs: better than the champion or not worse than it, as
    `policy.policy` asks, in no slice and in no other table surely worse than the bound. First run: better than each
    floor case, at the metric or at the whole basket. Always: what was found of receipt, golden queries and invariances
    holds, scores are numbers, and latency, memory and size keep their budgets.

    Returns:
        The reasons of a "no", or what speaks for a "yes".
    """
    closed = [finding.words for finding in report.findings if finding.name == OPENS and not finding.passed]
    if closed:
        return GateAnswer(passed=False, reasons=tuple(closed))
    has_champion = CHAMPION_CASE in report.metrics
    verdicts: list[Verdict] = [compare_with_champion(report, policy)] if has_champion else []
    verdicts += [floor_verdict(report, case, policy, is_first=not has_champion) for case in policy.floor_cases]
    objections = [
        *soundness_objections(report, policy),
        *(verdict.words for verdict in verdicts if not verdict.passed),
        *quality_losses(report, policy),
        *budget_objections(report, policy),
    ]
    if objections:
        return GateAnswer(passed=False, reasons=tuple(objections))
    return GateAnswer(passed=True, reasons=tuple(verdict.words for verdict in verdicts if verdict.words))


def refuse_diverged(reason: str) -> GateAnswer:
    """Say no to a training that was stopped because it made the model worse: it left no challenger to compare.

    Args:
        reason: What the training said when it stopped.
    """
    return GateAnswer(passed=False, reasons=(f"there is no challenger: {reason}",))
