"""A shop week by week: its baskets in the order of time, as rows to train on and to be measured with."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.benchmarks.folder import RecommendFolder
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.inference.preprocessing import TOWER_HISTORY
from pipelines.training.catalog import Catalog, numbered, standardized_log
from pipelines.training.rows import Rows

WEEK_S = 7 * 86_400
POPULARITY_HALF_LIFE_S = 14 * 86_400
_UNKNOWN = -1


@dataclass(frozen=True)
class WeeklyShop:
    """`m` baskets, oldest first, over `n` purchases that are sorted by user and, within a user, by time."""

    folder: RecommendFolder
    start_s: int
    """Midnight (UTC) before the first purchase: the start of week 0."""
    first_sold_s: np.ndarray
    """int64 `(n_items,)`, when each item was first sold; the largest number for one that never was."""
    times: np.ndarray
    """int64 `(m,)` epoch seconds of each basket's first purchase, rising."""
    users: np.ndarray
    """int64 `(m,)`."""
    known_from: np.ndarray
    """int64 `(m,)` place of the user's first purchase: with `known_to`, what was bought before the basket."""
    known_to: np.ndarray
    """int64 `(m,)`."""
    targets: list[np.ndarray]
    """Distinct items of each basket, int64, rising."""

    def fingerprint(self) -> str:
        """Return a SHA-256 over items and purchases."""
        digest = hashlib.sha256("\n".join(self.folder.items.texts).encode())
        for values in (self.folder.users, self.folder.rows, self.folder.times, self.folder.baskets):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @property
    def weeks(self) -> np.ndarray:
        """int64 `(m,)` week of each basket, from 0."""
        return (self.times - self.start_s) // WEEK_S

    def week_start_s(self, week: int) -> int:
        """Return the first second of a week."""
        return self.start_s + week * WEEK_S

    def in_weeks(self, start: int, stop: int) -> np.ndarray:
        """Return the baskets of weeks `start` to before `stop`, int64, oldest first."""
        return np.flatnonzero((self.weeks >= start) & (self.weeks < stop))

    def bought_before(self, basket: int) -> np.ndarray:
        """Return the items of the user's earlier purchases, int64, oldest first."""
        return self.folder.rows[self.known_from[basket] : self.known_to[basket]]

    def counts(self, before_s: int) -> np.ndarray:
        """Return the purchases of each item before a moment, float32 `(n_items,)`."""
        sold = self.folder.rows[self.folder.times < before_s]
        return np.bincount(sold, minlength=len(self.folder.items)).astype(np.float32)

    def popularity(self, at_s: int) -> np.ndarray:
        """Return the purchases of each item before a moment, half of it at two weeks of age, float32 `(n_items,)`."""
        known = self.folder.times < at_s
        weights = 0.5 ** ((at_s - self.folder.times[known]) / POPULARITY_HALF_LIFE_S)
        return np.bincount(self.folder.rows[known], weights, minlength=len(self.folder.items)).astype(np.float32)

    def catalog(self, at_s: int, *, everything: bool = False) -> Catalog:
        """Return the items first sold before a moment, as training sees them; all items where `everything`.

        Counts and popularity are those of that moment.
        """
        items = self.folder.items
        rows = np.arange(len(items)) if everything else np.flatnonzero(self.first_sold_s < at_s)
        category_names, categories = numbered([items.categories[row] for row in rows])
        brand_names, brands = numbered([items.brands[row] for row in rows])
        return Catalog(
            item_ids=[items.item_ids[row] for row in rows],
            texts=[items.texts[row] for row in rows],
            titles=[items.titles[row] for row in rows],
            category_names=category_names,
            categories=categories,
            brand_names=brand_names,
            brands=brands,
            log_prices=standardized_log(items.prices)[rows],
            event_counts=self.counts(at_s)[rows],
            popularity=self.popularity(at_s)[rows],
        )

    def catalog_rows(self, at_s: int) -> np.ndarray:
        """Return the row of each item in `catalog(at_s)`, int64 `(n_items,)`, −1 for what it does not have."""
        known = self.first_sold_s < at_s
        return np.where(known, np.cumsum(known) - 1, _UNKNOWN)

    def training_rows(self, baskets: np.ndarray, catalog_rows: np.ndarray) -> Rows:
        """Return baskets as rows of a catalogue; items that it does not have are dropped.

        Args:
            baskets: int64 `(k,)`.
            catalog_rows: int64 `(n_items,)`, see `catalog_rows`.
        """
        histories, targets, new_targets, seen = [], [], [], []
        for basket in baskets:
            bought = self.bought_before(basket)
            moments = self.folder.times[self.known_from[basket] : self.known_to[basket]]
            rows = catalog_rows[bought]
            kept = np.flatnonzero(rows >= 0)[-TOWER_HISTORY:]
            histories.append((rows[kept], ["purchase"] * len(kept), moments[kept]))
            targets.append(_known(catalog_rows[self.targets[basket]]))
            new_targets.append(_known(catalog_rows[np.setdiff1d(self.targets[basket], bought)]))
            seen.append(np.unique(_known(rows)))
        return Rows(
            user_ids=[self.folder.user_ids[user] for user in self.users[baskets]],
            as_of_s=self.times[baskets].astype(np.float64),
            histories=histories,
            activity=np.zeros((len(baskets), len(ACTIVITY_FEATURES)), np.float32),
            targets=targets,
            new_targets=new_targets,
            seen=seen,
        )


def weekly_shop(folder: RecommendFolder) -> WeeklyShop:
    """Put the baskets of a shop in the order of time."""
    if folder.positions is not None:  # another order within a moment; here only time counts
        by_time = np.lexsort((folder.positions, folder.times, folder.users))
        folder = _taken(folder, by_time, folder.user_ids, folder.users[by_time])
    order = np.lexsort((folder.times, folder.baskets, folder.users))
    starts = np.flatnonzero(np.diff(folder.baskets[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    users = folder.users[order][starts]
    times = np.array([folder.times[order[start:end]].min() for start, end in zip(starts, ends, strict=True)], np.int64)
    targets = [np.unique(folder.rows[order[start:end]]) for start, end in zip(starts, ends, strict=True)]
    bounds = np.searchsorted(folder.users, np.arange(len(folder.user_ids) + 1))
    known_to = np.empty(len(starts), np.int64)
    for user, (start, end) in enumerate(pairwise(bounds)):
        own = slice(*np.searchsorted(users, [user, user + 1]))
        known_to[own] = start + np.searchsorted(folder.times[start:end], times[own])
    first_sold = np.full(len(folder.items), np.iinfo(np.int64).max)
    np.minimum.at(first_sold, folder.rows, folder.times)
    by_time = np.lexsort((users, times))
    return WeeklyShop(
        folder=folder,
        start_s=int(folder.times.min()) // 86_400 * 86_400,
        first_sold_s=first_sold,
        times=times[by_time],
        users=users[by_time],
        known_from=bounds[users[by_time]],
        known_to=known_to[by_time],
        targets=[targets[place] for place in by_time],
    )


def some_users(folder: RecommendFolder, count: int | None, seed: int) -> RecommendFolder:
    """Return the purchases of `count` users, drawn at random; of all users for None, or where there are no more."""
    if count is None or count >= len(folder.user_ids):
        return folder
    chosen = np.sort(np.random.default_rng(seed).permutation(len(folder.user_ids))[:count])
    kept = np.flatnonzero(np.isin(folder.users, chosen))
    return _taken(folder, kept, [folder.user_ids[user] for user in chosen], np.searchsorted(chosen, folder.users[kept]))


def _taken(folder: RecommendFolder, kept: np.ndarray, user_ids: list[str], users: np.ndarray) -> RecommendFolder:
    return RecommendFolder(
        name=folder.name,
        items=folder.items,
        user_ids=user_ids,
        users=users,
        rows=folder.rows[kept],
        times=folder.times[kept],
        positions=None,
        baskets=folder.baskets[kept],
        event_types=folder.event_types[kept],
        notes=folder.notes,
    )


def reservoir(stream: Sequence[int] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return `k` members of a stream, each with the same chance, in the order of the stream, int64.

    The rule of `pipelines.features.baskets.older_rows_sql`: every member has a random number that stays the same as the
    stream grows, and the lowest stay.
    """
    members = np.asarray(stream, np.int64)
    if k <= 0 or not len(members):
        return np.zeros(0, np.int64)
    keys = np.random.default_rng(seed).random(int(members.max()) + 1)[members]
    return members[np.sort(np.argsort(keys, kind="stable")[:k])]


def _known(rows: np.ndarray) -> np.ndarray:
    kept: np.ndarray = rows[rows >= 0]
    return kept
