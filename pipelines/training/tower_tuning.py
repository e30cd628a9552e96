"""Second half of the fine-tuning: the towers learn from behaviour, over text embeddings that stand still.

Two losses are added in each step: the next new items of a basket given the user's history, and an item given a query.
The second keeps item vectors where a query finds them.

What is popular changes from week to week, so validation ranks as the bundle will: by u · v and the latest popularity.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import BehaviorBatch, Preprocessing, behavior_batch
from pipelines.model.item_tower import ItemInputs
from pipelines.model.losses import sampled_softmax_loss
from pipelines.model.towers import Towers
from pipelines.progress import Progress
from pipelines.training.checkpoints import (
    copied_weights,
    learning_weights,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
)
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.divergence import DivergenceWatch, refuse_broken_weights, start_batches
from pipelines.training.early_stopping import EarlyStopping
from pipelines.training.negatives import NegativeSampler
from pipelines.training.objectives import tasks_of_step
from pipelines.training.precision import MixedPrecision
from pipelines.training.rows import Rows, learnable_rows
from pipelines.training.schedule import warmup_then_linear
from pipelines.training.updates import Updater, micro_batches, refuse_small_parts

_ADVICE = "Lower `training.tower_learning_rate` and `training.behavior_learning_rate`, then train again."
_EVAL_BATCH = 128
_OFFSET_SCALES = (0.0, 1.0, 2.0, 4.0)
"""Weights of popularity that validation tries: the fusion is fitted after the training."""


@dataclass(frozen=True)
class QueryPairs:
    """Queries with their items, embedded once because the encoder stands still."""

    vectors: np.ndarray
    """float32 `(n, dim)`, each row L2 norm 1."""
    items: np.ndarray
    """int64 `(n,)`, row numbers."""


@dataclass
class TuningResult:
    """How the tuning went."""

    losses: dict[int, float] = field(default_factory=dict)
    """Training loss by step."""
    recall: dict[int, float] = field(default_factory=dict)
    """Validation recall@10 of new items by step, or what else the training was told to validate with."""
    best_step: int = 0


def tune_towers(
    towers: Towers,
    items: ItemInputs,
    event_counts: np.ndarray,
    train: Rows,
    validation: Rows,
    query_pairs: QueryPairs,
    *,
    popularity: np.ndarray,
    config: TrainingConfig,
    preprocessing: Preprocessing,
    checkpoint: Path,
    progress: Progress,
    group: TrainingGroup = ALONE,
    quality: Callable[[], float] | None = None,
) -> TuningResult:
    """Train until the validation stops getting better; `towers` holds the best weights afterwards.

    Like `tune_encoder`, it goes on from its checkpoint and ends with the same weights as an undisturbed run, and with
    those of one process where several shared the work.

    Args:
        event_counts: float32 `(n_items,)`, behind the sampling of negatives.
        popularity: float32 `(n_items,)`, the latest popularity, which the validation ranks with.
        group: The processes that share each batch; the main one validates.
        quality: What decides which weights are kept, more is better; by default the recall@10 of new items, and of
            the objective `search` the reciprocal rank of the queries' items.

    Raises:
        ConfigError: the batch is too small for its parts.
        DataError: there is nothing to learn from, or the checkpoint belongs to other towers.
        DivergenceError: the loss is no number, or worse than at the start.
    """
    device = items.text.device
    refuse_small_parts("tower_batch", config.tower_batch, config.accumulate_steps, group)
    precision = MixedPrecision(config.precision, device)
    batches = _Batches(towers, items, train, query_pairs, event_counts, config, preprocessing, precision, group)
    latest = torch.from_numpy(log_popularity(popularity) * config.temperature).to(device)
    updater = _updater(towers, config, precision, group)
    result = TuningResult()
    best = copied_weights(towers.state_dict())
    start = 0

    def validate() -> float:
        if quality is not None:
            return group.from_main(quality)
        if config.objective == "search":
            return group.from_main(lambda: query_mrr(towers, items, query_pairs))
        return group.from_main(lambda: validation_recall(towers, items, validation, preprocessing, offsets=latest))

    if state := load_checkpoint(checkpoint):
        restore_weights(towers, state["weights"], checkpoint)
        updater.load(state, checkpoint)
        best, start = state["best"], state["step"]
        result = TuningResult(dict(state["losses"]), dict(state["recall"]), state["best_step"])
        at_start = list(state["at_start"])
    else:
        group.copy_from_main(towers)
        at_start = [updater.measure(batches.losses(step)) for step in start_batches(config.tower_steps)]
        result.recall[0] = validate()
    group.agree(start, "the step that they go on from")
    watch = DivergenceWatch("The tuning of the towers", _ADVICE, at_start)
    for value in result.losses.values():
        watch.observe(value)
    stopping = EarlyStopping.replayed(config.patience, result.recall.values())
    for step in range(start, config.tower_steps):
        if stopping.exhausted:
            break
        rate = warmup_then_linear(step, config.tower_steps, config.warmup_share)
        result.losses[step + 1] = updater.update(batches.losses(step), rate)
        watch.observe(result.losses[step + 1])
        note = f"loss {result.losses[step + 1]:.3f}"
        if (step + 1) % config.validate_every == 0 or step + 1 == config.tower_steps:
            result.recall[step + 1] = validate()
            if stopping.observe(result.recall[step + 1]):
                best, result.best_step = copied_weights(towers.state_dict()), step + 1
            note += f", validation {result.recall[step + 1]:.4f}"
            if group.is_main:
                save_checkpoint(
                    checkpoint, {**_state(towers, best, step + 1, result), "at_start": at_start, **updater.state()}
                )
        progress.update("tower steps", step + 1, config.tower_steps, note)
    towers.load_state_dict(best)
    group.copy_from_main(towers)
    refuse_broken_weights(towers, "The tuning of the towers")
    towers.eval()
    return result


def _updater(towers: Towers, config: TrainingConfig, precision: MixedPrecision, group: TrainingGroup) -> Updater:
    """Return AdamW over all weights: behaviour embeddings learn faster, are not decayed and not clipped."""
    behavior = [towers.item.behavior.weight]
    others = [value for name, value in towers.named_parameters() if name != "item.behavior.weight"]
    optimizer = torch.optim.AdamW(
        [
            {"params": behavior, "peak": config.behavior_learning_rate, "weight_decay": 0.0},
            {"params": others, "peak": config.tower_learning_rate, "weight_decay": 0.01},
        ],
        lr=config.tower_learning_rate,
    )
    return Updater(optimizer, precision, group, clipped=others)


def forget_events(mask: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Hide a random share of the events from the user tower, in place; a user keeps one at least.

    Args:
        mask: float32 `(b, t)`, 1 for an event and 0 for padding.
    """
    kept = mask * (rng.random(mask.shape) >= share)
    alive = kept.any(axis=1)
    mask[alive] = kept[alive]


def log_popularity(counts: np.ndarray) -> np.ndarray:
    """Return log(counts + 1/2), float32, so that an item without any stands behind, but can be reached."""
    return np.log(np.asarray(counts, np.float32) + np.float32(0.5))


def item_vectors(towers: Towers, items: ItemInputs, batch_size: int = 8_192) -> Tensor:
    """Return the vectors of all items, float32 `(n_items, dim)`, each row L2 norm 1."""
    towers.eval()
    parts = []
    with torch.inference_mode():
        for rows in torch.arange(len(items.text), device=items.text.device).split(batch_size):
            parts.append(towers.item(rows, items.rows(rows)))
    return torch.cat(parts)


def validation_recall(
    towers: Towers,
    items: ItemInputs,
    rows: Rows,
    preprocessing: Preprocessing,
    *,
    offsets: Tensor | None = None,
    k: int = 10,
    max_rows: int = 1_500,
) -> float:
    """Return recall@k of items new to the user, every item ranked, what the user has seen left out.

    recall@k = |top k ∩ targets| / |targets|, averaged over rows that have a target: at most
    `max_rows` of them, spread evenly.

    Args:
        offsets: float32 `(n_items,)`, added to the cosine of each item, with the best of a few weights.
    """
    wanted = [row for row in range(len(rows)) if len(rows.new_targets[row])]
    if len(wanted) > max_rows:
        wanted = [wanted[place] for place in np.linspace(0, len(wanted) - 1, max_rows).round().astype(int)]
    vectors = item_vectors(towers, items)
    hits: dict[float, list[float]] = {scale: [] for scale in (_OFFSET_SCALES if offsets is not None else (0.0,))}
    with torch.inference_mode():
        for start in range(0, len(wanted), _EVAL_BATCH):
            part = np.array(wanted[start : start + _EVAL_BATCH])
            cosines = user_vectors(towers, rows, part, vectors, preprocessing) @ vectors.T
            for place, row in enumerate(part):
                cosines[place, torch.from_numpy(rows.seen[row]).to(cosines.device)] = -torch.inf
            for scale, found in hits.items():
                scores = cosines if offsets is None else cosines + scale * offsets
                top = scores.topk(min(k, scores.shape[1])).indices.cpu().numpy()
                found += [
                    len(np.intersect1d(best, rows.new_targets[row])) / len(rows.new_targets[row])
                    for best, row in zip(top, part, strict=True)
                ]
    towers.train()
    return max(float(np.mean(found)) if found else 0.0 for found in hits.values())


def user_vectors(
    towers: Towers, rows: Rows, chosen: np.ndarray, vectors: Tensor, preprocessing: Preprocessing
) -> Tensor:
    """Embed the users of `chosen` rows over ready item vectors, float32 `(len(chosen), dim)`."""
    batch = behavior_batch([rows.histories[row] for row in chosen], rows.as_of_s[chosen], preprocessing)
    return _run_user_tower(towers, batch, vectors[torch.from_numpy(np.maximum(batch.item_rows, 0))], rows, chosen)


def _run_user_tower(towers: Towers, batch: Any, sequences: Tensor, rows: Rows, chosen: np.ndarray) -> Tensor:
    device = sequences.device
    mask = torch.from_numpy(batch.mask).to(device)
    users: Tensor = towers.user(
        sequences * mask.unsqueeze(-1),
        torch.from_numpy(batch.event_types).to(device),
        torch.from_numpy(batch.gap_buckets).to(device),
        mask,
        torch.from_numpy(rows.activity[chosen]).to(device),
    )[0]
    return users


@dataclass(frozen=True)
class _UserBatch:
    """The user rows of one step with every random choice made, so that any part of them can be worked on alone."""

    rows: np.ndarray
    """int64 `(b,)`, row numbers."""
    behavior: BehaviorBatch
    wanted: list[np.ndarray]
    """Items to predict, int64, at most `positives_per_row` of each row."""
    negatives: np.ndarray
    """int64 `(m,)`, shared by all rows."""

    @property
    def positives(self) -> int:
        """Return the number of items to predict."""
        return sum(map(len, self.wanted))

    def part(self, rows: slice) -> "_UserBatch":
        """Return neighboring rows of it."""
        behavior = BehaviorBatch(
            self.behavior.item_rows[rows],
            self.behavior.event_types[rows],
            self.behavior.gap_buckets[rows],
            self.behavior.mask[rows],
        )
        return _UserBatch(self.rows[rows], behavior, self.wanted[rows], self.negatives)


class _Batches:
    """Draws the batch of a step, and computes the losses of this process's share of it."""

    def __init__(
        self,
        towers: Towers,
        items: ItemInputs,
        train: Rows,
        pairs: QueryPairs,
        event_counts: np.ndarray,
        config: TrainingConfig,
        preprocessing: Preprocessing,
        precision: MixedPrecision,
        group: TrainingGroup,
    ) -> None:
        self._towers, self._items, self._train, self._pairs = towers, items, train, pairs
        self._config, self._preprocessing, self._precision, self._group = config, preprocessing, precision, group
        self._learnable = learnable_rows(train)
        self._sampler = NegativeSampler(event_counts, config.negatives)
        self._log_chances = torch.from_numpy(self._sampler.log_chances).to(items.text.device)

    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield one loss a micro-batch; over all micro-batches and processes they add up to that of the whole batch."""
        config = self._config
        rng = np.random.default_rng([config.seed, 2, step])
        tasks = tasks_of_step(config.objective, step)
        users = self._draw_users(rng)
        queries = rng.integers(0, len(self._pairs.items), config.tower_batch)
        for part in micro_batches(config.tower_batch, config.accumulate_steps):
            with self._precision.forward_pass():
                terms = []
                if "recommend" in tasks:
                    terms.append(self._user_loss(users.part(part), users.positives))
                if "search" in tasks:
                    terms.append(self._query_loss(queries[part]) / config.tower_batch)
                loss = torch.stack(terms).sum()
            yield loss

    def _draw_users(self, rng: np.random.Generator) -> _UserBatch:
        config, train = self._config, self._train
        rows = self._learnable[rng.integers(0, len(self._learnable), config.tower_batch)]
        behavior = behavior_batch([train.histories[row] for row in rows], train.as_of_s[rows], self._preprocessing)
        forget_events(behavior.mask, config.event_dropout, rng)
        wanted = [rng.permutation(train.new_targets[row])[: config.positives_per_row] for row in rows]
        return _UserBatch(rows, behavior, wanted, self._sampler.draw(rng))

    def _user_loss(self, batch: _UserBatch, positives_of_step: int) -> Tensor:
        """Return this process's share of the next-item loss of a micro-batch, relative to all positives of the step."""
        batch = batch.part(self._group.share(len(batch.rows)))
        towers, items = self._towers, self._items
        device = items.text.device
        distinct, places = np.unique(np.maximum(batch.behavior.item_rows, 0), return_inverse=True)
        sequence_items = torch.from_numpy(distinct).to(device)
        sequences = towers.item(sequence_items, items.rows(sequence_items))[
            torch.from_numpy(places.reshape(batch.behavior.item_rows.shape)).to(device)
        ]
        users = _run_user_tower(towers, batch.behavior, sequences, self._train, batch.rows)

        owners = np.repeat(np.arange(len(batch.rows)), [len(part) for part in batch.wanted])
        positives = np.concatenate(batch.wanted)
        both = torch.from_numpy(np.concatenate([positives, batch.negatives])).to(device)
        vectors = towers.item(both, items.rows(both))
        log_chances = self._log_chances[both]
        known = np.stack([np.isin(batch.negatives, self._train.targets[row]) for row in batch.rows])
        loss = sampled_softmax_loss(
            users[torch.from_numpy(owners).to(device)],
            vectors[: len(positives)],
            vectors[len(positives) :],
            temperature=self._config.temperature,
            positive_log_q=log_chances[: len(positives)],
            negative_log_q=log_chances[len(positives) :],
            accidental=torch.from_numpy(known[owners]).to(device),
        )
        return loss * (len(positives) / positives_of_step)

    def _query_loss(self, chosen: np.ndarray) -> Tensor:
        """Return the summed loss of this process's share of the queries; the items of all shares are negatives."""
        device = self._items.text.device
        own = self._group.share(len(chosen))
        rows = torch.from_numpy(self._pairs.items[chosen]).to(device)
        positives = self._towers.item(rows[own], self._items.rows(rows[own]))
        texts = self._items.text[rows]
        same = texts[own] @ texts.T > 1.0 - 1e-5  # equal text, so equally right
        loss = sampled_softmax_loss(
            torch.from_numpy(self._pairs.vectors[chosen[own]]).to(device),
            positives,
            self._group.gather(positives, len(chosen)),
            temperature=self._config.temperature,
            accidental=same,
        )
        return loss * len(positives)


def query_mrr(towers: Towers, items: ItemInputs, pairs: QueryPairs, *, max_pairs: int = 1_000) -> float:
    """Return the mean reciprocal rank of the queries' items, every item ranked.

    The pairs are those that are trained on: a catalogue without a search log has no others, and what stops the
    training is that they no longer get better.
    """
    chosen = np.linspace(0, len(pairs.items) - 1, min(max_pairs, len(pairs.items))).round().astype(int)
    vectors = item_vectors(towers, items)
    queries = torch.from_numpy(pairs.vectors[chosen]).to(vectors.device)
    wanted = torch.from_numpy(pairs.items[chosen]).to(vectors.device)
    with torch.inference_mode():
        scores = queries @ vectors.T
        own = scores.gather(1, wanted.unsqueeze(1))
        found = float((1.0 / (1 + (scores > own).sum(-1))).mean())
    towers.train()
    return found


def _state(towers: Towers, best: dict[str, Tensor], step: int, result: TuningResult) -> dict[str, Any]:
    return {
        "weights": learning_weights(towers),
        "best": best,
        "step": step,
        "losses": result.losses,
        "recall": result.recall,
        "best_step": result.best_step,
    }
