"""User activity: how a model reads counts, spend and pace of a user."""

from collections.abc import Mapping

import numpy as np

ACTIVITY_FEATURES: tuple[str, ...] = (
    "views",
    "clicks",
    "carts",
    "purchases",
    "ratings",
    "events_1d_decayed",
    "events_7d_decayed",
    "events_28d_decayed",
    "spend_28d_decayed",
    "mean_value_28d_decayed",
    "mean_gap_days",
    "days_since_first",
)
"""Features of the view `user_activity` that the model reads, in the order of `activity_vector`.

What they are: `pipelines/features/user_state.py`.
"""


_LARGEST = np.finfo(np.float64).max


def activity_vector(values: Mapping[str, float | None]) -> np.ndarray:
    """Turn the features of one user into numbers for a model: log(1 + x), and 0 where nothing is known.

    The one preprocessing of training and serving. Negative values (refunds) count as 0.

    Args:
        values: Feature name -> value; absent, null and NaN mean unknown.

    Returns:
        float32 `(len(ACTIVITY_FEATURES),)`, each >= 0.
    """
    raw = np.array([values.get(name) or 0.0 for name in ACTIVITY_FEATURES], np.float64)
    return np.log1p(np.fmin(np.fmax(raw, 0.0), _LARGEST)).astype(np.float32)  # fmax takes the number where one is NaN
