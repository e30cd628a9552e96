"""First half of the fine-tuning: the encoder learns which query belongs to which item text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipelines.config import TrainingConfig
from pipelines.model.encoder import SentenceEncoder, tokenize
from pipelines.model.losses import sampled_softmax_loss
from pipelines.progress import Progress
from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.checkpoints import (
    copied_weights,
    learning_weights,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
)
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.divergence import DivergenceWatch, refuse_broken_weights, start_batches
from pipelines.training.encoder_weights import choose_weights
from pipelines.training.lora import merge_adapters
from pipelines.training.precision import MixedPrecision
from pipelines.training.rivals import Rivals, RivalSource
from pipelines.training.schedule import warmup_then_linear
from pipelines.training.updates import Updater, micro_batches, refuse_small_parts

PairSource = Callable[[int, np.random.Generator], tuple[list[str], np.ndarray]]
"""Draws `n` queries and the row numbers of their items."""
Quality = Callable[[SentenceEncoder], float]
"""Measures an encoder: the higher, the better."""
_TOGETHER = 32
"""Texts that are padded to one length."""
_ADVICE = "Lower `training.encoder_learning_rate` or raise `training.frozen_layers`, then train again."


@dataclass
class EncoderFit:
    """How a tuning went."""

    losses: dict[int, float] = field(default_factory=dict)
    """Training loss by step."""
    quality: dict[int, float] = field(default_factory=dict)
    """Quality on what it did not learn from, by step; 0 is the encoder as it was."""
    best_step: int = 0
    """The step whose weights stayed."""


def tune_encoder(
    encoder: SentenceEncoder,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    *,
    config: TrainingConfig,
    checkpoint: Path,
    progress: Progress,
    pairs: PairSource | None = None,
    rivals: RivalSource | None = None,
    quality: Quality | None = None,
    group: TrainingGroup = ALONE,
) -> EncoderFit:
    """Tune the encoder on (query, item) pairs; the other items of a (micro-)batch are the negatives.

    Every random choice of a step depends on the seed and the step alone, so a run that was killed and goes on from
    its checkpoint ends with the same weights. Dropout aside, so does one that several processes shared.

    Args:
        checkpoint: File that is written every `validate_every` steps and read at the start.
        pairs: Where pairs come from; queries made from the catalogue by default.
        rivals: Where hard negatives come from; none by default.
        quality: Measures the encoder at the start and every `validate_every` steps; the best weights stay, those at
            the start where no step made it better. None keeps the last ones.
        group: The processes that share each batch.

    Raises:
        ConfigError: the batch is too small for its parts, or no weight would learn.
        DataError: the checkpoint belongs to another model.
        DivergenceError: the loss is no number, or worse than at the start.
    """
    if config.encoder_tuning == "frozen" or not config.encoder_steps:
        return EncoderFit()
    refuse_small_parts("encoder_batch", config.encoder_batch, config.accumulate_steps, group)
    precision = MixedPrecision(config.precision, next(encoder.parameters()).device)
    weights = choose_weights(encoder, config)
    optimizer = torch.optim.AdamW(
        [{"params": weights, "peak": config.encoder_learning_rate}], lr=config.encoder_learning_rate, weight_decay=0.01
    )
    updater = Updater(optimizer, precision, group)
    batches = _Batches(encoder, tokenizer, catalog, pairs or _made_up(catalog), rivals, config, precision, group)
    fit = EncoderFit()
    at_start: list[float] = []
    start = 0
    if state := load_checkpoint(checkpoint):
        restore_weights(encoder, state["weights"], checkpoint)
        updater.load(state, checkpoint)
        start, at_start = state["step"], list(state["at_start"])
        fit = EncoderFit(dict(state["losses"]), dict(state["quality"]), state["best_step"])
    group.agree(start, "the step that they go on from")
    best = copied_weights(state["best"] if state else learning_weights(encoder))
    if quality and not start:
        fit.quality[0] = group.from_main(partial(quality, encoder))
    encoder.train()
    if not start:
        at_start = [updater.measure(batches.losses(step)) for step in start_batches(config.encoder_steps)]
    watch = DivergenceWatch("The tuning of the encoder", _ADVICE, at_start)
    for value in fit.losses.values():
        watch.observe(value)
    for step in range(start, config.encoder_steps):
        rate = warmup_then_linear(step, config.encoder_steps, config.warmup_share)
        loss = fit.losses[step + 1] = updater.update(batches.losses(step), rate)
        watch.observe(loss)
        measured = f", validation {list(fit.quality.values())[-1]:.4f}" if fit.quality else ""
        progress.update("encoder steps", step + 1, config.encoder_steps, f"loss {loss:.3f}{measured}")
        if (step + 1) % config.validate_every and step + 1 < config.encoder_steps:
            continue
        if quality:
            fit.quality[step + 1] = group.from_main(partial(quality, encoder))
        if not quality or fit.quality[step + 1] > fit.quality[fit.best_step]:
            best, fit.best_step = copied_weights(learning_weights(encoder)), step + 1
        if group.is_main:
            save_checkpoint(checkpoint, {**_state(encoder, best, step + 1, fit, at_start), **updater.state()})
    restore_weights(encoder, best, checkpoint)
    group.copy_from_main(encoder)
    merge_adapters(encoder)
    refuse_broken_weights(encoder, "The tuning of the encoder")
    encoder.eval()
    return fit


def _state(
    encoder: SentenceEncoder, best: dict[str, Tensor], step: int, fit: EncoderFit, at_start: list[float]
) -> dict[str, Any]:
    return {
        "weights": learning_weights(encoder),
        "best": best,
        "step": step,
        "losses": fit.losses,
        "quality": fit.quality,
        "best_step": fit.best_step,
        "at_start": at_start,
    }


@dataclass(frozen=True)
class _Batches:
    """Draws the batch of a step, and computes the losses of this process's share of it."""

    encoder: SentenceEncoder
    tokenizer: PreTrainedTokenizerBase
    catalog: Catalog
    draw: PairSource
    rivals: RivalSource | None
    config: TrainingConfig
    precision: MixedPrecision
    group: TrainingGroup

    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield one loss a micro-batch; over all micro-batches and processes they add up to the mean over the pairs."""
        rng = np.random.default_rng([self.config.seed, 1, step])
        noise = int(rng.integers(0, 2**31))
        queries, rows = self.draw(self.config.encoder_batch, rng)
        for number, part in enumerate(micro_batches(len(rows), self.config.accumulate_steps)):
            rivals = self._rivals(queries[part], rows[part], rng)
            torch.manual_seed(noise + number * self.group.size + self.group.rank)  # dropout
            yield self._loss(queries[part], rows[part], rivals) / len(rows)

    def _rivals(self, queries: list[str], rows: np.ndarray, rng: np.random.Generator) -> Rivals:
        if self.rivals is not None:
            return self.rivals(queries, rows, rng)
        return Rivals.none(len(rows))

    def _loss(self, queries: list[str], rows: np.ndarray, rivals: Rivals) -> Tensor:
        """Return the summed loss of this process's share of a micro-batch; the items of all shares are negatives."""
        texts = [self.catalog.texts[row] for row in np.concatenate([rows, rivals.rows])]
        own = self.group.share(len(rows))
        anchors, positives = self._embed(queries[own]), self._embed(texts[: len(rows)][own])
        negatives = self.group.gather(positives, len(rows))
        if len(rivals.rows) >= self.group.size:
            share = self.group.share(len(rivals.rows))
            hard = self._embed(texts[len(rows) :][share])
            negatives = torch.cat([negatives, self.group.gather(hard, len(rivals.rows))])
        no_negatives = _same_text(texts, len(rows)) | torch.from_numpy(rivals.answers)
        loss = sampled_softmax_loss(
            anchors,
            positives,
            negatives,
            temperature=self.config.temperature,
            accidental=no_negatives[own, : len(negatives)].to(positives.device),
        )
        return loss * len(anchors)

    def _embed(self, texts: list[str]) -> Tensor:
        """Return float32 `(n, dim)`; texts of similar length go through together, so that little is padding."""
        device = next(self.encoder.parameters()).device
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        parts = []
        for start in range(0, len(order), _TOGETHER):
            part = [texts[place] for place in order[start : start + _TOGETHER]]
            ids, mask = tokenize(self.tokenizer, part, self.config.max_tokens)
            with self.precision.forward_pass():
                parts.append(self.encoder(ids.to(device), mask.to(device)))
        return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]


def _made_up(catalog: Catalog) -> PairSource:
    return lambda n, rng: catalog_pairs(catalog, n, rng)


def _same_text(texts: list[str], n: int) -> Tensor:
    """Return bool `(n, len(texts))`: true where an item reads like one of the first `n`, the item itself included."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    column = torch.tensor([numbers[text] for text in texts])
    return column[:n].unsqueeze(1) == column.unsqueeze(0)
