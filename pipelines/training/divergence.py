"""When a training must stop because it only makes things worse."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipelines.errors import DivergenceError

_WINDOW = 25
"""Steps whose mean loss is compared with that of the untrained weights."""
_START_BATCHES = 8
"""Batches on which the untrained weights are measured; no step trains on them."""
_TOLERANCE = 0.2
"""Share of the loss at the start by which the latest losses may lie above it: a high learning rate costs some."""
_LEAST_RISE = 0.1
"""Rise, in nats, below which nothing is wrong, however small the loss was at the start."""
_STANDARD_ERRORS = 4.0


def start_batches(steps: int) -> range:
    """Return the numbers of the batches that measure the start of a training; none if it is too short to compare."""
    return range(steps, steps + _START_BATCHES) if steps >= _WINDOW else range(0)


class DivergenceWatch:
    """Looks at every loss.

    A run that goes on from a checkpoint shows the watch the losses from before again.

    Args:
        what: The part of the training, for the message.
        advice: The setting that would help.
        start: Losses of the untrained weights, of `start_batches`; without any, only what is not finite stops.
    """

    def __init__(self, what: str, advice: str, start: Sequence[float] = ()) -> None:
        self._what = what
        self._advice = advice
        self._start = np.array(start, np.float64)
        self._latest: deque[float] = deque(maxlen=_WINDOW)
        self._steps = 0
        if not np.isfinite(self._start).all():
            self._stop(f"the loss of the weights that it started from is {self._start}")

    def observe(self, loss: float) -> None:
        """Take in the loss of the next step.

        Raises:
            DivergenceError: it is not a number, or the last 25 losses are on the average over a fifth, and clearly
                more than chance explains, above those at the start.
        """
        self._steps += 1
        self._latest.append(loss)
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss}")
        if not len(self._start) or len(self._latest) < _WINDOW:
            return
        latest, start = np.array(self._latest), self._start
        rise = float(latest.mean() - start.mean())
        error = math.sqrt(float(latest.var() / len(latest) + start.var() / len(start)))
        if rise > max(_LEAST_RISE, _TOLERANCE * abs(float(start.mean())), _STANDARD_ERRORS * error):
            self._stop(
                f"the loss is worse than at the start, {latest.mean():.3f} over the last {_WINDOW} steps against "
                f"{start.mean():.3f} before the first"
            )

    def _stop(self, reason: str) -> None:
        raise DivergenceError(
            f"{self._what} diverged at step {self._steps}: {reason}. No model was written and the champion "
            f"stays. {self._advice}"
        )


def refuse_broken_weights(module: nn.Module, what: str) -> None:
    """Stop where a weight is not a finite number, which the loss of the last step could not show yet.

    Raises:
        DivergenceError: names the first such weight.
    """
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DivergenceError(
                f"{what} diverged: {int((~torch.isfinite(value)).sum())} of {value.numel()} numbers of `{name}` are "
                "not finite. No model was written and the champion stays. Lower the learning rate, then train again."
            )
