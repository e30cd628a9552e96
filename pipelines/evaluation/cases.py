"""Measure several cases on the same rows: full ranking of every item, in blocks of rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import DataError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranks import put_broken_last, target_ranks
from pipelines.evaluation.rows import EvaluationRows
from pipelines.progress import Progress
from pipelines.schemas import Metric

NEXT_BASKET = "next_basket."
"""Prefix of the metrics of the second table, in which items that the user had bought before count too."""
FINITE_SHARE = "finite_share"
BLOCK_ROWS = 128

Scorer = Callable[[EvaluationRows], np.ndarray]
"""Scores every item for every row: float32 `(n_rows, n_items)`."""


@dataclass(frozen=True)
class Case:
    """One way to rank the catalogue."""

    name: str
    score: Scorer
    own_fallback: bool = False
    """True where the case itself answers for users it knows nothing about; else popularity answers for it."""


@dataclass(frozen=True)
class CaseResult:
    """What was measured on each row, or on each query."""

    values: Mapping[str, np.ndarray]
    """metric -> float64 `(n,)`, NaN for a row that has no target in that table."""
    finite_share: float
    """Share of the scores that are numbers, in [0, 1]."""


def gain_over(case: str) -> str:
    """Return the name under which a report keeps the challenger's paired gain over `case`."""
    return f"gain over {case}"


def measure_cases(
    rows: EvaluationRows,
    cases: Sequence[Case],
    popularity: np.ndarray,
    progress: Progress,
    *,
    block_rows: int = BLOCK_ROWS,
) -> dict[str, CaseResult]:
    """Rank the whole catalogue for every row with every case.

    The first table masks what the user had already seen and looks for the items that are new to the user; the second
    masks nothing and looks for the whole basket. Scores that are not finite rank last.

    Args:
        popularity: float `(n_items,)`, ranks for a case that knows nothing about a user.

    Raises:
        DataError: a case gave scores of another shape.
    """
    names = [prefix + metric for prefix in ("", NEXT_BASKET) for metric in METRICS]
    values = {case.name: {name: np.full(len(rows), np.nan) for name in names} for case in cases}
    finite = dict.fromkeys(values, 0)
    fallback = popularity.astype(np.float32)
    for start in range(0, len(rows), block_rows):
        block = rows.part(start, start + block_rows)
        for case in cases:
            scores = case.score(block)
            if scores.shape != (len(block), len(fallback)):
                raise DataError(
                    f"The case {case.name} gave scores of shape {scores.shape}, ({len(block)}, {len(fallback)}) is "
                    "needed: one score for each row and each item."
                )
            finite[case.name] += put_broken_last(scores)
            if not case.own_fallback:
                scores[block.cold] = fallback
            for place in range(len(block)):
                _measure_row(block, place, scores[place], values[case.name], start + place)
        progress.update("rows ranked", min(start + block_rows, len(rows)), len(rows))
    total = len(rows) * len(fallback)
    return {name: CaseResult(values[name], finite[name] / total) for name in values}


def summarize(
    results: Mapping[str, CaseResult], bootstrap: UserBootstrap, prefix: str = ""
) -> dict[str, dict[str, Metric]]:
    """Return case -> metric -> mean over rows with its 95 % interval, and the share of finite scores."""
    return {
        case: {
            **{prefix + name: bootstrap.mean(values) for name, values in result.values.items()},
            prefix + FINITE_SHARE: Metric(value=result.finite_share),
        }
        for case, result in results.items()
    }


def paired_gains(
    results: Mapping[str, CaseResult], challenger: str, bootstrap: UserBootstrap, prefix: str = ""
) -> dict[str, dict[str, Metric]]:
    """Return the challenger's gain over every other case, row by row, with its 95 % interval."""
    own = results[challenger].values
    return {
        gain_over(case): {prefix + name: bootstrap.mean(own[name] - values) for name, values in result.values.items()}
        for case, result in results.items()
        if case != challenger
    }


def _measure_row(
    rows: EvaluationRows, place: int, scores: np.ndarray, values: Mapping[str, np.ndarray], out: int
) -> None:
    targets, new = rows.targets[place], rows.new_targets[place]
    if len(targets) == 0:
        return
    every, unseen = target_ranks(scores, targets, rows.seen[place])
    for name, metric in METRICS.items():
        values[NEXT_BASKET + name][out] = metric(every)
    if len(new) == 0:
        return
    unseen = target_ranks(scores, new, rows.seen[place])[1] if (new < 0).any() else unseen[np.isin(targets, new)]
    for name, metric in METRICS.items():
        values[name][out] = metric(unseen)
