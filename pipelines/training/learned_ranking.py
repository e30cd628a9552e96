"""How candidates are scored: weights of the fusion, and a ranker where there is enough to learn one from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.compression.onnx_export import export_ranker
from pipelines.config import RankerConfig
from pipelines.evaluation.paired_gain import PairedGain, mean_of_parts, paired_gain
from pipelines.inference.bundle import ITEM_TO_ITEM, Bundle
from pipelines.inference.preprocessing import Fusion, RankerSettings, RecommendFusion, UserFeatures
from pipelines.inference.ranker_features import ranker_features
from pipelines.model.ranker import HEADS
from pipelines.progress import Progress
from pipelines.ranking.fusion import fit_fusion_weights
from pipelines.training.ranker_rows import RankerRows, collect_ranker_rows
from pipelines.training.ranker_tuning import (
    RankerFit,
    ScoreList,
    fit_ranker,
    head_weights,
    held_out_users,
    holdout_values,
    scorer_of,
)


@dataclass(frozen=True)
class RankingRows:
    """What was known of users at moments, and what they then took; all lists have the same length."""

    features: Sequence[UserFeatures]
    now_s: np.ndarray
    """float64 `(n,)`, epoch seconds."""
    users: np.ndarray
    """`(n,)`, ids."""
    targets: Sequence[np.ndarray]
    """Row numbers of the next basket, −1 for items that the bundle does not have."""
    new_targets: Sequence[np.ndarray]
    """Those that the user had not touched before."""
    seen: Sequence[np.ndarray]
    """Row numbers of all that the user had touched before."""
    clicked: Sequence[np.ndarray] | None = None
    """Row numbers of what was clicked, viewed or put into the cart then."""


@dataclass(frozen=True)
class LearnedRanking:
    """What the bundle scores with."""

    fusion: Fusion
    ranker: RankerSettings | None
    """None: too little was known, or it was not clearly better than the fusion on the users held out."""
    file: Path | None
    """ONNX file of the ranker."""
    metrics: Mapping[str, float]


def learn_ranking(
    bundle: Bundle, rows: RankingRows, *, config: RankerConfig, seed: int, target: Path, progress: Progress
) -> LearnedRanking:
    """Fit the weights of the fusion, then the ranker; keep the ranker where it beats the fusion on held-out users.

    It has to gain more than one standard error: the epoch was chosen on the same users, so among few of them the best
    of several epochs looks better than it is.

    Args:
        bundle: As it was before the moments of the rows: no table in it may know what was taken then.
        target: ONNX file to write the ranker to.
    """
    fusion, metrics = fit_fusion_weights(
        bundle, rows.features, rows.now_s, _ids(bundle, rows.new_targets), _ids(bundle, rows.seen)
    )
    lists = ranker_rows(bundle, rows, config, progress)
    useful = int(np.count_nonzero(lists.useful()))
    metrics = {**metrics, "ranker_rows": float(useful)}
    if useful < config.min_rows:
        return LearnedRanking(fusion, None, None, metrics)
    fit = fit_ranker(lists, config=config, seed=seed, progress=progress)
    gain, measured = compare_with_fusion(bundle, lists, fit, fusion.recommend, config, seed)
    metrics = {**metrics, **measured}
    if not gain.is_clear:
        return LearnedRanking(fusion, None, None, metrics)
    export_ranker(fit.ranker, target)
    return LearnedRanking(fusion, ranker_settings(bundle, fit, config), target, metrics)


def ranker_rows(bundle: Bundle, rows: RankingRows, config: RankerConfig, progress: Progress) -> RankerRows:
    """Describe the candidates of the rows."""
    return collect_ranker_rows(
        bundle,
        rows.features,
        rows.now_s,
        rows.users,
        rows.targets,
        rows.seen,
        clicked=rows.clicked,
        per_generator=config.candidates,
        max_rows=config.max_rows,
        progress=progress,
    )


def ranker_settings(bundle: Bundle, fit: RankerFit, config: RankerConfig) -> RankerSettings:
    """Return what the bundle has to know of a learned ranker."""
    return RankerSettings(
        features=ranker_features(bundle.generators),
        heads=HEADS,
        head_weights=head_weights(fit.heads, config),
        per_generator=config.candidates,
    )


def compare_with_fusion(
    bundle: Bundle, lists: RankerRows, fit: RankerFit, weights: RecommendFusion, config: RankerConfig, seed: int
) -> tuple[PairedGain, dict[str, float]]:
    """Return what the ranker gains over the fusion in NDCG@10 on the held-out users, and both as metrics.

    Both order the same candidates.
    """
    chosen = held_out_users(lists, config, seed)
    own = holdout_values(lists, chosen, scorer_of(fit.ranker, fit.heads, config))
    fused = holdout_values(lists, chosen, _fusion_scorer(bundle, weights))
    gain = paired_gain(own, fused, lists.users[chosen])
    metrics = {"ranker_holdout_ndcg@10": mean_of_parts(own), "fusion_holdout_ndcg@10": mean_of_parts(fused)}
    return gain, {**metrics, **gain.error_metric("ranker_holdout")}


def _fusion_scorer(bundle: Bundle, weights: RecommendFusion) -> ScoreList:
    """Return the fusion as a function of the ranker's features; popularity is that of the same day."""
    names = ranker_features(bundle.generators)
    dense, near, popular = (names.index(name) for name in ("dense.strength", f"{ITEM_TO_ITEM}.relative", "log_slow"))

    def score(features: np.ndarray) -> np.ndarray:
        part = features.astype(np.float32)
        cosine = np.expm1(part[:, dense]) / 100
        popularity = part[:, popular] / max(float(part[:, popular].max(initial=0)), 1e-6)
        fused: np.ndarray = (
            weights.dense * cosine + weights.item_to_item * part[:, near] + weights.popularity * popularity
        )
        return fused

    return score


def _ids(bundle: Bundle, rows: Sequence[np.ndarray]) -> list[list[str]]:
    return [[bundle.item_ids[row] for row in part if row >= 0] for part in rows]
