"""Measure several cases on the same rows: full ranking of every item, in blocks of rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.errors import DataError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranked import RankedRows, joined_rows, rank_rows
from pipelines.evaluation.ranks import put_broken_last
from pipelines.evaluation.row_values import NEXT_BASKET, SLICED, RowValues
from pipelines.evaluation.rows import EvaluationRows
from pipelines.progress import Progress
from pipelines.schemas import Metric

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
    lists: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the lists of ten are like -> float64 one value a row `(n,)`, or one for all of them `()`."""


def gain_over(case: str) -> str:
    """Return the name under which a report keeps the challenger's paired gain over `case`."""
    return f"gain over {case}"


def measure_cases(
    rows: EvaluationRows,
    cases: Sequence[Case],
    popularity: np.ndarray,
    progress: Progress,
    *,
    counts: np.ndarray,
    vectors: np.ndarray,
    item_slices: Mapping[str, np.ndarray] | None = None,
    block_rows: int = BLOCK_ROWS,
) -> dict[str, CaseResult]:
    """Rank the whole catalogue for every row with every case.

    The first table masks what the user had already seen and looks for the items that are new to the user; the second
    masks nothing and looks for the whole basket. Scores that are not finite rank last.

    Args:
        popularity: float `(n_items,)`, ranks for a case that knows nothing about a user.
        counts: float32 `(n_items,)`, known events of each item: what cold, tail and novel mean.
        vectors: float32 `(n_items, dim)`, each row L2 norm 1: what makes a list diverse.
        item_slices: Further slices of items, bool `(n_items,)` each.

    Raises:
        DataError: a case gave scores of another shape.
    """
    parts: dict[str, list[RankedRows]] = {case.name: [] for case in cases}
    finite = dict.fromkeys(parts, 0)
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
            parts[case.name].append(rank_rows(block, scores))
        progress.update("rows ranked", min(start + block_rows, len(rows)), len(rows))
    lengths = np.asarray([len(history) for history in rows.histories], np.int64)
    measures = RowValues(rows, lengths, counts, vectors, item_slices or {})
    results = {}
    for name, found in parts.items():
        ranked, share = joined_rows(found), finite[name] / (len(rows) * len(fallback))
        results[name] = CaseResult(measures.metrics(ranked), share, measures.lists(ranked))
    return results


def summarize(
    results: Mapping[str, CaseResult], bootstrap: UserBootstrap, prefix: str = ""
) -> dict[str, dict[str, Metric]]:
    """Return case -> metric -> mean over rows with its 95 % interval, and the share of finite scores.

    A metric that no row counts for is left out, as of a slice that nobody is in.
    """
    return {
        case: {
            **_means({**result.values, **result.lists}, bootstrap, prefix),
            prefix + FINITE_SHARE: Metric(value=result.finite_share),
        }
        for case, result in results.items()
    }


def paired_gains(
    results: Mapping[str, CaseResult], challenger: str, bootstrap: UserBootstrap, prefix: str = ""
) -> dict[str, dict[str, Metric]]:
    """Return the challenger's gain over every other case, row by row, with its 95 % interval; not for slices.

    A metric that no row counts for is left out.
    """
    own = results[challenger].values
    names = [name for name in own if name.removeprefix(NEXT_BASKET) in METRICS]
    return {
        gain_over(case): _means({name: own[name] - result.values[name] for name in names}, bootstrap, prefix)
        for case, result in results.items()
        if case != challenger
    }


def slice_gains(
    results: Mapping[str, CaseResult], challenger: str, other: str, bootstrap: UserBootstrap, prefix: str = ""
) -> dict[str, Metric]:
    """Return the challenger's gain over one case in each slice, row by row, by `<slice>.<metric>`."""
    own, values = results[challenger].values, results[other].values
    names = [name for name in own if name.rpartition(".")[0] not in ("", NEXT_BASKET.rstrip("."))]
    return _means({name: own[name] - values[name] for name in names}, bootstrap, prefix)


def slice_sizes(result: CaseResult, prefix: str = "") -> dict[str, int]:
    """Return how many rows have a target in each slice; the whole of the rows is not a slice."""
    return {
        prefix + name.removesuffix(f".{SLICED[0]}"): int(np.count_nonzero(~np.isnan(values)))
        for name, values in result.values.items()
        if name.endswith(f".{SLICED[0]}") and not name.startswith(NEXT_BASKET)
    }


def _means(values: Mapping[str, np.ndarray], bootstrap: UserBootstrap, prefix: str) -> dict[str, Metric]:
    found = {
        prefix + name: bootstrap.mean(rows) if rows.ndim else Metric(value=float(rows)) for name, rows in values.items()
    }
    return {name: metric for name, metric in found.items() if metric is not None}
