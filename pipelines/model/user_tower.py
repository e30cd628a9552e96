"""The user tower: a behaviour sequence becomes one vector.

    z_t = v_{i_t} + type_t + gap_t          (events oldest first)
    h_t = z_t + U · Transformer(D z_t)      (small and causal; U starts at zero)
    u   = norm( Σ α_t h_t + A a ),  α = softmax(w · h_t + b(gap_t))

The transformer is `WIDTH` wide, which keeps training and one request cheap; the residual path keeps u in the
space of the item vectors, so an untrained tower is a recency-blind mean of what the user touched.

Source: self-attentive sequence model, SASRec (https://arxiv.org/abs/1808.09781).
"""

import torch
from torch import Tensor, nn

WIDTH = 128
HEADS = 4


class CausalBlock(nn.Module):
    """One pre-norm transformer block in which an event sees itself and older ones.

    Written out instead of `nn.TransformerEncoderLayer`, whose fast path does not export.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Mix events.

        Args:
            states: float32 `(b, t, width)`.
            mask: float32 `(b, t)`, 1 for an event and 0 for padding.
        """
        b, t, width = states.shape
        parts = self.query_key_value(self.norm_attention(states)).reshape(b, t, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        # A finite penalty, so that rows in which everything is padding do not become NaN.
        steps = torch.arange(t, device=states.device)
        allowed = (steps.unsqueeze(0) <= steps.unsqueeze(1)).to(states.dtype) * mask[:, None, None, :]
        scores = scores + (1.0 - allowed) * -1e4
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(b, t, width)
        states = states + self.output(mixed)
        return states + self.feed_forward(self.norm_feed_forward(states))


class ZeroLinear(nn.Module):
    """A linear layer without bias that starts at zero; `nn.Linear` warns where there are no inputs."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_outputs, n_inputs))

    def forward(self, values: Tensor) -> Tensor:
        """Map float32 `(…, n_inputs)` to `(…, n_outputs)`."""
        return values @ self.weight.T


class UserTower(nn.Module):
    """Turns histories of item vectors into user vectors."""

    def __init__(self, dim: int, n_event_types: int, n_gap_buckets: int, n_activity: int) -> None:
        super().__init__()
        self.event_type = nn.Embedding(n_event_types, dim)
        self.gap = nn.Embedding(n_gap_buckets, dim)
        self.down = nn.Linear(dim, WIDTH)
        self.block = CausalBlock(WIDTH, HEADS)
        self.up = nn.Linear(WIDTH, dim, bias=False)
        self.pool = nn.Linear(dim, 1, bias=False)
        self.gap_bias = nn.Embedding(n_gap_buckets, 1)
        self.activity = ZeroLinear(n_activity, dim)
        for layer in (self.event_type, self.gap, self.gap_bias, self.up, self.pool):
            nn.init.zeros_(layer.weight)

    def forward(
        self, item_vectors: Tensor, event_types: Tensor, gap_buckets: Tensor, mask: Tensor, activity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embed users.

        Args:
            item_vectors: float32 `(b, t, dim)`, vectors of the items in the history, oldest first.
            event_types: int64 `(b, t)`.
            gap_buckets: int64 `(b, t)`, bucket of the time between the event and the request.
            mask: float32 `(b, t)`, 1 for an event and 0 for padding.
            activity: float32 `(b, a)`, see `pipelines.features.activity`.

        Returns:
            User vectors, float32 `(b, dim)`, each row L2 norm 1; attention α, float32 `(b, t)`, rows sum to 1.
        """
        states = item_vectors + self.event_type(event_types) + self.gap(gap_buckets)
        mixed = self.block(self.down(states), mask)
        # w · (z + U m) = w · z + (w U) · m, and Σ α (z + U m) = Σ α z + U Σ α m: U maps one vector, not one an event.
        pool = self.pool(states) + mixed @ (self.pool.weight @ self.up.weight).T
        logits = (pool + self.gap_bias(gap_buckets)).squeeze(-1) + (1.0 - mask) * -1e4
        attention = logits.float().softmax(-1)
        weights = attention.unsqueeze(1).to(states.dtype)
        pooled = (weights @ states + self.up(weights @ mixed)).squeeze(1) + self.activity(activity)
        return nn.functional.normalize(pooled.float(), dim=-1), attention
