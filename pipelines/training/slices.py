"""What a model knows of new and of old rows: the metrics in the receipt, before and after a run."""

import numpy as np
import torch

from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.item_tower import ItemInputs
from pipelines.model.towers import Towers
from pipelines.training.rows import Rows
from pipelines.training.tower_tuning import item_vectors, log_popularity, user_vectors

_BATCH = 128
POPULARITY_SCALES = (0.0, 1.0, 2.0, 4.0)
"""Weights of popularity beside the cosine that are tried, in units of the temperature."""


def row_metrics(
    towers: Towers,
    items: ItemInputs,
    rows: Rows,
    preprocessing: Preprocessing,
    *,
    popularity: np.ndarray,
    temperature: float,
    chosen: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
    k: int = 10,
) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Rank every item for each row; what the user had bought before is left out.

    recall@k = |top k ∩ new items| / |new items|; ndcg@k with gains of 0 and 1, over the best order of the new items.

    Args:
        popularity: float32 `(n_items,)`, purchases as known at the time.
        chosen: int64 `(n,)` rows to measure, each with a new item; None: all that have one.
        candidates: bool `(n_items,)`, the items that are ranked; None: all.

    Returns:
        Weight of popularity -> recall@k and ndcg@k of each chosen row, float64 `(n,)` each.
    """
    chosen = np.flatnonzero([len(new) > 0 for new in rows.new_targets]) if chosen is None else chosen
    towers.eval()
    vectors = item_vectors(towers, items)
    offsets = torch.from_numpy(log_popularity(popularity) * temperature).to(vectors.device)
    found: dict[float, list[tuple[float, float]]] = {scale: [] for scale in POPULARITY_SCALES}
    with torch.inference_mode():
        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            cosines = user_vectors(towers, rows, part, vectors, preprocessing) @ vectors.T
            if candidates is not None:
                cosines[:, torch.from_numpy(~candidates).to(cosines.device)] = -torch.inf
            for place, row in enumerate(part):
                cosines[place, torch.from_numpy(rows.seen[row]).to(cosines.device)] = -torch.inf
            for scale, values in found.items():
                top = (cosines + scale * offsets).topk(min(k, cosines.shape[1])).indices.cpu().numpy()
                values += [hit_metrics(best, rows.new_targets[row], k) for best, row in zip(top, part, strict=True)]
    towers.train()
    return {
        scale: (np.array([recall for recall, _ in values]), np.array([ndcg for _, ndcg in values]))
        for scale, values in found.items()
    }


def hit_metrics(top: np.ndarray, wanted: np.ndarray, k: int) -> tuple[float, float]:
    """Return recall@k and ndcg@k of one ranking.

    Args:
        top: int64 `(<=k,)`, items best first.
        wanted: int64 `(m,)`, distinct items, not empty.
    """
    hits = np.isin(top[:k], wanted)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    return float(hits.sum() / len(wanted)), float(
        (hits * discounts[: len(hits)]).sum() / discounts[: min(k, len(wanted))].sum()
    )


def slice_metrics(
    towers: Towers,
    items: ItemInputs,
    rows: Rows,
    preprocessing: Preprocessing,
    *,
    popularity: np.ndarray,
    temperature: float,
    max_rows: int = 1_500,
) -> dict[str, float]:
    """Return `rows`, `recall@10` and `ndcg@10` of a slice, with the weight of popularity that serves it best.

    Args:
        max_rows: Rows at most, spread evenly.
    """
    wanted = np.flatnonzero([len(new) > 0 for new in rows.new_targets])
    if len(wanted) > max_rows:
        wanted = wanted[np.linspace(0, len(wanted) - 1, max_rows).round().astype(int)]
    if not len(wanted):
        return {"rows": 0.0}
    measured = row_metrics(
        towers, items, rows, preprocessing, popularity=popularity, temperature=temperature, chosen=wanted
    )
    recall, ndcg = max(measured.values(), key=lambda found: float(found[1].mean()))
    return {"rows": float(len(wanted)), "recall@10": float(recall.mean()), "ndcg@10": float(ndcg.mean())}
