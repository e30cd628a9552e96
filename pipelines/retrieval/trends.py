"""How popular each item was on any day: what was known then, never what came later.

Counts decay with two half-lives. For each item and each day with events, the decayed sums up to the end of that day
are kept, so the value on any later day is one look-up and one power. Beside events, users are counted: what few users
take often is worth little to somebody who never took it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from pipelines.errors import DataError

TREND_FEATURES: tuple[str, ...] = (
    "log_fast",
    "log_slow",
    "log_total",
    "log_buyers",
    "log_firsts",
    "log_per_buyer",
    "log_per_first",
    "log_age_days",
)
"""What `ItemTrends.at` gives of each item, in its order of columns."""
FAST_HALF_LIFE_DAYS = 30.0
SLOW_HALF_LIFE_DAYS = 180.0
_DAY_S = 86_400
_KEPT_DAYS = 8
_SHIFT = 2**24
"""More days than there will be: item and day make one number."""


@dataclass(frozen=True)
class ItemTrends:
    """Decayed event counts of `n_items` items, one record for each item and day with events."""

    n_items: int
    keys: np.ndarray
    """int64 `(m,)`, rising: item row · 2²⁴ + day since 1970."""
    fast: np.ndarray
    """float32 `(m,)`, count with the half-life of 30 days, at the end of that day."""
    slow: np.ndarray
    """float32 `(m,)`, the same with 180 days."""
    total: np.ndarray
    """float32 `(m,)`, events until the end of that day."""
    buyers: np.ndarray
    """float32 `(m,)`, distinct users of those events."""
    firsts: np.ndarray
    """float32 `(m,)`, events that were a user's first with the item, with the half-life of 30 days."""
    first_day: np.ndarray
    """int32 `(n_items,)`, day of an item's first event, −1 where there was none."""

    def at(self, now_s: float, rows: np.ndarray | None = None) -> np.ndarray:
        """Return TREND_FEATURES as they were known at the start of the UTC day of `now_s`: float32 `(c, 8)`.

        Counts are ln(1 + count), the age of the first event ln(1 + days); all 0 for an item without an earlier event.
        `log_per_buyer` is ln((1 + total) / (1 + buyers)), `log_per_first` ln((1 + fast) / (1 + firsts)): the ranker
        cannot tell what is taken again from what is tried once by counts alone.

        Args:
            now_s: Epoch seconds.
            rows: int64 `(c,)` items asked for; None asks for all.
        """
        rows = np.arange(self.n_items) if rows is None else rows
        today = int(now_s // _DAY_S)
        places = np.searchsorted(self.keys, rows * _SHIFT + today) - 1
        if not len(self.keys):
            return np.zeros((len(rows), len(TREND_FEATURES)), np.float32)
        found = (places >= 0) & (self.keys[places] // _SHIFT == rows)
        places = np.maximum(places, 0)
        days = np.where(found, today - self.keys[places] % _SHIFT, 0).astype(np.float32)
        fading = np.float32(0.5) ** (days / np.float32(FAST_HALF_LIFE_DAYS))
        fast, slow, total, buyers, firsts, age = (
            np.log1p(np.maximum(values, 0))
            for values in (
                self.fast[places] * fading,
                self.slow[places] * np.float32(0.5) ** (days / np.float32(SLOW_HALF_LIFE_DAYS)),
                self.total[places],
                self.buyers[places],
                self.firsts[places] * fading,
                (today - self.first_day[rows]).astype(np.float32),
            )
        )
        columns = np.stack([fast, slow, total, buyers, firsts, total - buyers, fast - firsts, age], axis=1)
        return np.where(found[:, None], columns, np.float32(0))

    def of_day(self, now_s: float) -> "DayTrends":
        """Return what is known on the day of a moment, of all items; a few days are kept, so do not change it."""
        return self._days(int(now_s // _DAY_S))

    @cached_property
    def _days(self) -> Callable[[int], "DayTrends"]:
        return lru_cache(maxsize=_KEPT_DAYS)(self._day)

    def _day(self, day: int) -> "DayTrends":
        features = self.at(day * _DAY_S)
        known = np.flatnonzero(features[:, 0] > 0)
        return DayTrends(features, known[np.argsort(-features[known, 0], kind="stable")])

    def grown(self, count: int) -> "ItemTrends":
        """Return the trends with `count` more items at the end, without events."""
        first_day = np.append(self.first_day, np.full(count, -1, self.first_day.dtype))
        return replace(self, n_items=self.n_items + count, first_day=first_day)

    def save(self, folder: Path) -> None:
        """Write `.npy` files of twelve bytes a record.

        counts                             uint16 (n_items,), records of each item
        days                               uint16 (m,), days since 1970
        fast, slow, total, buyers, firsts  float16 (m,), ln(1 + count), off by 0.05 %
        first_day                          int32 (n_items,)
        """
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "counts": np.bincount(self.keys // _SHIFT, minlength=self.n_items).astype(np.uint16),
            "days": (self.keys % _SHIFT).astype(np.uint16),
            **{name: np.log1p(getattr(self, name)).astype(np.float16) for name in _COUNTS},
            "first_day": self.first_day,
        }
        for name, array in values.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "ItemTrends":
        """Read what `save` wrote.

        Raises:
            DataError: the arrays do not fit together.
        """
        names = ("counts", "days", *_COUNTS, "first_day")
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names}
        counts, days, first_day = arrays["counts"], arrays["days"].astype(np.int64), arrays["first_day"]
        lengths = {len(days), int(counts.sum(dtype=np.int64)), *(len(arrays[name]) for name in _COUNTS)}
        numbers = all(np.isfinite(array).all() for array in arrays.values())
        if len(lengths) == 1 and numbers and len(counts) == len(first_day):
            keys = np.repeat(np.arange(len(counts), dtype=np.int64), counts) * _SHIFT + days
            if not (np.diff(keys) <= 0).any():
                known = {name: np.expm1(arrays[name].astype(np.float32)) for name in _COUNTS}
                return cls(n_items=len(counts), keys=keys, first_day=first_day, **known)
        raise DataError(f"The item trends in {folder} do not fit together: make the bundle again.")


@dataclass(frozen=True)
class DayTrends:
    """The trends of all items on one day."""

    features: np.ndarray
    """float32 `(n_items, 8)`, TREND_FEATURES."""
    popular: np.ndarray
    """int64 `(m,)`, the items with a count, the highest fast one first."""


_COUNTS = ("fast", "slow", "total", "buyers", "firsts")


def build_trends(
    items: np.ndarray,
    times_s: np.ndarray,
    n_items: int,
    *,
    users: np.ndarray | None = None,
    since_s: float | None = None,
) -> ItemTrends:
    """Count events and users by item and day.

    Args:
        items: int64 `(n_events,)` row numbers.
        times_s: int64 `(n_events,)` epoch seconds.
        users: int64 `(n_events,)` user numbers; None: each event has a user of its own.
        since_s: Days before it are added up into one record an item; values at earlier moments are not to be had.
    """
    days = np.asarray(times_s, np.int64) // _DAY_S
    event_keys = np.asarray(items, np.int64) * _SHIFT + days
    keys, places, counts = np.unique(event_keys, return_inverse=True, return_counts=True)
    new_buyers = np.bincount(places, _is_first(items, times_s, users), minlength=len(keys))
    owners, days = keys // _SHIFT, keys % _SHIFT
    first = np.full(n_items, -1, np.int32)
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]])) if len(keys) else np.empty(0, int)
    first[owners[starts]] = days[starts]
    kept = _kept(owners, days, since_s)
    sums = {
        "fast": _decayed(owners, days, counts, FAST_HALF_LIFE_DAYS),
        "slow": _decayed(owners, days, counts, SLOW_HALF_LIFE_DAYS),
        "total": _added_up(counts, starts),
        "buyers": _added_up(new_buyers, starts),
        "firsts": _decayed(owners, days, new_buyers, FAST_HALF_LIFE_DAYS),
    }
    return ItemTrends(n_items, keys[kept], first_day=first, **{name: values[kept] for name, values in sums.items()})


def no_trends(n_items: int) -> ItemTrends:
    """Return the trends of a catalogue in which nothing ever happened."""
    return build_trends(np.empty(0, np.int64), np.empty(0, np.int64), n_items)


def _is_first(items: np.ndarray, times_s: np.ndarray, users: np.ndarray | None) -> np.ndarray:
    """Return float64 `(n_events,)`: 1 for a user's first event with an item, else 0."""
    if users is None:
        return np.ones(len(items))
    by_pair = np.lexsort((times_s, items, users))
    users, items = np.asarray(users)[by_pair], np.asarray(items)[by_pair]
    first = np.zeros(len(items))
    first[by_pair] = np.append(True, (users[1:] != users[:-1]) | (items[1:] != items[:-1]))[: len(items)]
    return first


def _added_up(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the running sum of each owner's counts, float32 `(m,)`; `starts` are the owners' first places."""
    sums = np.cumsum(counts)
    before = np.repeat(sums[starts] - counts[starts], np.diff(np.append(starts, len(counts))))
    total: np.ndarray = (sums - before).astype(np.float32)
    return total


def _decayed(owners: np.ndarray, days: np.ndarray, counts: np.ndarray, half_life_days: float) -> np.ndarray:
    """Return the running decayed sum of each owner's counts, float32 `(m,)`."""
    sums = counts.astype(np.float64)
    factors = np.zeros(len(sums))
    factors[1:] = np.where(owners[1:] == owners[:-1], 0.5 ** (np.diff(days) / half_life_days), 0.0)
    running = 0.0
    for place, (count, factor) in enumerate(zip(sums.tolist(), factors.tolist(), strict=True)):
        running = running * factor + count
        sums[place] = running
    return sums.astype(np.float32)


def _kept(owners: np.ndarray, days: np.ndarray, since_s: float | None) -> np.ndarray:
    """Return which records stay: those since `since_s`, and the newest before it of each item."""
    if since_s is None or not len(owners):
        return np.ones(len(owners), bool)
    old = days < int(since_s // _DAY_S)
    next_is_old = np.append((owners[1:] == owners[:-1]) & old[1:], False)
    return ~(old & next_is_old)
