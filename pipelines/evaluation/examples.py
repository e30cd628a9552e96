"""Answers of challenger and champion side by side, for a person to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.config import ServingConfig
from pipelines.evaluation.rows import EvaluationRows
from pipelines.evaluation.search_cases import JudgedQueries
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import recommend, search

_SHOWN = 5
_NEWEST = 3


@dataclass(frozen=True)
class Example:
    """What was asked, and the titles that each case answers with, best first."""

    asked: str
    answers: Mapping[str, Sequence[str]]


def examples_of(
    bundles: Mapping[str, Bundle], rows: EvaluationRows, judged: JudgedQueries, serving: ServingConfig, most: int
) -> list[Example]:
    """Ask some queries, and recommend to some users, spread evenly over those there are.

    Args:
        bundles: Case -> open bundle.
        most: Queries at most, and users at most.
    """
    first = next(iter(bundles.values()))
    found = []
    for place in _spread(len(judged.queries), most):
        query = judged.queries[place]
        answers = {
            case: _titles(bundle, search(bundle, query, k=_SHOWN, now_s=0.0, serving=serving).rows)
            for case, bundle in bundles.items()
        }
        found.append(Example(f"search: {query}", answers))
    for place in _spread(len(rows), most):
        user = rows.features[place]
        answers = {
            case: _titles(
                bundle, recommend(bundle, user, k=_SHOWN, now_s=float(rows.now_s[place]), serving=serving).rows
            )
            for case, bundle in bundles.items()
        }
        newest = [row for row in first.rows_of(list(user.item_ids)[-_NEWEST:]).tolist() if row >= 0]
        found.append(Example(f"after: {'; '.join(first.titles[row] for row in newest) or 'nothing known'}", answers))
    return found


def _titles(bundle: Bundle, rows: np.ndarray) -> list[str]:
    return [bundle.titles[row] for row in rows]


def _spread(n: int, most: int) -> list[int]:
    return np.linspace(0, n - 1, min(n, most), dtype=int).tolist() if n else []
