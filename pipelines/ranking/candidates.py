"""Retrieval for a recommendation: the best items of each generator, and what the ranker looks at of each candidate.

One definition for training and for serving: NumPy on one user at a time.

Generators: the neighbor tables of the bundle (each spreads the history over a table), `dense` (user vector against
item vectors), `trending` (what is popular now) and `repeat` (the history itself: all of it, while the others look at
the newest events, as the user tower does).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from pipelines.features.on_demand import CANDIDATE_FEATURES, candidate_features
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.inference.ranker_features import OF_GENERATOR, OF_PAIR, OF_USER, ranker_features
from pipelines.ranking.ordering import first_allowed, top_rows
from pipelines.retrieval.links import Reached
from pipelines.retrieval.trends import TREND_FEATURES

TRENDING = "trending"
CANDIDATES_PER_GENERATOR = 100
POSITION_DECAY = 0.7
"""Weight of an event relative to the next newer one, for the scores that are called `recent`."""
MOMENT_DECAY = 0.95
"""Weight of a moment relative to the next newer one, for what the user takes again."""
_POWERS = 4_096
_DAY_S, _HOUR_S, _LONG_STEP_S, _MINUTE_S = 86_400, 3_600, 600, 60
_AGE_BITS = 24
"""More moments than a history has: item and age make one number."""
_OF_MOMENT = len(OF_USER) - 1
"""Features of a request that depend on the moment: all but the length of the history, at the end."""
_SINCE_TOUCHED, _OVERDUE = (
    OF_PAIR.index(name) - len(OF_PAIR) - len(OF_USER) for name in ("days_since_touched", "overdue")
)
"""Columns of the features that depend on the moment, from the end."""
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


@dataclass(frozen=True)
class History:
    """The events of a user with items of a bundle, oldest first."""

    rows: np.ndarray
    """int64 `(t,)`, row numbers."""
    times: np.ndarray
    """int64 `(t,)`, epoch seconds."""

    @cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct times, the newest first, int64 `(m,)`, and the place of each event among them, int64 `(t,)`."""
        new = _differs(self.times)
        times = self.times[new]
        return times[::-1], len(times) - new.cumsum()


@dataclass(frozen=True)
class DayCandidates:
    """The candidates of one user, described as far as the day tells; the moment adds the rest."""

    rows: np.ndarray
    """int64 `(c,)`, distinct row numbers, rising."""
    found_by: np.ndarray
    """As in `Candidates`."""
    cosines: np.ndarray
    """float32 `(c,)`, of the user with each candidate."""
    of_day: np.ndarray
    """float32 `(c, f)`, the features; what depends on the moment is missing."""
    touched: "_Touched"
    newest_s: int
    """Time of the newest event, epoch seconds."""

    def relative(self, generator: int) -> np.ndarray:
        """Return what a generator, by its place, says relative to the best item of this user, float32 `(c,)`."""
        return self.of_day[:, generator * len(OF_GENERATOR)]

    def features(self, now_s: float) -> np.ndarray:
        """Return the features at a moment of the day, float32 `(c, f)`."""
        now_s = _moment(now_s, self.newest_s)
        out = self.of_day.copy()
        self.touched.fill(out, now_s)
        out[:, -_OF_MOMENT:] = _of_moment(self.newest_s, now_s)
        return out


def moment_of(now_s: float, features: UserFeatures | None) -> float:
    """Return the moment that counts for an answer: what a user is shown does not change from second to second.

    It is a whole minute after the newest event, ten from an hour on: nothing that depends on the moment changes faster.
    Counted from that event, what is prepared after it holds for a while, and everybody's next moment is another one: a
    busy service would have the order of all users to make anew at once.
    """
    return _moment(now_s, features.event_times[-1] if features is not None and features.event_times else None)


def _moment(now_s: float, newest_s: float | None) -> float:
    if newest_s is None:
        return now_s // _MINUTE_S * _MINUTE_S
    age_s = now_s - newest_s
    step_s = _MINUTE_S if age_s < _HOUR_S else _LONG_STEP_S
    return newest_s + age_s // step_s * step_s


def known_history(bundle: Bundle, features: UserFeatures) -> History:
    """Return the events of a user with items that the bundle has."""
    return history_of_rows(bundle.rows_of(features.item_ids), np.array(features.event_times, np.int64))


def history_of_rows(rows: np.ndarray, times: np.ndarray) -> History:
    """Return the events with known items.

    Args:
        rows: int64 `(n,)`, those of all events, −1 for unknown items.
        times: int64 `(n,)`, epoch seconds.
    """
    known = rows >= 0
    return History(rows, times) if known.all() else History(rows[known], times[known])


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
        dense_scores: float32 `(n_items,)`, cosines of the user and every item, if they are there already; None asks
            the bundle's index.
        per_generator: Items taken from each generator.
    """
    history = known_history(bundle, features)
    found = day_candidates(
        bundle, history, user_vector, now_s, allowed, dense_scores=dense_scores, per_generator=per_generator
    )
    return Candidates(found.rows, found.features(now_s), found.found_by)


def day_candidates(
    bundle: Bundle,
    history: History,
    user_vector: np.ndarray,
    now_s: float,
    allowed: np.ndarray,
    *,
    dense_scores: np.ndarray | None = None,
    per_generator: int = CANDIDATES_PER_GENERATOR,
) -> DayCandidates:
    """Find the candidates of a user on the day of a moment; Args: as for `recommend_candidates`."""
    rows, times = (part[-bundle.preprocessing.max_history :] for part in (history.rows, history.times))
    generators = bundle.generators
    weights = _weights(bundle, history.moments[1][-len(rows) :] if len(rows) else rows)
    reached = bundle.links.reached(rows, weights)
    trends = bundle.trends.of_day(now_s)
    proposed = reached.best(per_generator, allowed)
    proposed.append(_nearest(bundle, user_vector, dense_scores, per_generator, allowed))
    proposed.append(first_allowed(trends.popular, per_generator, allowed))
    proposed.append(history.rows[allowed.take(history.rows)])
    candidates, found_by = _merged(proposed)
    cosines = _cosines(bundle, candidates, user_vector, weights, rows)
    touched = _touched(history, candidates)
    width, (trending, affinities, pair, user) = _layout(generators)
    of_day = np.zeros((len(candidates), width), np.float32)
    _fill_generators(of_day[:, :trending], reached, candidates, cosines)
    of_day[:, trending:affinities] = trends.features.take(candidates, axis=0)
    affinity = candidate_features(rows, times, candidates, bundle.facts)
    np.copyto(of_day[:, affinities:pair], affinity, where=~np.isnan(affinity))  # what is unknown stays 0
    of_day[touched.places, pair:user] = touched.columns
    of_day[:, user] = math.log1p(len(times))
    return DayCandidates(candidates, found_by, cosines[0], of_day, touched, int(times.max(initial=0)))


def _cosines(
    bundle: Bundle, candidates: np.ndarray, user_vector: np.ndarray, weights: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return cosines of the candidates, float32 `(3, c)`: with the user, the recent history and its newest moment."""
    vectors = np.empty((len(weights), len(user_vector)), np.float32)
    vectors[0], ways = user_vector, vectors[1:]
    np.matmul(weights[1:], bundle.item_vectors[rows], out=ways)
    ways /= np.maximum(np.sqrt((ways * ways).sum(axis=1, keepdims=True)), np.float32(1e-12))
    return bundle.item_vectors.products(candidates, np.ascontiguousarray(vectors.T)).T


def _nearest(
    bundle: Bundle, user_vector: np.ndarray, dense_scores: np.ndarray | None, most: int, allowed: np.ndarray
) -> np.ndarray:
    if dense_scores is not None:
        return top_rows(dense_scores, most, allowed & (dense_scores > 0))
    rows, scores = bundle.vector_index.nearest(user_vector, most, allowed, asker="user")
    return rows[scores > 0]


@lru_cache(maxsize=8)
def _layout(generators: tuple[str, ...]) -> tuple[int, tuple[int, ...]]:
    """Return how many features there are, and where those of trends, affinities, the pair and the user begin."""
    names = ranker_features(generators)
    firsts = (TREND_FEATURES[0], CANDIDATE_FEATURES[0], OF_PAIR[0], OF_USER[0])
    return len(names), tuple(map(names.index, firsts))


def _weights(bundle: Bundle, ages: np.ndarray) -> np.ndarray:
    """Return three ways to weight a history, float32 `(3, t)`: by moments, by steps, its newest moment alone.

    Args:
        ages: int64 `(t,)`, the number of newer moments of each event.
    """
    weights = np.empty((3, len(ages)), np.float32)
    weights[0] = _powers(bundle.preprocessing.history_decay).take(ages, mode="clip")
    weights[1] = _powers(POSITION_DECAY).take(np.arange(len(ages))[::-1], mode="clip")
    np.equal(ages, 0, out=weights[2])
    return weights


@lru_cache(maxsize=8)
def _powers(base: float) -> np.ndarray:
    """Return the powers of a number below 1, float64, until they are 0."""
    return base ** np.arange(_POWERS)


def _merged(proposed: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows, rising, and which part each is in, bool `(c, n_parts)`."""
    every = np.concatenate(proposed)
    candidates = np.sort(every)
    candidates = candidates[_differs(candidates)]
    places = candidates.searchsorted(every)
    places *= len(proposed)
    places += np.arange(len(proposed)).repeat([len(part) for part in proposed])
    found_by = np.zeros((len(candidates), len(proposed)), bool)
    found_by.ravel()[places] = True
    return candidates, found_by


def _differs(values: np.ndarray) -> np.ndarray:
    """Return which values differ from the one before, bool `(n,)`; the first does."""
    differs = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=differs[1:])
    return differs


def _fill_generators(columns: np.ndarray, reached: Reached, candidates: np.ndarray, cosines: np.ndarray) -> None:
    """Write what the generators say of the candidates into columns, float32 `(c, 6 · n_generators)`."""
    values = np.concatenate([reached.of(candidates), np.maximum(cosines, 0)[:, None]], axis=1)
    tops = np.ones(values.shape[:2], np.float32)
    tops[:, :-1] = reached.tops
    tops[0, -1] = values[0, -1].max(initial=0)
    n_generators, n = values.shape[1:]
    said = np.empty((n_generators, len(OF_GENERATOR), n), np.float32)
    np.log1p(_STRENGTH * values[0], out=said[:, 1])
    for worth, best in zip(said[:, 2], np.argsort(-values[0], axis=1, kind="stable"), strict=True):
        worth[best] = _of_places(n)
    said[:, 2] *= values[0] > 0
    values /= np.where(tops > 0, tops, np.float32(1))[:, :, None]
    said[:, 0], said[:, 3:] = values[0], values[1:].transpose(1, 0, 2)
    width = len(OF_GENERATOR) * n_generators
    columns[:, :width] = said.reshape(width, n).T
    columns[:, width:] = np.log1p(_STRENGTH * tops[0])


@lru_cache(maxsize=1_024)
def _of_places(count: int) -> np.ndarray:
    """Return what the first places of a list are worth, float32 `(count,)`."""
    return (1 / np.log2(2.0 + np.arange(count))).astype(np.float32)


@dataclass(frozen=True)
class _Touched:
    """What the user had to do with the candidates that the history has, `m` of them."""

    columns: np.ndarray
    """float64 `(m, 6)` in the order of OF_PAIR; what depends on the moment is 0."""
    places: np.ndarray
    """int64 `(m,)`, which candidates."""
    newest_s: np.ndarray
    """int64 `(m,)`, when each was met last, epoch seconds."""
    usual: np.ndarray
    """float64 `(m,)`, ln(1 + days) that usually lie between two moments with it; NaN where it was met once."""

    def fill(self, features: np.ndarray, now_s: float) -> None:
        """Write what depends on the moment into features, float32 `(c, f)`."""
        days = np.log1p(np.maximum(now_s - self.newest_s, 0) / _DAY_S)
        features[self.places, _SINCE_TOUCHED] = days
        days -= self.usual
        days[np.isnan(days)] = 0
        features[self.places, _OVERDUE] = days


def _touched(history: History, candidates: np.ndarray) -> _Touched:
    """Describe what the user had to do with each candidate, in the order of OF_PAIR.

    Counted are moments, as a basket is one: ln(1 + moments with the item), ln(1 + days since the last), 1,
    ln(1 + Σ 0.95^age) with the number of newer moments as age, the share of the moments since the first with the item,
    and ln of the days since the last relative to the usual days between two, 0 for an item that was met once.
    """
    moments, ages = history.moments
    met = (history.rows << _AGE_BITS) + ages
    met.sort()
    met = met[_differs(met)]
    rows, ages = met >> _AGE_BITS, met & (1 << _AGE_BITS) - 1
    starts = _differs(rows).nonzero()[0]
    counts = np.empty(len(starts), np.int64)
    counts[:-1], counts[-1:] = starts[1:] - starts[:-1], len(rows) - starts[-1:]
    recent = np.add.reduceat(_powers(MOMENT_DECAY).take(ages, mode="clip"), starts) if len(starts) else np.empty(0)
    distinct = rows[starts]
    places = candidates.searchsorted(distinct)
    here = (candidates.take(places, mode="clip") == distinct).nonzero()[0] if len(candidates) else places[:0]
    places, starts, counts, recent = places[here], starts[here], counts[here], recent[here]
    oldest, newest_s = ages[starts + counts - 1], moments[ages[starts]]
    columns = np.zeros((len(here), len(OF_PAIR)))
    columns[:, 0] = np.log1p(counts)
    columns[:, 2] = 1
    columns[:, 3] = np.log1p(recent)
    columns[:, 4] = counts / (oldest + 1)
    between = (newest_s - moments[oldest]) / _DAY_S / np.maximum(counts - 1, 1)
    usual = np.full(len(here), np.nan)
    np.log1p(between, out=usual, where=between > 0)
    return _Touched(columns, places, newest_s, usual)


def _of_moment(newest_s: int, now_s: float) -> np.ndarray:
    """Return what is the same for all candidates of a request, float32 `(5,)` OF_USER but its first; UTC."""
    days = max(now_s - newest_s, 0) / _DAY_S
    hour, weekday = 2 * math.pi * (now_s % _DAY_S) / _DAY_S, 2 * math.pi * ((now_s // _DAY_S + 3) % 7) / 7
    context = (math.sin(hour), math.cos(hour), math.sin(weekday), math.cos(weekday))
    return np.array([math.log1p(days), *context], np.float32)
