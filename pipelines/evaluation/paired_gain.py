"""What one ranking gains over another on the same rows, and whether that is more than chance."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedGain:
    """A mean difference; the rows of one user are alike, so its standard error is that of so many users."""

    mean: float
    standard_error: float
    """NaN with fewer than two users: nothing says then what chance does."""

    @property
    def is_clear(self) -> bool:
        """The gain is more than its standard error."""
        return self.mean > self.standard_error

    def error_metric(self, name: str) -> dict[str, float]:
        """Return the standard error as the metric `<name>_gain_standard_error`, nothing where there is none."""
        return {f"{name}_gain_standard_error": self.standard_error} if np.isfinite(self.standard_error) else {}


def mean_of_parts(values: np.ndarray) -> float:
    """Return the mean over parts of their means over rows; parts without a row that counts are left out.

    Args:
        values: float64 `(n_parts, n_rows)`, NaN for a row that does not count.
    """
    means = [part[counted].mean() for part, counted in zip(values, ~np.isnan(values), strict=True) if counted.any()]
    return float(np.mean(means)) if means else 0.0


def paired_gain(own: np.ndarray, other: np.ndarray, users: np.ndarray) -> PairedGain:
    """Return what `own` gains over `other` by `mean_of_parts`.

    The standard error adds up what each user contributes to the mean: rows of a user are no independent evidence.

    Source: the linearized ratio estimator for cluster samples, Cochran, Sampling Techniques (1977), ch. 11.

    Args:
        own: float64 `(n_parts, n_rows)`, NaN for a row that does not count; `other` is NaN at the same places.
        users: `(n_rows,)` the user of each row.
    """
    gains = own - other
    counted = ~np.isnan(gains)
    gains, counted = gains[counted.any(axis=1)], counted[counted.any(axis=1)]
    names, codes = np.unique(users[counted.any(axis=0)], return_inverse=True)
    if len(names) < 2:
        return PairedGain(mean_of_parts(gains), float("nan"))
    means = np.nanmean(gains, axis=1, keepdims=True)
    shares = np.where(counted, gains - means, 0.0) / counted.sum(axis=1, keepdims=True)
    by_user = np.bincount(codes, weights=shares.mean(axis=0)[counted.any(axis=0)])
    return PairedGain(mean_of_parts(gains), float(np.sqrt(len(names) / (len(names) - 1) * (by_user**2).sum())))
