"""Why an item has its score: who proposed it, and what each part of the score contributes.

With the weights of a fusion, contributions add up to the score. A learned ranker is asked again without each part, its
features set to 0, and the contribution is what the score loses; parts that stand in for each other then contribute
little each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.features.on_demand import CANDIDATE_FEATURES
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.inference.ranker_features import OF_PAIR, OF_USER, SEARCH_FEATURES, ranker_features
from pipelines.ranking.candidates import TRENDING, recommend_candidates
from pipelines.ranking.search_candidates import GENERATORS as SEARCH_GENERATORS
from pipelines.ranking.search_candidates import described_candidates, matching_rows
from pipelines.retrieval.trends import TREND_FEATURES

REPEAT = "repeat"
POPULAR = "popular"
_MEANING = ("cosine", "dense", "near_best_dense", "near_best_fused")
"""How the names of the features begin that read vectors, in the ranker of search."""


@dataclass(frozen=True)
class Evidence:
    """What is behind the scores of some items."""

    generators: Mapping[int, Sequence[str]]
    """Row to the generators that proposed it; rows that none proposed are missing."""
    contributions: Mapping[int, Mapping[str, float]]
    """Row to the contribution of each part of its score."""


@dataclass(frozen=True)
class Attended:
    """One event of a history and what the user tower made of it."""

    place: int
    """Place in the history, oldest first."""
    row: int
    weight: float
    """Share of the attention, in [0, 1]."""


def attended(bundle: Bundle, features: UserFeatures, now_s: float, most: int) -> list[Attended]:
    """Return the events that the user tower attends to most, the most important first, ties the newest first."""
    embedded = bundle.user_embedding(features, now_s)
    if embedded is None:
        return []
    weights, rows = embedded[1], bundle.rows_of(features.item_ids)
    places = np.flatnonzero(weights > 0)[::-1]
    best = places[np.argsort(-weights[places], kind="stable")[:most]]
    return [Attended(int(place), int(rows[place]), float(weights[place])) for place in best]


def evidence_of_recommendation(
    bundle: Bundle,
    features: UserFeatures | None,
    now_s: float,
    allowed: np.ndarray,
    rows: Sequence[int],
    parts: Mapping[int, Mapping[str, float]],
) -> Evidence:
    """Return what is behind the scores of recommended items.

    Args:
        features: None for a stranger.
        allowed: bool `(n_items,)`, which items could be shown.
        rows: The items asked about.
        parts: Row to what each generator says of it, in [0, 1], for the rows that were scored.
    """
    embedded = bundle.user_embedding(features, now_s) if features is not None else None
    if features is None or embedded is None:
        popular = {row: parts[row] for row in rows if row in parts}
        return Evidence({row: [POPULAR] for row in popular}, popular)
    settings = bundle.preprocessing.ranker
    if bundle.ranker is None or settings is None:
        weights = bundle.preprocessing.fusion.recommend.model_dump()
        return _evidence_of_fusion(rows, parts, weights)
    found = recommend_candidates(bundle, features, embedded[0], now_s, allowed, per_generator=settings.per_generator)
    places = _places(found.rows, rows)
    names = (*bundle.generators, TRENDING, REPEAT)
    parts_of_ranker = {name: (f"{name}.",) for name in bundle.generators} | {
        TRENDING: TREND_FEATURES,
        "taste": CANDIDATE_FEATURES,
        "own_history": OF_PAIR,
        "moment": OF_USER,
    }
    return Evidence(
        _proposed(places, found.found_by, names),
        _left_out(places, found.features, ranker_features(bundle.generators), parts_of_ranker, bundle.ranker.scores),
    )


def evidence_of_search(
    bundle: Bundle,
    query: str,
    query_vector: np.ndarray,
    allowed: np.ndarray,
    rows: Sequence[int],
    parts: Mapping[int, Mapping[str, float]],
    *,
    taste: tuple[np.ndarray, float] | None = None,
    depth: int = 0,
) -> Evidence:
    """Return what is behind the scores of items that were searched.

    Args:
        query_vector: float32 `(dim,)`, L2 norm 1.
        taste: The user's vector, float32 `(dim,)`, and its weight relative to the query; None where it had no say.
        depth: Candidates that were asked of each generator, if more than it gives by itself.
    """
    settings = bundle.preprocessing.search_ranker
    if bundle.search_ranker is None or settings is None:
        weights = bundle.preprocessing.fusion.search.model_dump()
        weights["user"] = (taste[1] if taste is not None else 0.0) * (weights["dense"] + weights["lexical"])
        return _evidence_of_fusion(rows, parts, weights)
    words, most = bundle.lexical.understood(query), max(settings.per_generator, depth)
    lexical = bundle.lexical.scores_of(words.numbers)
    nearest, _ = bundle.vector_index.nearest(query_vector, most, allowed)
    by_words = matching_rows(lexical, most, allowed)
    found = described_candidates(words, query_vector, bundle.lexical, bundle.item_vectors, lexical, nearest, by_words)
    logits = bundle.search_ranker.logits(found.features)[:, 0]
    share = 1 / (1 + (taste[1] if taste is not None else 0.0))
    scale = share / max(float(logits.max(initial=0) - logits.min(initial=0)), 1e-9)
    meaning = tuple(name for name in SEARCH_FEATURES if name.startswith(_MEANING))
    others = tuple(name for name in SEARCH_FEATURES if name not in meaning)
    ranker = bundle.search_ranker
    places = _places(found.rows, rows)
    contributions = _left_out(
        places,
        found.features,
        SEARCH_FEATURES,
        {"dense": meaning, "lexical": others},
        lambda features: ranker.logits(features)[:, 0] * scale,
    )
    if taste is not None:
        for row, of_row in contributions.items():
            likes = max(float(bundle.item_vectors[np.array([row])][0] @ taste[0]), 0.0)
            of_row["user"] = round(likes * (1 - share), 6)
    return Evidence(_proposed(places, found.found_by, SEARCH_GENERATORS), contributions)


def evidence_of_similar(
    kind: Literal["similar", "goes_with"], rows: Sequence[int], parts: Mapping[int, Mapping[str, float]]
) -> Evidence:
    """Return what is behind the scores of items that are like another or go with it: one generator alone."""
    generator = "dense" if kind == "similar" else "item_to_item"
    scored = {row: parts[row] for row in rows if row in parts}
    return Evidence({row: [generator] for row in scored}, scored)


def _evidence_of_fusion(
    rows: Sequence[int], parts: Mapping[int, Mapping[str, float]], weights: Mapping[str, float]
) -> Evidence:
    """Return the weighted parts; whoever gives an item a score above 0 proposed it."""
    generators, contributions = {}, {}
    for row in rows:
        if row in parts:
            total = sum(weights[name] for name in parts[row]) or 1.0
            contributions[row] = {name: round(value * weights[name] / total, 6) for name, value in parts[row].items()}
            generators[row] = [name for name, value in contributions[row].items() if value > 0]
    return Evidence(generators, contributions)


def _places(found: np.ndarray, rows: Sequence[int]) -> dict[int, int]:
    """Return the place of each row that is among the rising rows that were found."""
    places = np.searchsorted(found, np.asarray(rows, np.int64))
    return {
        row: int(place)
        for row, place in zip(rows, places, strict=True)
        if place < len(found) and int(found[place]) == row
    }


def _proposed(places: Mapping[int, int], found_by: np.ndarray, names: Sequence[str]) -> dict[int, list[str]]:
    return {
        row: [names[number] for number in np.flatnonzero(found_by[place]).tolist()] for row, place in places.items()
    }


def _left_out(
    places: Mapping[int, int],
    features: np.ndarray,
    names: Sequence[str],
    parts: Mapping[str, tuple[str, ...]],
    score: Callable[[np.ndarray], np.ndarray],
) -> dict[int, dict[str, float]]:
    """Return what the score of each item loses without each part.

    Args:
        features: float32 `(c, f)`.
        parts: Part to the names of its features; a name that ends with `.` stands for all that begin with it.
        score: Features to float32 `(c,)`.
    """
    if not places:
        return {}
    own = features[list(places.values())]
    whole = score(own)
    contributions: dict[int, dict[str, float]] = {row: {} for row in places}
    for part, wanted in parts.items():
        without = own.copy()
        begin = tuple(name for name in wanted if name.endswith("."))
        without[:, [at for at, name in enumerate(names) if name in wanted or (begin and name.startswith(begin))]] = 0
        for row, lost in zip(places, (whole - score(without)).tolist(), strict=True):
            contributions[row][part] = round(lost, 6)
    return contributions
