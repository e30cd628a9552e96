"""In-domain texts that a small query tower learns from: what people typed, made-up queries, titles.

What is held out for the measurement never gets in, in whatever case or spacing it comes.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs


def lesson_texts(
    catalog: Catalog, typed: Sequence[str], held_out: Iterable[str], *, most: int, rng: np.random.Generator
) -> list[str]:
    """Return distinct texts: those that people typed, then made-up queries and titles, as many of each.

    Args:
        typed: Queries of the training part, logged or judged.
        held_out: Queries that must not be learned from.
        most: Texts at most; of more typed ones a sample.
    """
    hidden = {folded(text) for text in held_out}
    people = _distinct(typed, hidden)
    if len(people) > most:
        people = [people[place] for place in np.sort(rng.choice(len(people), most, replace=False))]
    left = most - len(people)
    titles = [catalog.texts[row] for row in rng.choice(len(catalog), min(left // 2, len(catalog)), replace=False)]
    made_up, _ = catalog_pairs(catalog, left - len(titles), rng)
    return _distinct([*people, *made_up, *titles], hidden)


def folded(text: str) -> str:
    """Return a text as it is compared with what is held out: lower case, single spaces."""
    return " ".join(text.lower().split())


def _distinct(texts: Sequence[str], hidden: set[str]) -> list[str]:
    kept: dict[str, str] = {}
    for text in texts:
        key = folded(text)
        if key and key not in hidden:
            kept.setdefault(key, text)
    return list(kept.values())
