"""The ranker: a small network that scores candidates, with one head a task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HEADS: tuple[str, ...] = ("click", "purchase")
"""Tasks, in the order of the outputs."""


class Ranker(nn.Module):
    """Standardises the features and gives one logit a head; the heads share all but the last layer."""

    def __init__(self, n_features: int, width: int, heads: Sequence[str] = HEADS) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.shared = nn.Sequential(nn.Linear(n_features, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.heads = nn.Linear(width, len(heads))

    def standardize(self, features: Tensor) -> None:
        """Take mean and deviation from a sample of candidates, float32 `(n, n_features)`."""
        deviation = features.std(dim=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 1e-4, 1 / deviation.clamp_min(1e-4), torch.zeros_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Score candidates: float32 `(…, n_features)` to logits float32 `(…, n_heads)`."""
        standardized = ((features - self.mean) * self.scale).clamp(-8, 8)
        logits: Tensor = self.heads(self.shared(standardized))
        return logits
