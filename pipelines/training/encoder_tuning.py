"""First half of the fine-tuning: the encoder learns which query belongs to which item text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from pipelines.config import TrainingConfig
from pipelines.model.encoder import SentenceEncoder, tokenize
from pipelines.model.losses import sampled_softmax_loss
from pipelines.progress import Progress
from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.checkpoints import load_checkpoint, save_checkpoint
from pipelines.training.schedule import mixed_precision, warmup_then_linear

PairSource = Callable[[int, np.random.Generator], tuple[list[str], np.ndarray]]
"""Draws `n` queries and the row numbers of their items."""


def tune_encoder(
    encoder: SentenceEncoder,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    *,
    config: TrainingConfig,
    checkpoint: Path,
    progress: Progress,
    pairs: PairSource | None = None,
) -> dict[int, float]:
    """Tune the upper layers on (query, item) pairs; the other items of a batch are the negatives.

    Every random choice of a step depends on the seed and the step alone, so a run that was killed and goes on from
    its checkpoint ends with the same weights.

    Args:
        checkpoint: File that is written every `validate_every` steps and read at the start.
        pairs: Where pairs come from; queries made from the catalogue by default.

    Returns:
        Training loss by step.
    """
    draw = pairs or (lambda n, rng: catalog_pairs(catalog, n, rng))
    device = next(encoder.parameters()).device
    encoder.freeze_layers(config.frozen_layers)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.encoder_learning_rate, weight_decay=0.01)
    losses: dict[int, float] = {}
    start = 0
    if state := load_checkpoint(checkpoint):
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        start, losses = state["step"], dict(state["losses"])
    encoder.train()
    for step in range(start, config.encoder_steps):
        rng = np.random.default_rng([config.seed, 1, step])
        torch.manual_seed(int(rng.integers(0, 2**31)))
        for group in optimizer.param_groups:
            group["lr"] = config.encoder_learning_rate * warmup_then_linear(
                step, config.encoder_steps, config.warmup_share
            )
        queries, rows = draw(config.encoder_batch, rng)
        texts = [catalog.texts[row] for row in rows]
        with mixed_precision(device):
            anchors = _embed(encoder, tokenizer, queries, config, device)
            positives = _embed(encoder, tokenizer, texts, config, device)
        loss = sampled_softmax_loss(
            anchors, positives, positives, temperature=config.temperature, accidental=_same_text(texts).to(device)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses[step + 1] = float(loss.detach())
        progress.update("encoder steps", step + 1, config.encoder_steps, f"loss {losses[step + 1]:.3f}")
        if (step + 1) % config.validate_every == 0 or step + 1 == config.encoder_steps:
            save_checkpoint(checkpoint, _state(encoder, optimizer, step + 1, losses))
    encoder.eval()
    return losses


def _embed(
    encoder: SentenceEncoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    config: TrainingConfig,
    device: torch.device,
) -> torch.Tensor:
    ids, mask = tokenize(tokenizer, texts, config.max_tokens)
    vectors: torch.Tensor = encoder(ids.to(device), mask.to(device))
    return vectors


def _same_text(texts: list[str]) -> torch.Tensor:
    """Return bool `(n, n)`: true where two items read the same, the item itself included."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    column = torch.tensor([numbers[text] for text in texts])
    return column.unsqueeze(0) == column.unsqueeze(1)


def _state(
    encoder: SentenceEncoder, optimizer: torch.optim.Optimizer, step: int, losses: dict[int, float]
) -> dict[str, Any]:
    return {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "losses": losses}
