"""The item tower: text, structured fields and behaviour fused into one vector.

    v_i = norm( t_i + W t_i + S [category_i ; brand_i ; price_i] + g_i · P e_i )

t_i is the encoder's text embedding, e_i an embedding learnt from behaviour. W, S and P start at zero, so the
untrained tower returns the text embedding itself, and a query that is near a text stays near its item.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STRUCTURED_DIM = 32


@dataclass(frozen=True)
class ItemInputs:
    """What the tower knows of `n` items, as tensors on one device."""

    text: Tensor
    """float32 `(n, dim)`, each row L2 norm 1."""
    category: Tensor
    """int64 `(n,)`, 0 for unknown."""
    brand: Tensor
    """int64 `(n,)`, 0 for unknown."""
    price: Tensor
    """float32 `(n,)`, standardised log price, 0 where there is none."""
    gate: Tensor
    """float32 `(n,)` in [0, 1), 0 for an item nobody has touched."""

    def rows(self, index: Tensor) -> "ItemInputs":
        """Return the items at `index`, int64 `(m,)`."""
        return ItemInputs(
            self.text[index], self.category[index], self.brand[index], self.price[index], self.gate[index]
        )

    def to(self, device: torch.device) -> "ItemInputs":
        """Return the same inputs on `device`."""
        return ItemInputs(
            *(value.to(device) for value in (self.text, self.category, self.brand, self.price, self.gate))
        )


class ItemTower(nn.Module):
    """Turns `ItemInputs` into item vectors."""

    def __init__(self, dim: int, n_items: int, n_categories: int, n_brands: int, behavior_dim: int) -> None:
        super().__init__()
        self.text = nn.Linear(dim, dim, bias=False)
        self.category = nn.Embedding(n_categories, STRUCTURED_DIM, padding_idx=0)
        self.brand = nn.Embedding(n_brands, STRUCTURED_DIM, padding_idx=0)
        self.structured = nn.Linear(2 * STRUCTURED_DIM + 1, dim, bias=False)
        self.behavior = nn.Embedding(n_items, behavior_dim)
        self.project = nn.Linear(behavior_dim, dim, bias=False)
        nn.init.zeros_(self.text.weight)
        nn.init.zeros_(self.structured.weight)
        nn.init.normal_(self.behavior.weight, std=behavior_dim**-0.5)
        nn.init.normal_(self.project.weight, std=0.1 * dim**-0.5)

    def forward(self, items: Tensor, inputs: ItemInputs) -> Tensor:
        """Embed items.

        Args:
            items: int64 `(n,)`, row numbers in the behaviour table.
            inputs: What is known of these items, in the same order.

        Returns:
            float32 `(n, dim)`, each row L2 norm 1.
        """
        behavior = self.project(self.behavior(items))
        fused = self.described(inputs.text, inputs.category, inputs.brand, inputs.price)
        fused = fused + inputs.gate.unsqueeze(-1) * behavior
        return nn.functional.normalize(fused.float(), dim=-1)

    def described(self, text: Tensor, category: Tensor, brand: Tensor, price: Tensor) -> Tensor:
        """Fuse text and structured fields, for all that is known of an item nobody has touched.

        Returns:
            float32 `(n, dim)`, of any length.
        """
        structured = torch.cat([self.category(category), self.brand(brand), price.unsqueeze(-1)], dim=-1)
        described: Tensor = text + self.text(text) + self.structured(structured)
        return described


def behavior_gate(event_counts: Tensor, half_count: float) -> Tensor:
    """Return how far behaviour is trusted: n / (n + half_count), so 0 for an untouched item.

    Args:
        event_counts: `(n,)`, training events per item.
    """
    return event_counts / (event_counts + half_count)
