"""How a search is scored: the weight of words beside meaning, and a ranker where there are judged queries enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.compression.onnx_export import export_ranker
from pipelines.config import SearchRankerConfig
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import RankerSettings, SearchFusion
from pipelines.progress import Progress
from pipelines.ranking.search_candidates import SearchCandidates, search_candidates
from pipelines.ranking.search_ranker import search_ranker_settings
from pipelines.retrieval.dense import dense_scores
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.search_ranker_tuning import (
    SearchLists,
    choose_lexical_weight,
    fit_search_ranker,
    gain_over_fusion,
)

_VALIDATION_SHARE = 0.25
_BLOCK = 64


@dataclass(frozen=True)
class LearnedSearch:
    """What the bundle searches with."""

    fusion: SearchFusion
    ranker: RankerSettings | None
    """None: too few judged queries, or it was not clearly better than the fusion on those set aside."""
    file: Path | None
    """ONNX file of the ranker."""
    metrics: Mapping[str, float]


def learn_search_ranking(
    bundle: Bundle, judged: JudgedQueries, *, config: SearchRankerConfig, seed: int, target: Path, progress: Progress
) -> LearnedSearch:
    """Choose the weights of the fusion, then fit the ranker; a quarter of the queries decides about both.

    The ranker has to gain more than one standard error over the fusion. With fewer than `config.min_queries` queries to
    learn from, the bundle's fusion stays and there is no ranker.

    Args:
        judged: Queries that the encoder was not tuned on; it would seem better on those than it is.
        target: ONNX file to write the ranker to.
    """
    unchanged = LearnedSearch(bundle.preprocessing.fusion.search, None, None, {"search_ranker_queries": 0.0})
    if len(judged.answered) < config.min_queries:
        return unchanged
    train, validation = (
        search_lists(bundle, part, config, progress) for part in judged.divided(_VALIDATION_SHARE, "validation")
    )
    useful = len(train.useful())
    if useful < config.min_queries or len(validation.useful()) == 0:
        return unchanged
    weight, fused = choose_lexical_weight(validation)
    fusion = SearchFusion(dense=1 / (1 + weight), lexical=weight / (1 + weight))
    fit = fit_search_ranker(train, validation, config=config, seed=seed, progress=progress)
    gain = gain_over_fusion(fit.ranker, validation, weight)
    metrics = {
        "search_ranker_queries": float(useful),
        "search_ranker_validation_ndcg@10": fit.validation_ndcg[fit.best_epoch],
        "search_fusion_validation_ndcg@10": fused,
        **gain.error_metric("search_ranker_validation"),
    }
    if not gain.is_clear:
        return LearnedSearch(fusion, None, None, metrics)
    export_ranker(fit.ranker, target)
    return LearnedSearch(fusion, search_ranker_settings(config.candidates), target, metrics)


def search_lists(bundle: Bundle, judged: JudgedQueries, config: SearchRankerConfig, progress: Progress) -> SearchLists:
    """Describe the candidates of judged queries."""
    found: list[SearchCandidates] = []
    for start in range(0, len(judged), _BLOCK):
        queries = judged.queries[start : start + _BLOCK]
        vectors = bundle.encode_queries(queries)
        scores = dense_scores(vectors, bundle.item_vectors)
        found += [
            search_candidates(
                query, vector, bundle.lexical, bundle.item_vectors, cosines, per_generator=config.candidates
            )
            for query, vector, cosines in zip(queries, vectors, scores, strict=True)
        ]
        progress.update("candidates of judged queries", len(found), len(judged))
    return SearchLists(found, judged.items, judged.gains)
