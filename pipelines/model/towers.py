"""Item tower and user tower together: what is trained on behaviour and saved as one file."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.model.item_tower import ItemTower
from pipelines.model.user_tower import UserTower
from pipelines.stores.files import replacing_file


class Towers(nn.Module):
    """Both towers over one catalogue."""

    def __init__(
        self,
        *,
        dim: int,
        n_items: int,
        n_categories: int,
        n_brands: int,
        behavior_dim: int,
        n_event_types: int,
        n_gap_buckets: int,
        n_activity: int,
        image_dim: int = 0,
    ) -> None:
        super().__init__()
        self.item = ItemTower(dim, n_items, n_categories, n_brands, behavior_dim, image_dim)
        self.user = UserTower(dim, n_event_types, n_gap_buckets, n_activity)


def save_towers(path: Path, towers: Towers) -> None:
    """Write the weights as safetensors, whole or not at all."""
    with replacing_file(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in towers.state_dict().items()}, temporary)


def read_towers(path: Path) -> dict[str, Tensor]:
    """Read what `save_towers` wrote."""
    weights: dict[str, Tensor] = load_file(path)
    return weights


def carry_rows(target: Tensor, source: Tensor, names: Sequence[str], source_names: Sequence[str]) -> int:
    """Copy the rows of `source` into `target` by name, so that an embedding table can grow and shrink.

    Args:
        target: float32 `(len(names), d)`, changed in place; rows without a namesake stay as they are.
        source: float32 `(len(source_names), d)`.

    Returns:
        Number of rows copied.
    """
    places = {name: row for row, name in enumerate(source_names)}
    pairs = [(row, places[name]) for row, name in enumerate(names) if name in places]
    if pairs:
        rows, origins = (torch.tensor(column) for column in zip(*pairs, strict=True))
        with torch.no_grad():
            target[rows] = source[origins].to(target.dtype)
    return len(pairs)
