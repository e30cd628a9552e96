"""Second half of the fine-tuning: the towers learn from behaviour, over text embeddings that stand still.

Two losses are added in each step: the next new items of a basket given the user's history, and an item given a query.
The second keeps item vectors where a query finds them.

What is popular changes from week to week, so validation ranks as the bundle will: by u · v and the latest popularity.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.config import TrainingConfig
from pipelines.inference.preprocessing import Preprocessing, behavior_batch
from pipelines.model.item_tower import ItemInputs
from pipelines.model.losses import sampled_softmax_loss
from pipelines.model.towers import Towers
from pipelines.progress import Progress
from pipelines.training.checkpoints import load_checkpoint, save_checkpoint
from pipelines.training.early_stopping import EarlyStopping
from pipelines.training.negatives import NegativeSampler
from pipelines.training.rows import Rows
from pipelines.training.schedule import mixed_precision, warmup_then_linear

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
    """Validation recall@10 of new items by step."""
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
) -> TuningResult:
    """Train until the validation recall stops rising; `towers` holds the best weights afterwards.

    Like `tune_encoder`, it goes on from its checkpoint and ends with the same weights as an undisturbed run.

    Args:
        event_counts: float32 `(n_items,)`, behind the sampling of negatives.
        popularity: float32 `(n_items,)`, the latest popularity, which the validation ranks with.
    """
    device = items.text.device
    behavior = [towers.item.behavior.weight]
    others = [value for name, value in towers.named_parameters() if name != "item.behavior.weight"]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": behavior,
                "peak": config.behavior_learning_rate,
                "weight_decay": 0.0,
            },
            {"params": others, "peak": config.tower_learning_rate, "weight_decay": 0.01},
        ],
        lr=config.tower_learning_rate,
    )
    sampler = NegativeSampler(event_counts, config.negatives)
    latest = torch.from_numpy(log_popularity(popularity) * config.temperature).to(device)
    usable = np.array(
        [row for row in range(len(train)) if len(train.new_targets[row]) and len(train.histories[row][0])]
    )
    result = TuningResult()
    stopping = EarlyStopping(config.patience)
    best = {name: value.detach().clone() for name, value in towers.state_dict().items()}
    start = 0
    if state := load_checkpoint(checkpoint):
        towers.load_state_dict(state["towers"])
        optimizer.load_state_dict(state["optimizer"])
        best, start = state["best"], state["step"]
        result = TuningResult(dict(state["losses"]), dict(state["recall"]), state["best_step"])
        stopping = EarlyStopping.replayed(config.patience, list(result.recall.values()))
    else:
        result.recall[0] = validation_recall(towers, items, validation, preprocessing, offsets=latest)
        stopping.observe(result.recall[0])
    for step in range(start, config.tower_steps):
        if stopping.exhausted or not len(usable):
            break
        rng = np.random.default_rng([config.seed, 2, step])
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * warmup_then_linear(step, config.tower_steps, config.warmup_share)
        chosen = usable[rng.integers(0, len(usable), config.tower_batch)]
        with mixed_precision(device):
            loss = _next_item_loss(towers, items, train, chosen, sampler, rng, config, preprocessing)
            loss = loss + _query_loss(towers, items, query_pairs, rng, config)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        optimizer.step()
        result.losses[step + 1] = float(loss.detach())
        note = f"loss {result.losses[step + 1]:.3f}"
        if (step + 1) % config.validate_every == 0 or step + 1 == config.tower_steps:
            recall = validation_recall(towers, items, validation, preprocessing, offsets=latest)
            result.recall[step + 1] = recall
            if stopping.observe(recall):
                best = {name: value.detach().clone() for name, value in towers.state_dict().items()}
                result.best_step = step + 1
            note += f", validation recall@10 {recall:.4f}"
            save_checkpoint(checkpoint, _state(towers, optimizer, best, step + 1, result))
        progress.update("tower steps", step + 1, config.tower_steps, note)
    towers.load_state_dict(best)
    towers.eval()
    return result


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


def _next_item_loss(
    towers: Towers,
    items: ItemInputs,
    rows: Rows,
    chosen: np.ndarray,
    sampler: NegativeSampler,
    rng: np.random.Generator,
    config: TrainingConfig,
    preprocessing: Preprocessing,
) -> Tensor:
    device = items.text.device
    batch = behavior_batch([rows.histories[row] for row in chosen], rows.as_of_s[chosen], preprocessing)
    forget_events(batch.mask, config.event_dropout, rng)
    distinct, places = np.unique(np.maximum(batch.item_rows, 0), return_inverse=True)
    sequence_items = torch.from_numpy(distinct).to(device)
    sequences = towers.item(sequence_items, items.rows(sequence_items))[
        torch.from_numpy(places.reshape(batch.item_rows.shape)).to(device)
    ]
    users = _run_user_tower(towers, batch, sequences, rows, chosen)

    wanted = [rng.permutation(rows.new_targets[row])[: config.positives_per_row] for row in chosen]
    owners = np.repeat(np.arange(len(chosen)), [len(part) for part in wanted])
    positives = np.concatenate(wanted)
    negatives = sampler.draw(rng)
    both = torch.from_numpy(np.concatenate([positives, negatives])).to(device)
    vectors = towers.item(both, items.rows(both))
    log_chances = torch.from_numpy(sampler.log_chances).to(device)[both]
    known = np.stack([np.isin(negatives, rows.targets[row]) for row in chosen])
    return sampled_softmax_loss(
        users[torch.from_numpy(owners).to(device)],
        vectors[: len(positives)],
        vectors[len(positives) :],
        temperature=config.temperature,
        positive_log_q=log_chances[: len(positives)],
        negative_log_q=log_chances[len(positives) :],
        accidental=torch.from_numpy(known[owners]).to(device),
    )


def _query_loss(
    towers: Towers, items: ItemInputs, pairs: QueryPairs, rng: np.random.Generator, config: TrainingConfig
) -> Tensor:
    device = items.text.device
    chosen = rng.integers(0, len(pairs.items), config.tower_batch)
    rows = torch.from_numpy(pairs.items[chosen]).to(device)
    vectors = towers.item(rows, items.rows(rows))
    texts = items.text[rows]
    same = texts @ texts.T > 1.0 - 1e-5  # equal text, so equally right
    return sampled_softmax_loss(
        torch.from_numpy(pairs.vectors[chosen]).to(device),
        vectors,
        vectors,
        temperature=config.temperature,
        accidental=same,
    )


def _state(
    towers: Towers, optimizer: torch.optim.Optimizer, best: dict[str, Tensor], step: int, result: TuningResult
) -> dict[str, Any]:
    return {
        "towers": towers.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best,
        "step": step,
        "losses": result.losses,
        "recall": result.recall,
        "best_step": result.best_step,
    }
