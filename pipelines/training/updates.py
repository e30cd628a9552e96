"""One update of the weights from one batch, however many micro-batches and processes the batch was worked off in."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import ConfigError, DataError
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.precision import MixedPrecision

MAX_NORM = 1.0
"""Norm to which the gradients of the clipped weights are cut."""


def micro_batches(n: int, count: int) -> list[slice]:
    """Cut `n` rows into `count` neighboring parts whose sizes differ by 1 at most; none is empty."""
    parts = [slice(n * number // count, n * (number + 1) // count) for number in range(count)]
    return [part for part in parts if part.stop > part.start]


def refuse_small_parts(setting: str, batch: int, accumulate_steps: int, group: TrainingGroup) -> None:
    """Stop where a micro-batch has no row for some process, or a single one, which nothing can be compared with.

    Raises:
        ConfigError: names the setting.
    """
    smallest = batch // accumulate_steps
    if smallest < max(2, group.size):
        raise ConfigError(
            f"`training.{setting}` {batch} in {accumulate_steps} micro-batch(es) gives {smallest} row(s) to "
            f"{group.size} process(es), which need one each and two together: raise the batch, or lower "
            "`training.accumulate_steps` or the number of processes."
        )


class Updater:
    """Turns losses into updates.

    Args:
        optimizer: Each parameter group has `peak`, its peak learning rate.
        clipped: Weights whose gradients are clipped together; all by default.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        precision: MixedPrecision,
        group: TrainingGroup = ALONE,
        clipped: Iterable[torch.nn.Parameter] | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._precision = precision
        self._group = group
        self._weights = [weight for part in optimizer.param_groups for weight in part["params"]]
        self._clipped = self._weights if clipped is None else list(clipped)

    def update(self, losses: Iterable[Tensor], rate: float = 1.0) -> float:
        """Change the weights once.

        Each loss is differentiated before the next one is asked for, so a generator holds one micro-batch in memory.

        Args:
            losses: float32 scalars; the loss of the batch is their sum over micro-batches and processes.
            rate: Factor of the peak learning rates, in [0, 1].

        Returns:
            The loss of the batch.
        """
        for part in self._optimizer.param_groups:
            part["lr"] = part["peak"] * rate
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._weights[0].device)
        for loss in losses:
            self._precision.backward(loss)
            total += loss.detach()
        self._group.add_gradients(self._weights)
        self._precision.step(self._optimizer, self._clipped, MAX_NORM)
        return self._group.total(total)

    def measure(self, losses: Iterable[Tensor]) -> float:
        """Return the loss of a batch and change nothing; `losses` as for `update`."""
        total = torch.zeros((), device=self._weights[0].device)
        with torch.no_grad():
            for loss in losses:
                total += loss
        return self._group.total(total)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"optimizer": self._optimizer.state_dict(), "precision": self._precision.state()}

    def load(self, state: Mapping[str, Any], source: Path) -> None:
        """Go on from what `state` returned.

        Raises:
            DataError: it belongs to another set of weights.
        """
        try:
            self._optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise DataError(
                f"The optimizer in the checkpoint {source} is that of another model ({error}): delete the file, then "
                "run `headrace finetune_model` again, which starts this part anew."
            ) from None
        self._precision.load(state.get("precision", {}))
