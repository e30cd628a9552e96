"""The small towers of a bundle: those that the settings name, or the one that the policy picks after measuring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.compression.layer_pruning import layer_count
from pipelines.compression.lesson_texts import lesson_texts
from pipelines.compression.measurement import HeldOutQueries
from pipelines.compression.packaging import TrainedParts
from pipelines.compression.policy import choose_variant
from pipelines.compression.study import FULL, Study, build_variants, measure_variants
from pipelines.compression.text_towers import FullModel
from pipelines.compression.variants import Variant, parse_variant
from pipelines.compression.vocabulary_pruning import is_prunable
from pipelines.config import HeadraceConfig
from pipelines.inference.text_encoder import open_text_tower
from pipelines.progress import Progress
from pipelines.schemas import MeasuredVariant
from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.judged_queries import JudgedQueries

POLICY = "policy"
ENCODER = "encoder"
_MIN_JUDGED = 100
"""Fewer held-out judged queries than this say too little; queries are made up then."""
_MEASURED_ITEMS = 500
_MEASURED_SEED, _LESSON_SEED = 11, 12


@dataclass(frozen=True)
class ChosenTower:
    """What reads the queries of a bundle."""

    name: str
    folder: Path | None
    """None: the int8 encoder of the bundle itself."""
    measured: Sequence[MeasuredVariant] = ()
    """What the policy chose from, the full model first."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured of it, where it was."""
        found = next((one for one in self.measured if one.name == self.name), None)
        if found is None:
            return {}
        return {"query_tower.ndcg_kept": found.ndcg_kept, "query_tower.encode_ms": found.encode_ms}


def choose_tower(study: Study, work: Path) -> ChosenTower:
    """Build the tower that the settings name; with `policy`, build and measure `variants` and pick one."""
    config = study.config
    if config.query_tower != POLICY:
        variant = parse_variant(config.query_tower)
        return ChosenTower(variant.name, _folder(study, variant, work))
    variants = [parse_variant(name) for name in config.variants]
    folders = build_variants(study, variants, work)
    measured = measure_variants(study, folders, work / "index")
    best = choose_variant([one for one in measured if one.name != FULL], config.min_ndcg_kept)
    variant = parse_variant(best.name)
    return ChosenTower(best.name, None if is_encoder_itself(study, variant) else folders[best.name], measured)


def item_text_tower(study: Study, work: Path) -> Path | None:
    """Build the tower that `compression.item_text_tower` names and return its folder; None: the encoder alone reads.

    So it does where the vocabulary of the encoder cannot be pruned, which small towers need.
    """
    name = study.config.item_text_tower
    if name == ENCODER or is_encoder_itself(study, parse_variant(name)) or not is_prunable(study.full.tokenizer_file):
        return None
    variant = parse_variant(name)
    return build_variants(study, [variant], work, cache(study.item_lessons))[variant.name]


def item_tower_metrics(study: Study, folder: Path | None) -> Mapping[str, float]:
    """Return the mean cosine between what a tower and the full model make of texts of items; nothing for no tower."""
    if folder is None:
        return {}
    rows = np.linspace(0, len(study.item_texts) - 1, min(_MEASURED_ITEMS, len(study.item_texts))).astype(int)
    vectors = open_text_tower(folder, study.full.max_tokens).encode([study.item_texts[row] for row in rows])
    return {"item_text_tower.cosine_mean": float((vectors * study.text_vectors[rows]).sum(axis=1).mean())}


def is_encoder_itself(study: Study, variant: Variant) -> bool:
    """Whether a bundle's own int8 encoder is the variant."""
    whole = not variant.static and not variant.needs_distillation(layer_count(study.full.encoder))
    return whole and variant.precision == "int8" and not variant.domain_vocabulary


def study_of(
    trained: TrainedParts,
    item_vectors: np.ndarray,
    text_vectors: np.ndarray,
    judged: JudgedQueries,
    held_out: JudgedQueries,
    logged: Sequence[str],
    config: HeadraceConfig,
    progress: Progress,
) -> Study:
    """Return the study of a trained model.

    Args:
        item_vectors: float32 `(n_items, dim)`, each row L2 norm 1.
        text_vectors: The same of the texts of items alone.
        judged: Queries that the encoder was tuned on.
        held_out: Queries that it has not seen.
        logged: Queries that people typed before the validation window.
    """
    queries = held_out_queries(trained.catalog, held_out, config.compression.measured_queries)
    typed = [*judged.queries, *logged]
    seed = config.training.seed

    def texts() -> list[str]:
        rng = np.random.default_rng([seed, _LESSON_SEED])
        most = config.compression.distillation.texts
        return lesson_texts(trained.catalog, typed, queries.queries, most=most, rng=rng)

    return Study(
        full=FullModel(trained.encoder, trained.tokenizer_file, trained.preprocessing.max_tokens),
        tokenizer=trained.tokenizer,
        item_vectors=item_vectors,
        served_vectors=item_vectors,
        queries=queries,
        lesson_texts=texts,
        item_texts=trained.catalog.texts,
        text_vectors=text_vectors,
        config=config.compression,
        seed=seed,
        progress=progress,
    )


def held_out_queries(catalog: Catalog, judged: JudgedQueries, most: int) -> HeldOutQueries:
    """Return judged queries that nothing has learned from; made-up ones where there are too few.

    A made-up query is answered by its item, and by every other item with the same text.
    """
    if len(judged.answered) >= _MIN_JUDGED:
        chosen = judged.at(judged.answered[:: max(1, len(judged.answered) // most)][:most])
        return HeldOutQueries(chosen.queries, chosen.items, chosen.gains)
    drawn, rows = catalog_pairs(catalog, most, np.random.default_rng(_MEASURED_SEED))
    same_text: dict[str, list[int]] = {}
    for row, text in enumerate(catalog.texts):
        same_text.setdefault(text, []).append(row)
    items = {query: np.array(same_text[catalog.texts[row]]) for query, row in zip(drawn, rows, strict=True)}
    return HeldOutQueries(list(items), list(items.values()), [np.ones(len(found)) for found in items.values()])


def _folder(study: Study, variant: Variant, work: Path) -> Path | None:
    if is_encoder_itself(study, variant):
        return None
    return build_variants(study, [variant], work)[variant.name]
