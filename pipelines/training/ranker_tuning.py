"""Learning the ranker: lists of candidates, and which of them the user took."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config import RankerConfig
from pipelines.evaluation.paired_gain import mean_of_parts
from pipelines.model.ranker import HEADS, Ranker
from pipelines.progress import Progress
from pipelines.training.ranker_epochs import run_epochs
from pipelines.training.ranker_rows import RankerRows

_STANDARDIZED_ROWS = 200_000
_WEIGHT_DECAY = 1e-4
_K = 10
_FAR = -1e9
ScoreList = Callable[[np.ndarray], np.ndarray]


@dataclass
class RankerFit:
    """A learned ranker and how it went."""

    ranker: Ranker
    heads: tuple[str, ...]
    """Heads that had something to learn; the other outputs mean nothing."""
    losses: dict[int, float]
    """Mean training loss by epoch."""
    holdout_ndcg: dict[int, float]
    """NDCG@10 of the users held out, by epoch: the mean of items new to the user and of whole baskets."""
    best_epoch: int


def fit_ranker(rows: RankerRows, *, config: RankerConfig, seed: int, progress: Progress) -> RankerFit:
    """Learn to put what was taken before what was not; the best epoch on held-out users stays.

        loss = listwise(all candidates) + listwise(candidates new to the user) + calibration · BCE,   for each head

    The listwise loss is −mean over the taken items of log softmax over the list. The second list keeps repeats, which
    are most of what is taken in some shops, from drowning the order of what is new.

    Source: ListNet's top-one loss, https://doi.org/10.1145/1273496.1273513.
    """
    torch.manual_seed(seed)
    ranker = Ranker(rows.features.shape[1], config.width)
    rng = np.random.default_rng([seed, 5])
    sample = rng.permutation(len(rows.features))[:_STANDARDIZED_ROWS]
    ranker.standardize(torch.from_numpy(rows.features[np.sort(sample)].astype(np.float32)))
    heads = tuple(name for name, label in zip(HEADS, (rows.clicked, rows.purchased), strict=True) if label.any())
    held_out = _held_out(rows.users, config.holdout_share, seed)
    train = np.flatnonzero(~held_out & rows.useful())
    score = scorer_of(ranker, heads, config)
    passes = -(-config.min_steps // max(1, -(-len(train) // config.batch)))
    went = run_epochs(
        ranker,
        train,
        loss_of=lambda lists: _loss(ranker, rows, lists, heads, config),
        quality=lambda: holdout_ndcg(rows, np.flatnonzero(held_out), score),
        config=config.model_copy(update={"epochs": max(config.epochs, passes if len(train) else 0)}),
        weight_decay=_WEIGHT_DECAY,
        rng=rng,
        stage="ranker steps",
        progress=progress,
    )
    return RankerFit(ranker, heads, went.losses, went.quality, went.best_epoch)


def head_weights(heads: tuple[str, ...], config: RankerConfig) -> dict[str, float]:
    """Return the weight of each head in the score: heads that learned nothing have none."""
    if heads == ("click",):
        return {"click": 1.0}
    return {name: {"click": config.click_weight, "purchase": 1.0}[name] for name in heads}


def scorer_of(ranker: Ranker, heads: tuple[str, ...], config: RankerConfig) -> ScoreList:
    """Return a function from features float16 `(c, n_features)` to scores float32 `(c,)`."""
    weights = head_weights(heads, config)
    vector = torch.tensor([weights.get(name, 0.0) for name in HEADS])

    def score(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores: np.ndarray = (ranker(torch.from_numpy(features.astype(np.float32))) @ vector).numpy()
        return scores

    return score


def held_out_users(rows: RankerRows, config: RankerConfig, seed: int) -> np.ndarray:
    """Return int64: the lists of the users that choose the epoch."""
    return np.flatnonzero(_held_out(rows.users, config.holdout_share, seed))


def holdout_ndcg(rows: RankerRows, lists: np.ndarray, score: ScoreList) -> float:
    """Return NDCG@10 over lists, in [0, 1]: the mean of new items and of whole baskets, where there are any."""
    return mean_of_parts(holdout_values(rows, lists, score))


def holdout_values(rows: RankerRows, lists: np.ndarray, score: ScoreList) -> np.ndarray:
    """Return NDCG@10 of each list, float64 `(2, n)`: of its new items (seen ones left out), and of its whole basket.

    Purchases count, and new ones that are no candidates count as missed; where no candidate of any row was purchased,
    clicked candidates count instead. NaN where there is nothing to find.
    """
    has_purchases = bool(rows.purchased.any())
    label = rows.purchased if has_purchases else rows.clicked
    values = np.full((2, len(lists)), np.nan)
    for place, index in enumerate(lists):
        part = slice(rows.offsets[index], rows.offsets[index + 1])
        taken, unseen = label[part], rows.new[part]
        n_new = int(rows.n_targets[index]) if has_purchases else int(np.count_nonzero(taken & unseen))
        n_whole = n_new + int(np.count_nonzero(taken & ~unseen))
        if n_whole == 0:
            continue
        scores = score(rows.features[part])
        values[1, place] = _ndcg(scores, taken, n_whole)
        if n_new:
            values[0, place] = _ndcg(scores[unseen], taken[unseen], n_new)
    return values


def _ndcg(scores: np.ndarray, taken: np.ndarray, n_targets: int) -> float:
    order = np.argsort(-scores, kind="stable")[:_K]
    discounts = 1 / np.log2(np.arange(_K) + 2)
    return float(discounts[: len(order)][taken[order]].sum() / discounts[: min(n_targets, _K)].sum())


def _held_out(users: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return bool `(n,)`, true for the lists of a random share of the users."""
    n_users = int(users.max(initial=-1)) + 1
    chosen = np.random.default_rng([seed, 6]).permutation(n_users)[: max(1, round(share * n_users))]
    return np.isin(users, chosen)


def _loss(ranker: Ranker, rows: RankerRows, lists: np.ndarray, heads: tuple[str, ...], config: RankerConfig) -> Tensor:
    lengths = rows.offsets[lists + 1] - rows.offsets[lists]
    width = int(lengths.max())
    places = rows.offsets[lists][:, None] + np.arange(width)
    inside = torch.from_numpy(np.arange(width) < lengths[:, None])
    places = np.minimum(places, len(rows.features) - 1)
    logits = ranker(torch.from_numpy(rows.features[places].astype(np.float32)))
    new = torch.from_numpy(rows.new[places])
    total = logits.new_zeros(())
    for column, (name, label) in enumerate(zip(HEADS, (rows.clicked, rows.purchased), strict=True)):
        if name not in heads:
            continue
        taken = torch.from_numpy(label[places])
        scores = logits[..., column]
        total = (
            total + _listwise(scores, taken & inside, inside) + _listwise(scores, taken & new & inside, inside & new)
        )
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, taken.float(), reduction="none")
        total = total + config.calibration * (losses * inside).sum() / inside.sum().clamp_min(1)
    return total


def _listwise(scores: Tensor, taken: Tensor, inside: Tensor) -> Tensor:
    """Return the mean over lists with a taken item of −mean over its taken items of log softmax."""
    logs = scores.masked_fill(~inside, _FAR).log_softmax(-1)
    counts = taken.sum(-1)
    losses = -(logs * taken).sum(-1) / counts.clamp_min(1)
    return losses.sum() / (counts > 0).sum().clamp_min(1)
