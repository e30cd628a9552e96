"""What must not change an answer: case, white space, asking again, and the order of the catalogue."""

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.config import ServingConfig
from pipelines.evaluation.rows import EvaluationRows
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import recommend, search

SAME_CASE, SAME_BLANKS, SAME_AGAIN, TIED = "same.case", "same.blanks", "same.again", "tied"
_K = 10


def query_overlaps(bundle: Bundle, queries: Sequence[str], serving: ServingConfig) -> dict[str, float]:
    """Return the mean share of the first ten that stay when a query is written in capitals, or with more blanks.

    Returns:
        `SAME_CASE` and `SAME_BLANKS`, in [0, 1]; nothing without a query.
    """
    if not queries:
        return {}

    def first(query: str) -> set[int]:
        return set(search(bundle, query, k=_K, now_s=0.0, serving=serving).rows.tolist())

    def overlap(change: Callable[[str], str]) -> float:
        shares = [_overlap(first(query), first(change(query))) for query in queries]
        return float(np.mean(shares))

    return {SAME_CASE: overlap(_in_capitals), SAME_BLANKS: overlap(lambda query: f" {'  '.join(query.split())}\t")}


def recommendation_checks(
    bundle: Bundle, rows: EvaluationRows, places: Sequence[int], serving: ServingConfig
) -> dict[str, float]:
    """Ask for the same users twice, and look at the border of the first ten.

    Returns:
        `SAME_AGAIN`, the share of the users who get the same items with the same scores again; and `TIED`, the share
        of those lists in which the tenth and the eleventh score are equal, so that the order of the catalogue decides.
    """
    same, tied = [], []
    for place in places:
        asked = [
            recommend(bundle, rows.features[place], k=_K + 1, now_s=float(rows.now_s[place]), serving=serving)
            for _ in range(2)
        ]
        one, two = asked
        same.append(np.array_equal(one.rows, two.rows) and np.array_equal(one.scores, two.scores))
        tied.append(len(one.scores) > _K and bool(one.scores[_K - 1] == one.scores[_K]))
    return {SAME_AGAIN: float(np.mean(same)), TIED: float(np.mean(tied))} if same else {}


def _in_capitals(query: str) -> str:
    """Return the query in capitals, but for letters that become two, as ß: those would be another word."""
    return "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in query)


def _overlap(one: set[int], other: set[int]) -> float:
    """Return the shared part of two lists, relative to the longer; two empty lists are the same."""
    longest = max(len(one), len(other))
    return len(one & other) / longest if longest else 1.0
