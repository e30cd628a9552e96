"""What serving costs: latency, memory and size, absolute and relative to the champion."""

from dataclasses import dataclass

from pipelines.config import PromotionConfig
from pipelines.evaluation.latency import RECOMMEND, SEARCH
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE
from pipelines.schemas import EvaluationReport

MEMORY, SIZE = "memory_mib", "size_mib"
_NOTICEABLE_MS = {50: 2.0, 95: 10.0}
"""Differences below this are chance, however large their factor: a machine that does other things beside interrupts
one answer in twenty for some milliseconds."""
_NOTICEABLE_MIB = 16.0


@dataclass(frozen=True)
class _Budget:
    """One cost, what it may be, and by how much it must differ from the champion's to count."""

    cost: str
    words: str
    unit: str
    limit: float
    noticeable: float


def budget_objections(report: EvaluationReport, policy: PromotionConfig) -> list[str]:
    """Return what is over its budget; what was not measured has none."""
    limits_ms = {50: policy.max_latency_ms, 95: policy.max_p95_latency_ms}
    budgets = [
        _Budget(f"{kind}_p{percent}_ms", f"{kind} at p{percent}", "ms", limit, _NOTICEABLE_MS[percent])
        for kind in (RECOMMEND, SEARCH)
        for percent, limit in limits_ms.items()
    ]
    budgets += [
        _Budget(MEMORY, "memory", "MiB", policy.max_memory_mib, _NOTICEABLE_MIB),
        _Budget(SIZE, "size", "MiB", policy.max_size_mib, _NOTICEABLE_MIB),
    ]
    return [words for budget in budgets for words in _objections(report, budget, policy.max_cost_factor)]


def _objections(report: EvaluationReport, budget: _Budget, factor: float) -> list[str]:
    own, champion = (report.costs.get(case, {}).get(budget.cost) for case in (CHALLENGER_CASE, CHAMPION_CASE))
    if own is None:
        return []
    found = f"{budget.words} is {own:.1f} {budget.unit}"
    objections = [] if own <= budget.limit else [f"{found}, over the budget of {budget.limit:g} {budget.unit}"]
    if champion and own > factor * champion and own - champion > budget.noticeable:
        times = f"{own / champion:.1f} times the champion's {champion:.1f} {budget.unit}"
        objections.append(f"{found}, {times}; {factor:g} times is allowed")
    return objections
