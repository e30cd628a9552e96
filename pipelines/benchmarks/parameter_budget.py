"""How wide two item towers may be so that together they have as many parameters as one.

What a tower knows of behavior is most of it: a row of `width` numbers for each item and the projection from there.
The rest, the layers over text and structured fields, both towers need in full, so `width` is what pays for the second.
"""

import math
from dataclasses import dataclass

from torch import nn

from pipelines.model.item_tower import ItemTower
from pipelines.training.catalog import Catalog
from pipelines.training.objectives import Objective

LEAST_WIDTH = 8
"""Behavior width below which a tower is not worth comparing."""


@dataclass(frozen=True)
class Widths:
    """`behavior_dim` of item towers that cost the same."""

    joint: int
    """Of the one tower that serves both tasks."""
    apart: int
    """Of the two towers together, at least twice `LEAST_WIDTH`."""

    @property
    def halves(self) -> tuple[int, int]:
        """Of the towers for recommendation and for search; an odd one goes to recommendation."""
        return self.apart - self.apart // 2, self.apart // 2

    @property
    def uneven(self) -> tuple[int, int]:
        """The same where search has the least: what a query finds depends on the text above all."""
        return self.apart - LEAST_WIDTH, LEAST_WIDTH


def equal_widths(wanted: int, catalog: Catalog, dim: int) -> Widths:
    """Return widths with which two towers have at most as many parameters as one, less than one width fewer.

    In a small catalogue the layers over text outweigh the behavior: there the one tower is made wider than `wanted`,
    until two with `LEAST_WIDTH` cost as much.

    Args:
        wanted: Width of the one tower.
        dim: Of the text embeddings.
    """
    of_width = item_parameters(catalog, dim, 2) - item_parameters(catalog, dim, 1)
    fixed = item_parameters(catalog, dim, 1) - of_width
    joint = max(wanted, 2 * LEAST_WIDTH + math.ceil(fixed / of_width))
    return Widths(joint=joint, apart=(joint * of_width - fixed) // of_width)


def item_parameters(catalog: Catalog, dim: int, width: int) -> int:
    """Return the number of parameters of an item tower."""
    return _count(ItemTower(dim, len(catalog), len(catalog.category_names), len(catalog.brand_names), width))


def learning_parameters(item: nn.Module, user: nn.Module, objective: Objective) -> int:
    """Return how many parameters an objective changes: `search` leaves the user tower as it is."""
    return _count(item) + (0 if objective == "search" else _count(user))


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
