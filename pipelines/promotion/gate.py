"""The gate: may the challenger go live? Pure; every "no" comes with its reasons in words and numbers."""

from collections.abc import Mapping

from pipelines.config import PromotionConfig
from pipelines.evaluation.cases import FINITE_SHARE, gain_over
from pipelines.schemas import EvaluationReport, Metric, Record

CHALLENGER_CASE = "headrace"
CHAMPION_CASE = "champion"


class GateAnswer(Record):
    """Whether the challenger passes, and why, or why not."""

    passed: bool
    reasons: tuple[str, ...]


def decide_promotion(report: EvaluationReport, size_mib: float, policy: PromotionConfig) -> GateAnswer:
    """Compare the challenger with the champion, or, before there is one, with the baselines of the floor.

    All comparisons are paired on the same rows. Later runs: the mean gain over the champion must exceed `min_gain`, and
    the lower end of its 95 % interval may not lie more than `max_regression` of the champion's value below zero. First
    run: the lower end of the gain over each floor case must lie above zero. Always: scores are numbers, and the bundle
    keeps the latency and size budgets.

    Returns:
        The reasons of a "no", or what speaks for a "yes".
    """
    against = (CHAMPION_CASE,) if CHAMPION_CASE in report.metrics else policy.floor_cases
    objections = [
        *_unsound(report, policy.metric),
        *(
            reason
            for case in against
            if (reason := _objection(report, case, policy, first_run=case != CHAMPION_CASE)) is not None
        ),
        *(
            f"{name} takes {value:.1f} ms at the median, over the budget of {policy.max_latency_ms:g} ms"
            for name, value in report.latency_ms.items()
            if name.endswith("p50") and not value <= policy.max_latency_ms
        ),
    ]
    if not size_mib <= policy.max_size_mib:
        objections.append(f"the bundle has {size_mib:.0f} MiB, over the budget of {policy.max_size_mib:g} MiB")
    if objections:
        return GateAnswer(passed=False, reasons=tuple(objections))
    return GateAnswer(passed=True, reasons=tuple(_gain_in_words(report, case, policy.metric) for case in against))


def refuse_diverged(reason: str) -> GateAnswer:
    """Say no to a training that was stopped because it made the model worse: it left no challenger to compare.

    Args:
        reason: What the training said when it stopped.
    """
    return GateAnswer(passed=False, reasons=(f"there is no challenger: {reason}",))


def _unsound(report: EvaluationReport, metric: str) -> list[str]:
    own = report.metrics.get(CHALLENGER_CASE, {})
    share = min((found.value for name, found in own.items() if name.endswith(FINITE_SHARE)), default=0.0)
    reasons = []
    if metric not in own:
        reasons.append(f"the report has no {metric} of the challenger (it has: {', '.join(sorted(own)) or 'nothing'})")
    if share < 1:
        reasons.append(f"{1 - share:.2%} of the challenger's scores are not finite numbers")
    return reasons


def _objection(report: EvaluationReport, case: str, policy: PromotionConfig, *, first_run: bool) -> str | None:
    gain = _gain(report.metrics, case, policy.metric)
    if gain is None:
        return f"the report has no {policy.metric} gain over {case}: evaluate again with that case"
    words = _gain_in_words(report, case, policy.metric)
    if gain.low is None:
        return f"{words}: too few users for an interval"
    if first_run:
        return None if gain.low > 0 else f"{words}: not above zero with 95 % confidence"
    if not gain.value > policy.min_gain:
        return f"{words}: the gain must be above {policy.min_gain:g}"
    lowest = 0.0 - policy.max_regression * report.metrics[case][policy.metric].value
    return None if gain.low >= lowest else f"{words}: the interval may not go below {lowest:.4f}"


def _gain(metrics: Mapping[str, Mapping[str, Metric]], case: str, metric: str) -> Metric | None:
    return metrics.get(gain_over(case), {}).get(metric)


def _gain_in_words(report: EvaluationReport, case: str, metric: str) -> str:
    gain = _gain(report.metrics, case, metric)
    if gain is None:
        return f"no gain over {case} is known"
    interval = "" if gain.low is None or gain.high is None else f" (95 % interval {gain.low:+.4f} to {gain.high:+.4f})"
    own, other = (report.metrics[name][metric].value for name in (CHALLENGER_CASE, case))
    return f"{metric} {own:.4f} against {other:.4f} of {case}, gain {gain.value:+.4f}{interval}"
