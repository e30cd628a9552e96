"""When a training must stop because it only makes things worse."""

import math

import numpy as np
import torch
from torch import nn

from pipelines.errors import DivergenceError

_WINDOW = 25
"""Steps whose mean loss is compared with that of the first steps."""
_TOLERANCE = 0.2
"""Share of that mean by which the latest losses may lie above it: a rising learning rate costs some, at first."""
_STANDARD_ERRORS = 4.0


class DivergenceWatch:
    """Looks at every loss.

    A run that goes on from a checkpoint shows the watch the losses from before again.

    Args:
        what: The part of the training, for the message.
        advice: The setting that would help.
    """

    def __init__(self, what: str, advice: str) -> None:
        self._what = what
        self._advice = advice
        self._losses: list[float] = []

    def observe(self, loss: float) -> None:
        """Take in the loss of the next step.

        Raises:
            DivergenceError: it is not a number, or the last 25 losses are on the average over a fifth, and clearly
                more than chance explains, above the first 25.
        """
        self._losses.append(loss)
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss}")
        if len(self._losses) < 2 * _WINDOW:
            return
        first, last = np.array(self._losses[:_WINDOW]), np.array(self._losses[-_WINDOW:])
        rise = float(last.mean() - first.mean())
        error = math.sqrt(float(first.var() + last.var()) / _WINDOW)
        if rise > max(_TOLERANCE * abs(float(first.mean())), _STANDARD_ERRORS * error):
            self._stop(
                f"the loss is worse than at the start, {last.mean():.3f} over the last {_WINDOW} steps against "
                f"{first.mean():.3f} over the first"
            )

    def _stop(self, reason: str) -> None:
        raise DivergenceError(
            f"{self._what} diverged at step {len(self._losses)}: {reason}. No model was written and the champion "
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
