"""The static query tower: a vector a token and a vector a pair of neighboring tokens, added up. No transformer.

Pairs share a table by hash, so that "door bell" is more than "door" and "bell". Everything is one small ONNX graph with
the inputs and the output of an encoder, so that whoever opens an encoder opens this.

Source: weights of tokens by rarity as in Arora et al., A simple but tough-to-beat baseline for sentence embeddings
(2017); hashed n-grams as in fastText (https://arxiv.org/abs/1607.01759).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_FIRST, _SECOND = 1_000_003, 7_919
"""Multipliers of the hash of a pair; both are prime."""
_SMOOTHING = 1e-3
"""Frequency at which a token counts half."""


class StaticTower(nn.Module):
    """Token ids in, sentence embeddings out: norm( Σ token[i_t] + Σ pair[hash(i_t, i_t+1)] )."""

    def __init__(self, tokens: Tensor, n_pairs: int) -> None:
        """Start from vectors of tokens, float32 `(n_tokens, dim)`; the `n_pairs` vectors of pairs start at 0."""
        super().__init__()
        self.n_pairs = n_pairs
        self.tokens = nn.Parameter(tokens.clone())
        self.pairs = nn.Parameter(torch.zeros(max(n_pairs, 1), tokens.shape[1]), requires_grad=n_pairs > 0)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.tokens.shape[1])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch: int64 `(n, t)` each to float32 `(n, dim)`, each row L2 norm 1."""
        mask = attention_mask.unsqueeze(-1).to(self.tokens.dtype)
        total = (nn.functional.embedding(input_ids, self.tokens) * mask).sum(1)
        if self.n_pairs:
            both = nn.functional.embedding(self._pair_numbers(input_ids), self.pairs)
            total = total + (both * mask[:, 1:]).sum(1)
        return nn.functional.normalize(total, dim=-1)

    def _pair_numbers(self, input_ids: Tensor) -> Tensor:
        mixed = input_ids[:, :-1] * _FIRST + input_ids[:, 1:] * _SECOND
        return mixed % self.n_pairs


def rarity_weights(token_lists: Sequence[Sequence[int]], n_tokens: int) -> np.ndarray:
    """Return a / (a + frequency) of each token, float32 `(n_tokens,)` in (0, 1]; 1 for a token that never occurs."""
    counts = np.bincount(np.concatenate([np.asarray(ids, np.int64) for ids in token_lists]), minlength=n_tokens)
    frequency = counts / max(counts.sum(), 1)
    return (_SMOOTHING / (_SMOOTHING + frequency)).astype(np.float32)
