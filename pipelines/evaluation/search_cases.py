"""Search on held-out queries: the full catalogue is ranked for each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.errors import DataError
from pipelines.evaluation.cases import CaseResult
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranks import put_broken_last, target_ranks
from pipelines.evaluation.row_values import SLICED

SEARCH = "search."
"""Prefix of search metrics in a report."""

QueryScorer = Callable[[Sequence[str]], np.ndarray]
"""Scores every item for every query: float32 `(n_queries, n_items)`."""


@dataclass(frozen=True)
class JudgedQueries:
    """Queries with the items that answer them."""

    queries: list[str]
    targets: list[np.ndarray]
    """int64, at least one row number of the catalogue each."""
    origin: str
    """In words: where the queries come from."""


def same_text_targets(rows: np.ndarray, texts: Sequence[str]) -> list[np.ndarray]:
    """Return, for each wanted item, all items that read the same: no ranking could tell them apart.

    Args:
        rows: int64 `(n,)` wanted items.
        texts: Text of every item of the catalogue.
    """
    wanted = {texts[row] for row in rows}
    items_of: dict[str, list[int]] = {text: [] for text in wanted}
    for row, text in enumerate(texts):
        if text in wanted:
            items_of[text].append(row)
    return [np.asarray(items_of[texts[row]], np.int64) for row in rows]


def measure_search(
    judged: JudgedQueries,
    scorers: Mapping[str, QueryScorer],
    n_items: int,
    *,
    query_slices: Mapping[str, np.ndarray] | None = None,
    block_queries: int = 64,
) -> dict[str, CaseResult]:
    """Rank the whole catalogue for every query with every case; scores that are not finite rank last.

    Args:
        query_slices: Parts of the queries that are looked at on their own, bool `(n_queries,)` each.

    Raises:
        DataError: a case gave scores of another shape.
    """
    n = len(judged.queries)
    values = {case: {name: np.full(n, np.nan) for name in METRICS} for case in scorers}
    finite = dict.fromkeys(scorers, 0)
    for start in range(0, n, block_queries):
        queries = judged.queries[start : start + block_queries]
        for case, score in scorers.items():
            scores = score(queries)
            if scores.shape != (len(queries), n_items):
                raise DataError(
                    f"The search case {case} gave scores of shape {scores.shape}, ({len(queries)}, {n_items}) is "
                    "needed: one score for each query and each item."
                )
            finite[case] += put_broken_last(scores)
            for place, row in enumerate(scores, start):
                ranks, _ = target_ranks(row, judged.targets[place])
                for name, metric in METRICS.items():
                    values[case][name][place] = metric(ranks)
    for found in values.values():
        for name, chosen in (query_slices or {}).items():
            found |= {f"{name}.{metric}": np.where(chosen, found[metric], np.nan) for metric in SLICED}
    return {case: CaseResult(found, finite[case] / (n * n_items)) for case, found in values.items()}
