"""Layer pruning: an encoder with fewer transformer layers, which starts from those of the full one.

Source: Sanh et al., DistilBERT (https://arxiv.org/abs/1910.01108), starts from every second layer in the same way.
"""

import copy

import numpy as np
from torch import nn

from pipelines.errors import ConfigError
from pipelines.model.encoder import SentenceEncoder


def choose_layers(n_layers: int, keep: int) -> tuple[int, ...]:
    """Return which layers stay: the first, the last and others at even distances; one alone is the first.

    Raises:
        ConfigError: `keep` is not between 1 and `n_layers`.
    """
    if not 1 <= keep <= n_layers:
        raise ConfigError(f"{keep} layers are to stay of an encoder of {n_layers}: ask for 1 to {n_layers}.")
    return tuple(int(layer) for layer in np.linspace(0, n_layers - 1, keep).round())


def layer_count(encoder: SentenceEncoder) -> int:
    """Return the number of transformer layers."""
    return int(encoder.transformer.config.num_hidden_layers)


def prune_layers(encoder: SentenceEncoder, kept: tuple[int, ...]) -> SentenceEncoder:
    """Return a copy of the encoder with these layers and the same embeddings; the encoder stays as it is."""
    pruned = copy.deepcopy(encoder)
    pruned.requires_grad_(True)
    layers = _layers(pruned)
    pruned.transformer.encoder.layer = nn.ModuleList([layers[number] for number in kept])
    pruned.transformer.config.num_hidden_layers = len(kept)
    return pruned


def _layers(encoder: SentenceEncoder) -> nn.ModuleList:
    layers = getattr(getattr(encoder.transformer, "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"The layers of a {type(encoder.transformer).__name__} cannot be pruned, those of BERT-like encoders can: "
            "set `compression.query_tower` to a variant with all layers, or to `static`."
        )
    return layers
