"""Whether served features are those of the offline store: value by value, request by request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FeatureSkew:
    """One feature over all compared requests."""

    compared: int
    different: tuple[int, ...]
    """Places of the requests that differ."""

    @property
    def rate(self) -> float:
        """Share of the requests that differ, in [0, 1]."""
        return len(self.different) / self.compared if self.compared else 0.0


def compare_features(
    served: Mapping[str, Sequence[Any]], offline: Mapping[str, Sequence[Any]], *, tolerance: float
) -> dict[str, FeatureSkew]:
    """Compare columns of the same requests in the same order.

    Null equals null only. Lists and texts must be equal; numbers may differ by `tolerance` of the larger.

    Args:
        served: Feature name -> what the service used.
        offline: Feature name -> what the offline store holds; the same names.
    """
    return {name: _compare(values, offline[name], tolerance) for name, values in served.items()}


def _compare(served: Sequence[Any], offline: Sequence[Any], tolerance: float) -> FeatureSkew:
    if all(value is None or isinstance(value, int | float) for value in (*served, *offline)):
        left, right = (np.array([np.nan if v is None else v for v in column], float) for column in (served, offline))
        close = np.abs(left - right) <= tolerance * np.maximum(np.abs(left), np.abs(right))
        same = close | (np.isnan(left) & np.isnan(right))
        return FeatureSkew(len(served), tuple(np.flatnonzero(~same).tolist()))
    places = enumerate(zip(served, offline, strict=True))
    return FeatureSkew(len(served), tuple(place for place, (left, right) in places if left != right))
