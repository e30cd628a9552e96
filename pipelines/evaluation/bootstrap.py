"""95 % intervals by resampling users: the rows of one user are alike, so they are drawn together."""

import numpy as np

from pipelines.schemas import Metric

_PERCENTILES = (2.5, 97.5)
_MOST_GROUPS = 32_768
"""Users beyond so many are drawn in groups, so that the draws stay below 4 bytes × groups × samples."""


class UserBootstrap:
    """The same resampled users for every case and metric, so that differences are paired.

    Source: percentile bootstrap over clusters, Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.

    Args:
        users: `(n_rows,)` the user of each row.
        samples: Number of resamples.
        seed: Seed of the draws; the same seed gives the same intervals.
    """

    def __init__(self, users: np.ndarray, *, samples: int, seed: int) -> None:
        names, self._codes = np.unique(users, return_inverse=True)
        if len(names) > _MOST_GROUPS:
            self._codes = np.random.default_rng(seed).permutation(len(names))[self._codes] % _MOST_GROUPS
        self._n_users = min(len(names), _MOST_GROUPS)
        shares = np.full(self._n_users, 1 / max(self._n_users, 1))
        draws = np.random.default_rng(seed).multinomial(self._n_users, shares, size=samples)
        self._draws = draws.astype(np.float32)

    def mean(self, values: np.ndarray) -> Metric | None:
        """Return the mean over rows with its 95 % interval, no interval where fewer than two users count.

        None where no row counts: there is no number then, and 0 would look like one.

        Args:
            values: float64 `(n_rows,)`, NaN for a row that does not count. Give the difference of two cases for a
                paired interval.
        """
        counted = ~np.isnan(values)
        if not counted.any():
            return None
        codes = self._codes[counted]
        sums = np.bincount(codes, weights=values[counted], minlength=self._n_users)
        rows = np.bincount(codes, minlength=self._n_users)
        value = float(sums.sum() / rows.sum())
        if np.count_nonzero(rows) < 2:
            return Metric(value=value)
        drawn = self._draws @ rows.astype(np.float32)
        means = (self._draws @ sums.astype(np.float32))[drawn > 0] / drawn[drawn > 0]
        low, high = np.percentile(means, _PERCENTILES)
        return Metric(value=value, low=float(low), high=float(high))
