"""A study: build the towers asked for, and measure each against the full float32 model in torch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from pipelines.compression.distillation import Lessons, make_lessons
from pipelines.compression.measurement import (
    HeldOutQueries,
    QueryEncoder,
    SearchPath,
    exact_first,
    quality,
    request_cpu_ms,
    share_kept,
    time_encoders,
)
from pipelines.compression.text_towers import FullModel, build_text_tower
from pipelines.compression.variants import Variant
from pipelines.config import CompressionConfig
from pipelines.inference.text_encoder import open_text_tower
from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint, tokenize
from pipelines.progress import Progress
from pipelines.schemas import MeasuredVariant

FULL = "full float32"
"""Name of the reference."""
_ROUNDS = 3
_SAMPLES = 1_000
_ITEM_SEED = 13
_MIN_ITEM_COUNT = 8
"""Times that a token occurs in texts of items before a table gives it a vector: the encoder reads an item after the
table, and so the bundle has no room for words of a few items."""


@dataclass(frozen=True)
class Study:
    """What variants are built from and measured with."""

    full: FullModel
    tokenizer: PreTrainedTokenizerBase
    item_vectors: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1: what the full float32 model makes of the catalogue."""
    served_vectors: np.ndarray
    """The same as it is served, which may come from the int8 encoder."""
    queries: HeldOutQueries
    lesson_texts: Callable[[], list[str]]
    """In-domain texts without the held-out queries."""
    item_texts: Sequence[str]
    """What the full model reads of each item, in the order of the vectors."""
    text_vectors: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1: the full model's vectors of these texts."""
    config: CompressionConfig
    seed: int
    progress: Progress
    cache: EmbeddingCache | None = None
    """Keeps the full model's vectors between runs; None where texts are what people typed."""

    @cached_property
    def lessons(self) -> Lessons:
        """The full model's vectors of the lesson texts, and what it finds with them; made when they are needed."""
        texts = self.lesson_texts()
        k = self.config.distillation.found_per_text
        vectors = self.vectors_of(texts, "lessons read by the full model")
        return make_lessons(texts, vectors, self.item_vectors, k=k, progress=self.progress)

    def item_lessons(self, rows: np.ndarray | None = None) -> Lessons:
        """Return what a tower for the texts of items learns: the full model's vectors, and the texts near to them.

        Args:
            rows: int `(n,)`, the items that it may see; None for all.
        """
        seen = np.arange(len(self.item_texts)) if rows is None else rows
        distinct = {self.item_texts[row]: row for row in seen.tolist()}
        own = chosen = np.fromiter(distinct.values(), np.int64, len(distinct))
        most = self.config.distillation.texts
        if len(own) > most:
            chosen = np.random.default_rng([self.seed, _ITEM_SEED]).choice(own, most, replace=False)
        lessons = make_lessons(
            [self.item_texts[row] for row in chosen],
            self.text_vectors[chosen],
            self.text_vectors[own],
            k=self.config.distillation.found_per_text,
            progress=self.progress,
        )
        return replace(lessons, min_count=_MIN_ITEM_COUNT)

    def vectors_of(self, texts: Sequence[str], stage: str) -> np.ndarray:
        """Return the full model's vectors, float32 `(n, dim)`, each row L2 norm 1."""
        full = self.full

        def encode(missing: Sequence[str]) -> np.ndarray:
            return encode_texts(
                full.encoder, self.tokenizer, missing, max_tokens=full.max_tokens, progress=self.progress, stage=stage
            )

        if self.cache is None:
            return encode(texts)
        return self.cache.encode(
            texts, f"{encoder_fingerprint(full.encoder)}-float32-{full.max_tokens}", full.encoder.dim, encode
        )


def build_variants(
    study: Study, variants: Sequence[Variant], work: Path, lessons: Callable[[], Lessons] | None = None
) -> dict[str, Path]:
    """Build the towers that are not in `work` yet, and return the folder of each by name.

    Args:
        lessons: What they learn; None teaches them to read queries.
    """
    folders = {variant.name: work / variant.name.replace(" ", "-") for variant in variants}
    for variant in variants:
        build_text_tower(
            variant,
            study.full,
            lessons or (lambda: study.lessons),
            folders[variant.name],
            config=study.config.distillation,
            seed=study.seed,
            progress=study.progress,
        )
    return folders


def measure_variants(study: Study, folders: Mapping[str, Path], work: Path) -> list[MeasuredVariant]:
    """Measure the full model and every tower, in this order.

    Args:
        folders: Towers by name.
        work: Folder for the index that all of them search in.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(study, folders, SearchPath(study.served_vectors, work))
    finally:
        torch.set_num_threads(threads)


def _measure(study: Study, folders: Mapping[str, Path], path: SearchPath) -> list[MeasuredVariant]:
    queries = study.queries
    encoders: dict[str, QueryEncoder] = {FULL: _in_torch(study)}
    encoders |= {name: open_text_tower(folder, study.full.max_tokens).encode for name, folder in folders.items()}
    timed = queries.queries[: study.config.timed_queries]
    milliseconds = time_encoders(encoders, timed, _ROUNDS)
    vectors = study.vectors_of(queries.queries, "held-out queries")
    wanted = exact_first(vectors, study.item_vectors)
    reference = quality(wanted, queries, wanted)
    measured = []
    for done, (name, encode) in enumerate(encoders.items(), start=1):
        if name == FULL:
            found, cpu_ms = reference, _exact_cpu_ms(encode, study.item_vectors, timed)
        else:
            first = [path.first(vector) for vector in encode(queries.queries)]
            found, cpu_ms = quality(first, queries, wanted), request_cpu_ms(encode, path, timed)
        kept, low, high = share_kept(found.ndcg, reference.ndcg, samples=_SAMPLES, seed=study.seed)
        measured.append(
            MeasuredVariant(
                name=name,
                ndcg=float(np.nanmean(found.ndcg)),
                ndcg_kept=kept,
                ndcg_kept_low=low,
                ndcg_kept_high=high,
                recall=float(found.overlap.mean()),
                encode_ms=milliseconds[name],
                speedup=milliseconds[FULL] / milliseconds[name],
                cpu_ms=cpu_ms,
                size_mib=_size_mib(study, folders.get(name)),
            )
        )
        study.progress.update("variants measured", done, len(encoders))
    return measured


def _in_torch(study: Study) -> QueryEncoder:
    encoder = study.full.encoder.eval()

    def encode(queries: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            vectors: np.ndarray = encoder(*tokenize(study.tokenizer, queries, study.full.max_tokens)).numpy()
        return vectors

    return encode


def _exact_cpu_ms(encode: QueryEncoder, item_vectors: np.ndarray, queries: Sequence[str]) -> float:
    began = time.process_time()
    for query in queries:
        exact_first(encode([query]), item_vectors)
    return 1e3 * (time.process_time() - began) / len(queries)


def _size_mib(study: Study, folder: Path | None) -> float:
    """Return the size of a tower's files, or of the full model's weights."""
    if folder is None:
        weights = study.full.encoder.parameters()
        return sum(weight.numel() * weight.element_size() for weight in weights) / 2**20
    return sum(file.stat().st_size for file in folder.iterdir()) / 2**20
