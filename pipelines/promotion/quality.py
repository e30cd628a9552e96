"""Is the challenger better, or at least not worse? Paired gains with their intervals, as a whole and by slice."""

from pipelines.config import PromotionConfig
from pipelines.evaluation.row_values import NEXT_BASKET, SLICED
from pipelines.evaluation.search_cases import SEARCH
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE, gain_in_words, gain_of, value_of
from pipelines.schemas import EvaluationReport, Metric, Record

GAIN, NON_INFERIOR, AUTO = "gain", "non_inferior", "auto"
_TABLES = (NEXT_BASKET, SEARCH)
"""Tables beside the one that decides: none may be lost."""


class Verdict(Record):
    """One comparison, in words; a comparison that passes may have nothing to say."""

    passed: bool
    words: str


def policy_in_use(report: EvaluationReport, policy: PromotionConfig) -> tuple[str, str]:
    """Return `gain` or `non_inferior`, and why in words."""
    if policy.policy != AUTO:
        return policy.policy, "as `promotion.policy` says"
    virtues = [word for word, holds in (("fresher", report.is_fresher), ("smaller", report.is_smaller)) if holds]
    if virtues:
        return NON_INFERIOR, f"the challenger is {' and '.join(virtues)}, so not being worse is enough"
    return GAIN, "the challenger is neither fresher nor smaller, so it must be better"


def compare_with_champion(report: EvaluationReport, policy: PromotionConfig) -> Verdict:
    """Apply the policy to the metric that decides."""
    metric = policy.metric
    gain = gain_of(report, CHAMPION_CASE, metric)
    if gain is None:
        return Verdict(passed=False, words=_missing(report, CHAMPION_CASE, metric))
    name, why = policy_in_use(report, policy)
    words = f"{gain_in_words(report, CHAMPION_CASE, metric, gain)}; policy {name}: {why}"
    if gain.low is None or gain.high is None:
        return Verdict(passed=False, words=f"{words}: too few users for an interval")
    champion = report.metrics[CHAMPION_CASE][metric].value
    objection = (_not_better if name == GAIN else _inferior)(gain, champion, policy)
    return Verdict(passed=objection is None, words=words if objection is None else f"{words}: {objection}")


def floor_verdict(report: EvaluationReport, case: str, policy: PromotionConfig, *, is_first: bool) -> Verdict:
    """Compare with a baseline: a first challenger must surely be better, a later one must not surely be worse.

    Better at the whole basket is enough for a first one that is not surely worse at the metric itself: where most is
    bought again, a test window has few items that are new to somebody.
    """
    gain = gain_of(report, case, policy.metric)
    if gain is None:
        return Verdict(passed=False, words=_missing(report, case, policy.metric))
    words = gain_in_words(report, case, policy.metric, gain)
    if not is_first:
        if gain.high is not None and gain.high < 0:
            return Verdict(passed=False, words=f"{words}: surely worse than this baseline")
        return Verdict(passed=True, words="")
    if gain.low is None:
        return Verdict(passed=False, words=f"{words}: too few users for an interval")
    if gain.low > 0:
        return Verdict(passed=True, words=words)
    whole = gain_of(report, case, NEXT_BASKET + policy.metric)
    if whole is None or whole.low is None:
        return Verdict(passed=False, words=f"{words}: not above zero with 95 % confidence")
    words = f"{words}; {gain_in_words(report, case, NEXT_BASKET + policy.metric, whole)}"
    if gain.high is not None and gain.high < 0:
        return Verdict(passed=False, words=f"{words}: the first is surely below zero")
    if whole.low > 0:
        return Verdict(passed=True, words=words)
    return Verdict(passed=False, words=f"{words}: neither is above zero with 95 % confidence")


def quality_losses(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    """Return the slices, and the other tables, that surely lose more than the bound; and a loss of variety."""
    if CHAMPION_CASE not in report.metrics:
        return []
    names = [
        (f"slice {name.removeprefix(SEARCH)}{' of search' if name.startswith(SEARCH) else ''}", f"{name}.{SLICED[0]}")
        for name, rows in report.slice_rows.items()
        if rows >= policy.min_slice_rows
    ]
    tables = [(table.rstrip(".").replace("_", " "), table + SLICED[0]) for table in _TABLES]
    losses = [_sure_loss(report, words, metric, policy) for words, metric in (*tables, *names)]
    return [*(loss for loss in losses if loss), *_variety_lost(report, policy)]


def _sure_loss(report: EvaluationReport, words: str, metric: str, policy: PromotionConfig) -> str | None:
    gain, champion = gain_of(report, CHAMPION_CASE, metric), value_of(report, CHAMPION_CASE, metric)
    if gain is None or gain.high is None or not champion:
        return None
    if gain.high >= -policy.max_slice_loss * champion:
        return None
    return (
        f"{words}: {gain_in_words(report, CHAMPION_CASE, metric, gain)}: it surely loses more than "
        f"{policy.max_slice_loss:.0%} of what the champion reaches"
    )


def _variety_lost(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    own, champion = (value_of(report, case, "coverage") for case in (CHALLENGER_CASE, CHAMPION_CASE))
    if own is None or champion is None or own >= policy.min_coverage * champion:
        return []
    return [
        f"its recommendations show {own:.2%} of the catalogue, the champion's {champion:.2%}: less than "
        f"{policy.min_coverage:.0%} of that, as of a model that shows everybody the same items"
    ]


def _not_better(gain: Metric, champion: float, policy: PromotionConfig) -> str | None:
    if not gain.value > policy.min_gain:
        return f"the gain must be above {policy.min_gain:g}"
    lowest = 0.0 - policy.max_regression * champion
    return None if (gain.low or 0.0) >= lowest else f"the interval may not go below {lowest:.4f}"


def _inferior(gain: Metric, champion: float, policy: PromotionConfig) -> str | None:
    low, high = gain.low or 0.0, gain.high or 0.0
    if high < 0.0 - policy.max_sure_loss * champion:
        return f"it surely loses more than {policy.max_sure_loss:.0%} of what the champion reaches"
    margin = 0.0 - policy.margin * champion
    if low < margin:
        return f"a loss of more than {policy.margin:.0%} ({margin:.4f}) cannot be ruled out; more test users can tell"
    return None


def _missing(report: EvaluationReport, case: str, metric: str) -> str:
    """Say why there is no gain: the case, or the metric, was not measured, or no row of the test counts for it."""
    if case not in report.metrics:
        return f"the report has no {metric} gain over {case}: evaluate again with that case"
    measured: list[Metric] = [found[metric] for found in report.metrics.values() if metric in found]
    if not measured:
        return (
            f"no row of the test window counts for {metric}, so nothing can be compared with {case}: bring more days, "
            "or choose another `promotion.metric`"
        )
    return f"the report has no {metric} gain over {case}: evaluate again with that case"
