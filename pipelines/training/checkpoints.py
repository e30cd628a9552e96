"""Checkpoints that a restarted run picks up: whole or not there, and never unpickled."""

from pathlib import Path
from typing import Any

import torch

from pipelines.stores.files import replacing_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and texts."""
    with replacing_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, None where there is no checkpoint.

    `weights_only` refuses everything that could run code while it is read.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
