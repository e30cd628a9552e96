"""What is remembered of users and queries while a bundle answers, so that the next request does less.

A user is remembered for as long as the features are the same object: who reads them hands out another one when
something happened, and lets go of the one before, which ends what is remembered for it. What depends on the moment is
remembered for as long as it stays the same: the vector until an event is a step older, candidates for the day, their
order for a minute, ten from an hour after the newest event on.
"""

import copy
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from pipelines.config import ServingConfig
from pipelines.inference.bundle import ITEM_TO_ITEM, Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.ranking.candidates import DayCandidates, History, day_candidates, history_of_rows
from pipelines.ranking.carried import (
    MOST_CHANGES,
    ItemChanges,
    Neighbors,
    changed_rows,
    touches_candidates,
    touches_history,
    touches_neighbors,
    touches_query,
)
from pipelines.ranking.filtering import allowed_items
from pipelines.ranking.fusion import Parts
from pipelines.ranking.learned import ranker_of
from pipelines.ranking.query_results import QueryResult

_DAY_S = 86_400
_MIB = 2**20
_QUERY_RESULTS, _NEIGHBOR_LISTS = 4_096, 4_096
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The values that were used last, up to a size; safe for several threads."""

    def __init__(self, size: float, size_of: Callable[[V], float] = lambda _: 1.0) -> None:
        """Keep values whose sizes add up to `size`; without `size_of` that many values."""
        self._size, self._size_of = size, size_of
        self._values: OrderedDict[K, V] = OrderedDict()
        self._held = 0.0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return the value, or None where it is not kept."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; those that were not used for longest go beyond the size."""
        with self._lock:
            self._forget(key)
            self._values[key] = value
            self._held += self._size_of(value)
            while self._held > self._size and self._values:
                self._held -= self._size_of(self._values.popitem(last=False)[1])

    def drop(self, key: K, if_: Callable[[V], bool]) -> None:
        """Let go of a value if it is such a one."""
        with self._lock:
            value = self._values.get(key)
            if value is not None and if_(value):
                self._forget(key)

    def _forget(self, key: K) -> None:
        before = self._values.pop(key, None)
        if before is not None:
            self._held -= self._size_of(before)


@dataclass(frozen=True)
class RankedItems:
    """The candidates of a user at one moment, best first."""

    rows: np.ndarray
    """int64 `(c,)`."""
    scores: np.ndarray
    """float32 `(c,)` in (0, 1)."""
    parts: Parts
    """What `dense`, `item_to_item` and `popularity` say of them, float32 `(c,)` each."""


@dataclass(frozen=True)
class PreparedUser:
    """What a bundle makes of a user."""

    of: "weakref.ref[UserFeatures]"
    history: History
    bought: tuple[np.ndarray, list[int]]
    """Purchases: rows, int64 `(p,)`, and their times, epoch seconds, rising."""
    vector: np.ndarray
    """float32 `(dim,)`, L2 norm 1."""
    since_s: float
    until_s: float
    """The vector holds for moments after the one and up to the other."""
    day: int = -1
    n_recent: int = -1
    """How many purchases were left out of the candidates."""
    candidates: DayCandidates | None = None
    moment_s: float = -1.0
    ranked: RankedItems | None = None

    @property
    def features(self) -> UserFeatures:
        """The features that it is made of; whoever asks holds them."""
        features = self.of()
        assert features is not None  # noqa: S101 - held by the request
        return features

    @property
    def size(self) -> float:
        """Bytes, about."""
        parts = [self.history.rows, self.history.times, self.vector, self.bought[0]]
        if self.candidates is not None:
            found = self.candidates
            parts += [found.rows, found.found_by, found.cosines, found.of_day, found.touched.columns]
        if self.ranked is not None:
            parts += [self.ranked.rows, self.ranked.scores, *self.ranked.parts.values()]
        return 2_000.0 + 100.0 * len(self.history.rows) + sum(part.nbytes for part in parts)

    def recently_bought(self, now_s: float, days: float) -> np.ndarray:
        """Return int64 `(n,)`, rows of what was bought within so many days."""
        rows, times = self.bought
        return rows[bisect_left(times, now_s - days * _DAY_S) :] if days > 0 else rows[:0]


class Prepared:
    """Users, queries and items of one bundle; another bundle starts anew."""

    def __init__(self, serving: ServingConfig) -> None:
        self._users: Kept[int, tuple[int, PreparedUser]] = Kept(
            serving.prepared_users_mib * _MIB, lambda kept: kept[1].size
        )
        self._gone: deque[int] = deque()
        """Ids of features that nobody holds any more, told by the garbage collector at any moment."""
        self._queries: Kept[str, tuple[int, QueryResult]] = Kept(_QUERY_RESULTS)
        self._neighbors: Kept[int, tuple[int, Neighbors]] = Kept(_NEIGHBOR_LISTS)
        self._step = 0
        self._changes: tuple[ItemChanges, ...] = ()

    def carried(self, changes: ItemChanges) -> "Prepared":
        """Return what is remembered for the same bundle after items changed: what they do not touch stays."""
        other = copy.copy(self)
        other._step = self._step + 1
        other._changes = (*self._changes, changes)[-MOST_CHANGES:]
        return other

    def user(self, bundle: Bundle, features: UserFeatures) -> PreparedUser | None:
        """Return what was made of these very features."""
        step, user = self._users.get(id(features)) or (0, None)
        if user is None or user.of() is not features:
            return None
        if step == self._step:
            return user
        rows = self._changed_since(step)
        if rows is None or touches_history(bundle, rows, user.history.rows, features.item_ids):
            return None
        if user.candidates is not None and touches_candidates(bundle, rows, user.vector, user.candidates):
            user = replace(user, day=-1, candidates=None, moment_s=-1.0, ranked=None)
        self.keep(user)
        return user

    def keep(self, user: PreparedUser) -> None:
        """Remember a user for as long as somebody holds the features."""
        while self._gone:
            self._users.drop(self._gone.popleft(), lambda kept: kept[1].of() is None)
        self._users.put(id(user.features), (self._step, user))

    def reference(self, features: UserFeatures) -> "weakref.ref[UserFeatures]":
        """Return what `PreparedUser.of` is to be."""
        key, gone = id(features), self._gone
        return weakref.ref(features, lambda _: gone.append(key))

    def query(self, bundle: Bundle, query: str, vector: np.ndarray | None) -> QueryResult | None:
        """Return what a query found.

        Args:
            vector: float32 `(dim,)`, its embedding where the caller has it already.
        """
        step, found = self._queries.get(query) or (0, None)
        if found is None or step == self._step:
            return found
        rows = self._changed_since(step)
        if rows is None or vector is None or touches_query(bundle, rows, query, vector, found):
            return None
        self.keep_query(query, found)
        return found

    def keep_query(self, query: str, found: QueryResult) -> None:
        """Remember what a query found."""
        self._queries.put(query, (self._step, found))

    def neighbors(self, bundle: Bundle, row: int) -> Neighbors | None:
        """Return the items nearest to an item, best first."""
        step, found = self._neighbors.get(row) or (0, None)
        if found is None or step == self._step:
            return found
        rows = self._changed_since(step)
        if rows is None or touches_neighbors(bundle, rows, row, found):
            return None
        self.keep_neighbors(row, found)
        return found

    def keep_neighbors(self, row: int, found: Neighbors) -> None:
        """Remember the items nearest to an item."""
        self._neighbors.put(row, (self._step, found))

    def _changed_since(self, step: int) -> np.ndarray | None:
        """Return which rows changed since, int64 `(m,)`; None where that is too long ago, too much or to come."""
        behind = self._step - step
        if not 0 <= behind <= len(self._changes):
            return None
        return changed_rows(self._changes[len(self._changes) - behind :])


def prepared_user(
    bundle: Bundle, features: UserFeatures, now_s: float, prepared: Prepared | None
) -> PreparedUser | None:
    """Return what a bundle makes of a user at a moment; None if no item of the history is known."""
    user = prepared.user(bundle, features) if prepared is not None else None
    if user is not None and user.since_s < now_s <= user.until_s:
        return user
    rows = bundle.rows_of(features.item_ids)
    vector = bundle.user_vector(features, rows, now_s)
    if vector is None:
        return None
    times = np.array(features.event_times, np.int64)
    history = history_of_rows(rows, times)
    since_s, until_s = bundle.preprocessing.same_buckets(history.times[-bundle.preprocessing.max_history :], now_s)
    reference = weakref.ref(features) if prepared is None else prepared.reference(features)
    bought = _bought(rows, times, features.event_types)
    user = PreparedUser(reference, history, bought, vector, since_s, until_s)
    if prepared is not None:
        prepared.keep(user)
    return user


def ranked_items(
    bundle: Bundle, user: PreparedUser, now_s: float, serving: ServingConfig, prepared: Prepared | None
) -> RankedItems:
    """Return the candidates of a user by the bundle's ranker, what was just bought left out.

    Args:
        now_s: As `moment_of` gives it, epoch seconds.

    Raises:
        BundleError: the bundle has no ranker.
    """
    day, recent = int(now_s // _DAY_S), user.recently_bought(now_s, serving.exclude_purchased_days)
    if user.candidates is None or (user.day, user.n_recent) != (day, len(recent)):
        allowed = allowed_items(bundle, None, recent)
        found = ranked_candidates(bundle, user, now_s, allowed)
        user = replace(user, day=day, n_recent=len(recent), candidates=found, moment_s=-1.0)
    assert user.candidates is not None  # noqa: S101 - just found
    if user.ranked is None or user.moment_s != now_s:
        user = replace(user, moment_s=now_s, ranked=in_order(bundle, user.candidates, now_s))
        if prepared is not None:
            prepared.keep(user)
    assert user.ranked is not None  # noqa: S101 - just ordered
    return user.ranked


def ranked_candidates(bundle: Bundle, user: PreparedUser, now_s: float, allowed: np.ndarray) -> DayCandidates:
    """Return the candidates of a user among the allowed items, bool `(n_items,)`."""
    _, per_generator = ranker_of(bundle)
    return day_candidates(bundle, user.history, user.vector, now_s, allowed, per_generator=per_generator)


def in_order(bundle: Bundle, found: DayCandidates, now_s: float) -> RankedItems:
    """Order candidates by the bundle's ranker."""
    ranker, _ = ranker_of(bundle)
    scores = ranker.scores(found.features(now_s))
    best = np.argsort(-scores, kind="stable")
    rows = found.rows[best]
    parts = {
        "dense": np.maximum(found.cosines[best], 0.0),
        ITEM_TO_ITEM: found.relative(bundle.generators.index(ITEM_TO_ITEM))[best],
        "popularity": bundle.popularity_score[rows],
    }
    return RankedItems(rows, scores[best], parts)


def _bought(rows: np.ndarray, times: np.ndarray, event_types: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Return the known items that were bought, rows and times, in the order of time.

    Args:
        rows: int64 `(n,)`, −1 for unknown items.
        times: int64 `(n,)`, epoch seconds, rising.
    """
    bought = np.array([kind == "purchase" for kind in event_types], bool)
    bought &= rows >= 0
    return rows[bought], times[bought].tolist()
