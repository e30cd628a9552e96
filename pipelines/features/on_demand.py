"""Features computed when they are needed, from a history, the catalogue and the moment: one function for all.

Training rows and served requests call it alike. Nothing of it is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CONTEXT_FEATURES: tuple[str, ...] = ("hour", "weekday", "hours_since_last", "mean_gap_h", "log_price_affinity")
"""What `context_features` gives for a moment of a user."""
CANDIDATE_FEATURES: tuple[str, ...] = ("log_price_distance", "category_affinity", "brand_affinity")
"""What `candidate_features` gives for an item that could be shown to the user, in its order of columns."""
AFFINITY_HALF_LIFE_DAYS = 28.0
"""Age at which an event of the history counts half in an affinity."""
_HOUR_S = 3_600
_DAY_S = 86_400
_UNKNOWN = 0


@dataclass(frozen=True)
class ItemFacts:
    """What affinities look at, for `n` items of the catalogue in the order of their row numbers."""

    log_prices: np.ndarray
    """float64 `(n,)`, NaN where there is no price above 0."""
    categories: np.ndarray
    """int64 `(n,)`, 0 where unknown."""
    brands: np.ndarray
    """int64 `(n,)`, 0 where unknown."""

    @cached_property
    def n_kinds(self) -> tuple[int, int]:
        """How many categories and brands there are, the unknown one included."""
        return int(self.categories.max(initial=0)) + 1, int(self.brands.max(initial=0)) + 1


def item_facts(
    prices: Sequence[float | None], categories: Sequence[str | None], brands: Sequence[str | None]
) -> ItemFacts:
    """Turn columns of the catalogue into numbers."""
    price = np.array([np.nan if value is None else value for value in prices], np.float64)
    price = np.where(price > 0, price, np.nan)
    return ItemFacts(log_prices=np.log(price), categories=_numbered(categories), brands=_numbered(brands))


def context_features(
    rows: np.ndarray, times: np.ndarray, offsets: np.ndarray, now_s: np.ndarray, facts: ItemFacts
) -> dict[str, np.ndarray]:
    """Return CONTEXT_FEATURES of `n` moments, each float64 `(n,)`, NaN where nothing is known.

    `hour` (0 to 23) and `weekday` (0 is Monday) are UTC; `hours_since_last` is the age of the newest event;
    `mean_gap_h` the mean time between events of different times in the history; `log_price_affinity` the mean log
    price of its items, each halved per AFFINITY_HALF_LIFE_DAYS of age.

    Args:
        rows: int64 `(e,)`, the items of all histories one after the other, as row numbers, -1 for unknown ones.
        times: int64 `(e,)`, epoch seconds, ascending within a history.
        offsets: int64 `(n + 1,)`, where each history starts and the last one ends.
        now_s: float64 `(n,)`, the moments, epoch seconds.
    """
    n = len(now_s)
    owners = np.repeat(np.arange(n), np.diff(offsets))
    starts = np.zeros(len(times), bool)
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    steps = ~starts & (np.diff(times, prepend=0) > 0)
    gaps = np.bincount(owners[steps], minlength=n)
    newest, oldest = np.full(n, np.nan), np.full(n, np.nan)
    filled = np.diff(offsets) > 0
    newest[filled] = times[offsets[1:][filled] - 1]
    oldest[filled] = times[offsets[:-1][filled]]
    price = np.where(rows >= 0, facts.log_prices[rows], np.nan) if len(facts.log_prices) else np.full(len(rows), np.nan)
    weights = np.where(np.isnan(price), 0.0, _weights(times, owners, newest))
    total = np.bincount(owners, weights, minlength=n)
    priced = np.bincount(owners, weights * np.nan_to_num(price), minlength=n)
    whole_hours = np.floor(np.asarray(now_s) / _HOUR_S)
    return {
        "hour": whole_hours % 24,
        "weekday": (np.floor(np.asarray(now_s) / _DAY_S) + 3) % 7,  # 1970-01-01 was a Thursday
        "hours_since_last": (now_s - newest) / _HOUR_S,
        "mean_gap_h": _ratio((newest - oldest) / _HOUR_S, gaps),
        "log_price_affinity": _ratio(priced, total),
    }


def candidate_features(rows: np.ndarray, times: np.ndarray, candidates: np.ndarray, facts: ItemFacts) -> np.ndarray:
    """Return CANDIDATE_FEATURES of items for one user, float64 `(c, 3)`, NaN where nothing is known.

    `log_price_distance` is how far the item's log price lies above (or below, negative) the user's
    `log_price_affinity`; `category_affinity` and `brand_affinity` are the shares of the history, weighted as there,
    with the item's category and brand.

    Args:
        rows: int64 `(t,)`, the items of the history as row numbers, -1 for unknown ones.
        times: int64 `(t,)`, epoch seconds, ascending.
        candidates: int64 `(c,)`, row numbers.
    """
    known = rows >= 0
    rows, weights = rows[known], _faded((times[-1] if len(times) else 0) - times[known])
    prices = facts.log_prices.take(rows)
    priced = ~np.isnan(prices)
    total = weights[priced].sum()
    affinity = (weights[priced] * prices[priced]).sum() / total if total > 0 else np.nan
    columns = np.empty((len(candidates), len(CANDIDATE_FEATURES)))
    np.subtract(facts.log_prices.take(candidates), affinity, out=columns[:, 0])
    for place, (values, n_kinds) in enumerate(zip((facts.categories, facts.brands), facts.n_kinds, strict=True), 1):
        held = np.bincount(values.take(rows), weights, minlength=n_kinds).astype(np.float64, copy=False)
        held[_UNKNOWN] = 0.0
        whole = held.sum() or np.nan
        held[_UNKNOWN] = np.nan
        np.divide(held.take(values.take(candidates)), whole, out=columns[:, place])
    return columns


def _weights(times: np.ndarray, owners: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Weigh events by their age at the newest event of their history: a share does not depend on the moment."""
    return _faded(newest[owners] - times)


def _faded(ages_s: np.ndarray) -> np.ndarray:
    weights: np.ndarray = 0.5 ** (ages_s / (AFFINITY_HALF_LIFE_DAYS * _DAY_S))
    return weights


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    denominator = np.broadcast_to(np.asarray(denominator, np.float64), np.shape(numerator))
    ratio: np.ndarray = np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0
    )
    return ratio


def _numbered(values: Sequence[str | None]) -> np.ndarray:
    numbers: Mapping[str, int] = {
        name: number for number, name in enumerate(sorted({value for value in values if value}), start=1)
    }
    return np.array([numbers[value] if value else _UNKNOWN for value in values], np.int64)
