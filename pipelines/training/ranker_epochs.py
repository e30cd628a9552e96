"""The epochs of a ranker: shuffled batches of lists; the epoch that is best on lists kept aside stays."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipelines.config import RankerConfig, SearchRankerConfig
from pipelines.model.ranker import Ranker
from pipelines.progress import Progress
from pipelines.training.checkpoints import copied_weights
from pipelines.training.schedule import warmup_then_linear

_WARMUP_SHARE = 0.05
_MAX_GRADIENT_NORM = 1.0


@dataclass
class RankerEpochs:
    """How the epochs went; they count from 1."""

    losses: dict[int, float] = field(default_factory=dict)
    """Mean training loss by epoch."""
    quality: dict[int, float] = field(default_factory=dict)
    """What was measured after each epoch."""
    best_epoch: int = 0
    """The last one of the highest quality."""


def run_epochs(
    ranker: Ranker,
    lists: np.ndarray,
    *,
    loss_of: Callable[[np.ndarray], Tensor],
    quality: Callable[[], float],
    config: RankerConfig | SearchRankerConfig,
    weight_decay: float,
    rng: np.random.Generator,
    stage: str,
    progress: Progress,
) -> RankerEpochs:
    """Train a ranker in place; at the end it has the weights of its best epoch and is ready to score.

    Args:
        lists: int64 `(n,)`, numbers of the lists that are learned from; without any, the weights stay.
        loss_of: The loss of a batch, given its part of `lists`.
        quality: Measures the ranker as it is; higher is better.
        config: Epochs, batch and peak learning rate.
        rng: Shuffles the lists anew for each epoch.
        stage: What `progress` is told this is.
    """
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=config.learning_rate, weight_decay=weight_decay)
    steps, step = max(1, -(-len(lists) // config.batch)) * config.epochs, 0
    went, best = RankerEpochs(), copied_weights(ranker.state_dict())
    for epoch in range(1, config.epochs + 1):
        losses = []
        order = rng.permutation(lists)
        for start in range(0, len(order), config.batch):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warmup_then_linear(step, steps, _WARMUP_SHARE)
            loss = loss_of(order[start : start + config.batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ranker.parameters(), _MAX_GRADIENT_NORM)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
            progress.update(stage, step, steps, f"loss {losses[-1]:.3f}")
        went.losses[epoch] = float(np.mean(losses)) if losses else float("nan")
        went.quality[epoch] = quality()
        if went.quality[epoch] >= max(went.quality.values()):
            best, went.best_epoch = copied_weights(ranker.state_dict()), epoch
    ranker.load_state_dict(best)
    ranker.eval()
    return went
