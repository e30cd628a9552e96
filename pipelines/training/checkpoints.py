"""Checkpoints that a restarted run picks up: whole or not there, and never unpickled."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.errors import DataError
from pipelines.stores.files import replacing_file

_ADVICE = "delete the file, then run `headrace finetune_model` again, which starts this part anew"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers and texts."""
    with replacing_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, None where there is no checkpoint.

    `weights_only` refuses everything that could run code while it is read.

    Raises:
        DataError: the file is something else.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"The checkpoint {path} cannot be read ({reason}): {_ADVICE}.") from None
    if not isinstance(state, dict) or "step" not in state:
        raise DataError(f"{path} is not one of our checkpoints: {_ADVICE}.")
    return state


def learning_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are trained, by name: all that a checkpoint needs of a network."""
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


def copied_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they are now: training goes on in the given ones."""
    return {name: value.detach().clone() for name, value in weights.items()}


def restore_weights(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy the trained weights of a checkpoint into the network that they were trained in.

    Raises:
        DataError: they belong to another architecture.
    """
    own = learning_weights(module)
    for name in sorted({*own, *weights}):
        found, wanted = (tuple(part[name].shape) if name in part else None for part in (weights, own))
        if found != wanted:
            raise DataError(
                f"The checkpoint {source} is from another architecture: its `{name}` has shape {found}, {wanted} is "
                f"needed (None: there is no such weight): {_ADVICE}."
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
