"""The item tower: text, structured fields and behaviour fused into one vector.

    v_i = norm( t_i + W t_i + S [category_i ; brand_i ; price_i] + I m_i + g_i · P e_i )

t_i is the encoder's text embedding, m_i the image encoder's vector of a picture (0 where there is none), e_i an
embedding learnt from behaviour. W, S and I start at zero and P near it, so the untrained tower returns the text
embedding, and a query that is near a text stays near its item.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

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
    image: Tensor | None = None
    """float32 `(n, image_dim)`, each row L2 norm 1, or 0 where there is no picture; None where no item has one."""

    def rows(self, index: Tensor) -> "ItemInputs":
        """Return the items at `index`, int64 `(m,)`."""
        return self._each(lambda value: value[index])

    def to(self, device: torch.device) -> "ItemInputs":
        """Return the same inputs on `device`."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ItemInputs":
        values = (getattr(self, field.name) for field in fields(self))
        return ItemInputs(*(None if value is None else change(value) for value in values))


class ItemTower(nn.Module):
    """Turns `ItemInputs` into item vectors."""

    def __init__(
        self, dim: int, n_items: int, n_categories: int, n_brands: int, behavior_dim: int, image_dim: int = 0
    ) -> None:
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
        self.image: nn.Linear | None = None
        if image_dim:
            # Without drawing random numbers: all other weights start as they would without pictures.
            self.image = nn.utils.skip_init(nn.Linear, image_dim, dim, bias=False)
            nn.init.zeros_(self.image.weight)

    def forward(self, items: Tensor, inputs: ItemInputs) -> Tensor:
        """Embed items.

        Args:
            items: int64 `(n,)`, row numbers in the behaviour table.
            inputs: What is known of these items, in the same order.

        Returns:
            float32 `(n, dim)`, each row L2 norm 1.
        """
        behavior = self.project(self.behavior(items))
        fused = self.described(inputs.text, inputs.category, inputs.brand, inputs.price, inputs.image)
        fused = fused + inputs.gate.unsqueeze(-1) * behavior
        return nn.functional.normalize(fused.float(), dim=-1)

    def described(
        self, text: Tensor, category: Tensor, brand: Tensor, price: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Fuse text, structured fields and picture, for all that is known of an item nobody has touched.

        Returns:
            float32 `(n, dim)`, of any length.
        """
        structured = torch.cat([self.category(category), self.brand(brand), price.unsqueeze(-1)], dim=-1)
        described: Tensor = text + self.text(text) + self.structured(structured)
        if self.image is not None and image is not None:
            described = described + self.image(image)
        return described


def behavior_gate(event_counts: Tensor, half_count: float) -> Tensor:
    """Return how far behaviour is trusted: n / (n + half_count), so 0 for an untouched item.

    Args:
        event_counts: `(n,)`, training events per item.
    """
    return event_counts / (event_counts + half_count)
