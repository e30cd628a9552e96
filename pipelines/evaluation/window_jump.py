"""A gain that is too good: is the model better on the test window than it could honestly be?

Towers are trained on neither the validation nor the test window, so their gain over a control that saw neither must be
much the same on both. Towers that were trained on the test rows know those by heart, and not the others.
"""

import numpy as np

from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.schemas import Metric

WINDOW_JUMP = "window_jump"
JUMP_METRIC = "ndcg@10"
"""The metric whose gain is compared."""


def window_jump(
    test_gains: np.ndarray,
    test_users: np.ndarray,
    validation_gains: np.ndarray,
    validation_users: np.ndarray,
    *,
    samples: int,
    seed: int,
) -> Metric | None:
    """Return how much larger the mean gain is on the test rows, with an interval that errs on the wide side.

    The ends are the distances of the ends of both 95 % intervals, so that it holds more than 95 %.

    Args:
        test_gains: float64 `(n,)` gain of each row, NaN for a row that does not count; `validation_gains` likewise.

    Returns:
        None where one of the windows has no row that counts.
    """
    test = UserBootstrap(test_users, samples=samples, seed=seed).mean(test_gains)
    validation = UserBootstrap(validation_users, samples=samples, seed=seed).mean(validation_gains)
    if test is None or validation is None:
        return None
    value = test.value - validation.value
    if test.low is None or test.high is None or validation.low is None or validation.high is None:
        return Metric(value=value)
    return Metric(value=value, low=test.low - validation.high, high=test.high - validation.low)
