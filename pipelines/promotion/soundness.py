"""Is the challenger sound? Findings, finite scores, golden titles, invariances, and a gain that is too good."""

from pipelines.config import PromotionConfig
from pipelines.evaluation.cases import FINITE_SHARE
from pipelines.evaluation.golden import GOLDEN_TITLES, GOLDEN_VECTORS
from pipelines.evaluation.invariances import SAME_AGAIN, SAME_BLANKS, SAME_CASE, TIED
from pipelines.evaluation.window_jump import JUMP_METRIC, WINDOW_JUMP
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE, DENSE_CASE, value_of
from pipelines.schemas import EvaluationReport

OPENS = "opens"
"""The finding that there is a bundle which answers at all."""


def soundness_objections(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    """Return what is wrong with the challenger, whatever its quality; what was not looked at is not held against it."""
    return [
        *_not_finite(report, policy.metric),
        *(finding.words for finding in report.findings if not finding.passed),
        *_too_good(report, policy),
        *_golden(report, policy),
        *_changed_answers(report, policy),
    ]


def _not_finite(report: EvaluationReport, metric: str) -> list[str]:
    own = report.metrics.get(CHALLENGER_CASE, {})
    share = min((found.value for name, found in own.items() if name.endswith(FINITE_SHARE)), default=0.0)
    reasons = []
    if metric not in own:
        measured = ", ".join(sorted(own)) or "nothing"
        reasons.append(
            f"no row of the test window counts for {metric} of the challenger"
            if any(metric in found for found in report.metrics.values()) or FINITE_SHARE in own
            else f"the report has no {metric} of the challenger (it has: {measured})"
        )
    if share < 1:
        reasons.append(f"{1 - share:.2%} of the challenger's scores are not finite numbers")
    return reasons


def _too_good(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    jump = report.metrics.get(CHALLENGER_CASE, {}).get(WINDOW_JUMP)
    reached = value_of(report, DENSE_CASE, JUMP_METRIC)
    if jump is None or jump.low is None or reached is None or jump.low <= policy.max_window_jump * reached:
        return []
    return [
        f"suspiciously good: the towers' gain in ndcg@10 is {jump.value:+.4f} (at least {jump.low:+.4f}) larger on the "
        "test window than on the validation window, of which they know as little: look for test rows among the "
        "training rows"
    ]


def _golden(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    reasons = []
    share, champion = (value_of(report, case, GOLDEN_TITLES) for case in (CHALLENGER_CASE, CHAMPION_CASE))
    lowest = max(policy.min_golden_share, (champion or 0.0) - policy.max_golden_loss)
    if share is not None and share < lowest:
        than = f", {champion:.0%} with the champion" if champion is not None else ""
        reasons.append(f"{share:.0%} of the golden titles find their item{than}: at least {lowest:.0%} must")
    own, theirs = (value_of(report, case, GOLDEN_VECTORS) for case in (CHALLENGER_CASE, CHAMPION_CASE))
    if own is not None and theirs is not None and own < theirs - policy.max_golden_loss:
        reasons.append(
            f"{own:.0%} of the golden titles find their item by vectors alone, {theirs:.0%} with the champion: the "
            "encoder or its tokenizer does not fit the item vectors"
        )
    return reasons


def _changed_answers(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    wanted = (
        (SAME_CASE, "capitals in a query leave {:.0%} of its ten answers", policy.min_overlap),
        (SAME_BLANKS, "more white space in a query leaves {:.0%} of its ten answers", policy.min_overlap),
        (SAME_AGAIN, "{:.0%} of the users get the same answer when they ask again", 1.0),
    )
    reasons = []
    for name, words, least in wanted:
        own = value_of(report, CHALLENGER_CASE, name)
        if own is not None and own < least:
            reasons.append(f"{words.format(own)}: at least {least:.0%} is wanted")
    tied = value_of(report, CHALLENGER_CASE, TIED)
    if tied is not None and tied > policy.max_tied:
        reasons.append(
            f"equal scores at the border of the first ten in {tied:.0%} of the recommendations: the order of the "
            f"catalogue decides there, and may in {policy.max_tied:.0%}"
        )
    return reasons
