"""Retrieval for a recommendation: the best items of each generator, and what the ranker looks at of each candidate.

One definition for training and for serving: NumPy on one user at a time.

Generators: the neighbor tables of the bundle (each spreads the history over a table), `dense` (user vector against
item vectors), `trending` (what is popular now) and `repeat` (the history itself: all of it, while the others look at
the newest events, as the user tower does).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.features.on_demand import candidate_features
from pipelines.inference.bundle import DENSE, Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.inference.ranker_features import OF_PAIR, OF_USER
from pipelines.ranking.ordering import first_allowed, top_rows
from pipelines.retrieval.cooccurrence import history_weights
from pipelines.retrieval.neighbors import Reached

TRENDING = "trending"
CANDIDATES_PER_GENERATOR = 100
POSITION_DECAY = 0.7
"""Weight of an event relative to the next newer one, for the scores that are called `recent`."""
MOMENT_DECAY = 0.95
"""Weight of a moment relative to the next newer one, for what the user takes again."""
_DAY_S = 86_400
_STRENGTH = np.float32(100)


@dataclass(frozen=True)
class Candidates:
    """The candidates of one user, in row order."""

    rows: np.ndarray
    """int64 `(c,)`, distinct row numbers, rising."""
    features: np.ndarray
    """float32 `(c, len(ranker_features(generators)))`."""
    found_by: np.ndarray
    """bool `(c, len(generators) + 2)`: which generator proposed it; the last two are `trending` and `repeat`."""


def recommend_candidates(
    bundle: Bundle,
    features: UserFeatures,
    user_vector: np.ndarray,
    now_s: float,
    allowed: np.ndarray,
    *,
    dense_scores: np.ndarray | None = None,
    per_generator: int = CANDIDATES_PER_GENERATOR,
) -> Candidates:
    """Find the candidates of a user and describe them.

    Args:
        user_vector: float32 `(dim,)`, L2 norm 1.
        allowed: bool `(n_items,)`, which items may be shown.
        dense_scores: float32 `(n_items,)`, cosines of the user and every item, if they are there already (they may be
            off by a little: candidates are scored exactly); None asks the bundle's index.
        per_generator: Items taken from each generator.
    """
    rows = bundle.rows_of(features.item_ids)
    known = np.flatnonzero(rows >= 0)
    every, every_times = rows[known], np.asarray(features.event_times, np.int64)[known]
    rows, times = (part[-bundle.preprocessing.max_history :] for part in (every, every_times))
    generators = bundle.generators
    weights = _weights(bundle, times)
    reached = {name: table.reached(rows, weights) for name, table in bundle.neighbors.items()}
    cosines = bundle.dense_index.scores(user_vector) if dense_scores is None else dense_scores
    trends = bundle.trends.of_day(now_s)
    proposed = [
        top_rows(cosines, per_generator, allowed & (cosines > 0))
        if name == DENSE
        else _best_reached(reached[name], per_generator, allowed)
        for name in generators
    ]
    proposed.append(first_allowed(trends.popular, per_generator, allowed))
    proposed.append(np.unique(every[allowed[every]]))
    candidates, found_by = _merged(proposed)
    columns = _generator_columns(bundle, reached, weights, rows, candidates, user_vector)
    affinities = candidate_features(rows, times, candidates, bundle.facts)
    described = np.concatenate(
        [
            columns,
            trends.features[candidates],
            np.where(np.isnan(affinities), 0, affinities).astype(np.float32),
            _touched(every, every_times, candidates, now_s),
            np.broadcast_to(_of_user(times, now_s), (len(candidates), len(OF_USER))),
        ],
        axis=1,
    )
    return Candidates(candidates, described, found_by)


def _weights(bundle: Bundle, times: np.ndarray) -> np.ndarray:
    """Return three ways to weight a history, float32 `(3, t)`: by moments, by steps, its newest moment alone."""
    steps = POSITION_DECAY ** np.arange(len(times))[::-1]
    newest = times == times.max(initial=0)
    by_moments = history_weights(times, bundle.preprocessing.history_decay)
    return np.stack([by_moments, steps, newest]).astype(np.float32)


def _best_reached(reached: Reached, most: int, allowed: np.ndarray) -> np.ndarray:
    scores = reached.scores[0]
    return reached.rows[top_rows(scores, most, allowed[reached.rows] & (scores > 0))]


def _merged(proposed: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, rising, and which part each is in, bool `(c, n_parts)`."""
    candidates = np.unique(np.concatenate(proposed))
    found_by = np.zeros((len(candidates), len(proposed)), bool)
    for number, rows in enumerate(proposed):
        found_by[np.searchsorted(candidates, rows), number] = True
    return candidates, found_by


def _generator_columns(
    bundle: Bundle,
    reached: Mapping[str, Reached],
    weights: np.ndarray,
    rows: np.ndarray,
    candidates: np.ndarray,
    user_vector: np.ndarray,
) -> np.ndarray:
    """Return what the generators say of the candidates, float32 `(c, 6 · n_generators)`."""
    vectors, seen = bundle.item_vectors[candidates], bundle.item_vectors[rows]
    columns, best = [], []
    for name in bundle.generators:
        if name == DENSE:
            values = np.maximum(vectors @ user_vector, 0)
            recent, last = (np.maximum(vectors @ _unit(way @ seen), 0) for way in weights[1:])
            top, tops = values.max(initial=0), (1.0, 1.0)
        else:
            values, recent, last = reached[name].of(candidates)
            top, *tops = reached[name].scores.max(axis=1, initial=0)
        places = np.empty(len(values), np.int64)
        places[np.argsort(-values, kind="stable")] = np.arange(len(values))
        columns += [
            _relative(values, top),
            np.log1p(_STRENGTH * values),
            np.where(values > 0, 1 / np.log2(2.0 + places), 0),
            _relative(recent, tops[0]),
            _relative(last, tops[1]),
        ]
        best.append(np.full(len(values), np.log1p(_STRENGTH * top)))
    return np.stack([*columns, *best], axis=1).astype(np.float32)


def _touched(rows: np.ndarray, times: np.ndarray, candidates: np.ndarray, now_s: float) -> np.ndarray:
    """Return what the user had to do with each candidate, float32 `(c, 6)` in the order of OF_PAIR, 0 where nothing.

    Counted are moments, as a basket is one: ln(1 + moments with the item), ln(1 + days since the last), 1,
    ln(1 + Σ 0.95^age) with the number of newer moments as age, the share of the moments since the first with the item,
    and ln of the days since the last relative to the usual days between two, 0 for an item that was met once.
    """
    if not len(rows):
        return np.zeros((len(candidates), len(OF_PAIR)), np.float32)
    distinct, places = np.unique(rows, return_inverse=True)
    moments, ages = np.unique(-times, return_inverse=True)
    met = np.unique(places * len(moments) + ages)
    place, age = met // len(moments), met % len(moments)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.diff(np.append(starts, len(place)))
    newest, oldest = age[starts], age[starts + counts - 1]
    days = np.maximum(now_s + moments[newest], 0) / _DAY_S
    between = (moments[oldest] - moments[newest]) / _DAY_S / np.maximum(counts - 1, 1)
    columns = np.stack(
        [
            np.log1p(counts),
            np.log1p(days),
            np.ones(len(distinct)),
            np.log1p(np.add.reduceat(MOMENT_DECAY**age, starts)),
            counts / (oldest + 1),
            np.where(between > 0, np.log1p(days) - np.log1p(between), 0),
        ],
        axis=1,
    )
    at = np.minimum(np.searchsorted(distinct, candidates), len(distinct) - 1)
    return np.where((distinct[at] == candidates)[:, None], columns[at], 0).astype(np.float32)


def _of_user(times: np.ndarray, now_s: float) -> np.ndarray:
    """Return what is the same for all candidates of a request, float32 `(6,)`; the moment is UTC."""
    days = max(now_s - times[-1], 0) / _DAY_S if len(times) else 0.0
    hour, weekday = 2 * np.pi * (now_s % _DAY_S) / _DAY_S, 2 * np.pi * ((now_s // _DAY_S + 3) % 7) / 7
    context = [np.sin(hour), np.cos(hour), np.sin(weekday), np.cos(weekday)]
    return np.array([np.log1p(len(times)), np.log1p(days), *context], np.float32)


def _relative(values: np.ndarray, top: float) -> np.ndarray:
    return values / top if top > 0 else np.zeros(len(values), np.float32)


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit
