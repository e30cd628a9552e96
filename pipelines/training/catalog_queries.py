"""Queries made from the catalogue, for shops that have no search log yet.

A query is what somebody who wants the item might type: a few words of its title, its category with a word of the
title, sometimes misspelt. It stands in for real queries until there are some; it does not claim to be one.
"""

import re

import numpy as np

from pipelines.training.catalog import UNKNOWN, Catalog

_WORD = re.compile(r"[a-z0-9]+(?:[.'&/-][a-z0-9]+)*")
_TYPO_SHARE = 0.1
_MAX_WORDS = 4


def catalog_query(title: str, category: str, rng: np.random.Generator) -> str:
    """Return a query for an item; the same generator state gives the same query. Empty if the title has no word."""
    words = _WORD.findall(title.lower())
    if not words:
        return ""
    form = rng.random()
    if form < 0.5:  # neighbouring words, the beginning of a title more often than its end
        length = int(rng.integers(1, min(_MAX_WORDS, len(words)) + 1))
        start = min(int(rng.integers(0, len(words) - length + 1)), int(rng.integers(0, len(words) - length + 1)))
        chosen = words[start : start + length]
    elif form < 0.75:  # some words, in any order
        length = int(rng.integers(1, min(_MAX_WORDS, len(words)) + 1))
        chosen = list(rng.permutation(words)[:length])
    else:  # the category, narrowed by a word
        chosen = [*_WORD.findall(category.lower()), words[int(rng.integers(0, len(words)))]]
    query = " ".join(dict.fromkeys(chosen))
    return _misspelt(query, rng) if rng.random() < _TYPO_SHARE else query


def _misspelt(query: str, rng: np.random.Generator) -> str:
    if len(query) < 5:
        return query
    at = int(rng.integers(1, len(query) - 2))
    return query[:at] + query[at + 1] + query[at] + query[at + 2 :]


def catalog_pairs(catalog: Catalog, n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Draw `n` (query, item) pairs; touched items more often, by the square root of their events.

    Returns:
        The queries, and the row numbers of their items, int64 `(n,)`.
    """
    weights = np.sqrt(1.0 + catalog.event_counts)
    chances = np.cumsum(weights / weights.sum())
    rows = np.minimum(np.searchsorted(chances, rng.random(n)), len(catalog) - 1)
    queries = []
    for row in rows:
        category = catalog.category_names[catalog.categories[row]] or UNKNOWN
        queries.append(catalog_query(catalog.titles[row], category, rng) or catalog.texts[row])
    return queries, rows.astype(np.int64)
