"""Names under which a report keeps the two bundles, and how numbers are put into words."""

from pipelines.evaluation.cases import gain_over
from pipelines.schemas import EvaluationReport, Metric

CHALLENGER_CASE = "headrace"
CHAMPION_CASE = "champion"
DENSE_CASE = "headrace_dense"
"""The challenger's towers alone."""


def gain_of(report: EvaluationReport, case: str, metric: str) -> Metric | None:
    """Return the challenger's paired gain over a case, None where there is none."""
    return report.metrics.get(gain_over(case), {}).get(metric)


def value_of(report: EvaluationReport, case: str, metric: str) -> float | None:
    """Return the value of a case, None where it was not measured."""
    found = report.metrics.get(case, {}).get(metric)
    return None if found is None else found.value


def gain_in_words(report: EvaluationReport, case: str, metric: str, gain: Metric) -> str:
    """Return what both reach, and the gain with its interval."""
    interval = "" if gain.low is None or gain.high is None else f" (95 % interval {gain.low:+.4f} to {gain.high:+.4f})"
    own, other = (report.metrics[name][metric].value for name in (CHALLENGER_CASE, case))
    return f"{metric} {own:.4f} against {other:.4f} of {case}, gain {gain.value:+.4f}{interval}"
