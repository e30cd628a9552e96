"""The contrastive loss of both tasks."""

import torch
from torch import Tensor, nn


def sampled_softmax_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    positive_log_q: Tensor | None = None,
    negative_log_q: Tensor | None = None,
    accidental: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of each anchor's positive against shared negatives.

        loss = −log( exp(s⁺) / (exp(s⁺) + Σ exp(s⁻)) ),  s = a · v / temperature − log Q(v)

    Args:
        anchors: float32 `(n, dim)`, user or query vectors, L2 norm 1.
        positives: float32 `(n, dim)`, the item that belongs to each anchor, L2 norm 1.
        negatives: float32 `(m, dim)`, items shared by all anchors, L2 norm 1.
        positive_log_q: float32 `(n,)`, log of the chance that sampling gives the positive; None corrects nothing.
        negative_log_q: float32 `(m,)`, the same for the negatives.
        accidental: bool `(n, m)`, true where a negative is really a positive of the anchor and must not count.

    Source: sampling-bias-corrected softmax (https://doi.org/10.1145/3298689.3346996).
    """
    positive = (anchors * positives).sum(-1) / temperature
    negative = anchors @ negatives.T / temperature
    if positive_log_q is not None and negative_log_q is not None:
        positive = positive - positive_log_q
        negative = negative - negative_log_q
    if accidental is not None:
        negative = negative.masked_fill(accidental, float("-inf"))
    logits = torch.cat([positive.unsqueeze(-1), negative], dim=-1)
    return nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
