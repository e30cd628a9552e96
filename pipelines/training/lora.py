"""Low-rank adapters: the encoder's own weights stand still, and a small product of two matrices beside each learns.

    W' = W + (α / r) · B A,   A (r, in),  B (out, r) starts at zero

Merged before anything is saved, so that everything downstream sees an ordinary encoder.

Source: LoRA (https://arxiv.org/abs/2106.09685), as peft implements it.
"""

import torch

from pipelines.errors import ConfigError
from pipelines.model.encoder import SentenceEncoder

_SCALE = 2.0
"""α / r."""


def add_adapters(encoder: SentenceEncoder, rank: int, seed: int) -> None:
    """Put an adapter beside every linear layer; nothing else of the encoder learns from then on.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        from peft import LoraConfig, LoraModel  # nine seconds, so only where it is asked for
    except ImportError:
        raise ConfigError(
            "`training.encoder_tuning` is lora, which needs peft: run `pip install -c constraints.txt "
            "'headrace[lora]'`, or choose top_layers, full or frozen."
        ) from None
    torch.manual_seed(seed)
    adapters = LoraConfig(r=rank, lora_alpha=round(_SCALE * rank), target_modules="all-linear")
    encoder.transformer = LoraModel(encoder.transformer, adapters, "default")


def merge_adapters(encoder: SentenceEncoder) -> None:
    """Add the adapters to the weights and remove them; without any, change nothing."""
    if hasattr(encoder.transformer, "merge_and_unload"):
        encoder.transformer = encoder.transformer.merge_and_unload()
