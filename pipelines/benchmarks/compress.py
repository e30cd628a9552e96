"""`bench compress`: query towers, towers for items that arrive, and item vectors, against the full model in torch.

ndcg_kept    share of the full float32 model's NDCG@10; queries are held out from tuning and distillation
recall@10    share of the full model's first ten that are among the variant's
speedup      median time from one query to its vector on one thread, tokenizer included, relative to torch
encode_ms, cpu_ms  that time, and the CPU time of a whole dense search
size_mib     files of the tower
cosine, items_per_s  of a tower that reads items: to the full model's vectors, and read in a second of one thread
bundle_mib   a bundle of 100,000 items
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from pipelines.benchmarks.compress_bundle import N_ITEMS, bundle_mib
from pipelines.benchmarks.compress_items import READ_BY, build_item_towers, item_tower_records
from pipelines.benchmarks.compress_task import CompressTask, compress_task
from pipelines.benchmarks.records import BenchmarkRecord, records_table, write_records
from pipelines.compression.distillation import make_lessons
from pipelines.compression.item_codes import ItemCodes, prefix_codes, product_codes, rescored, unscored
from pipelines.compression.lesson_texts import lesson_texts
from pipelines.compression.matryoshka import prefixes, principal_rotation, train_rotation
from pipelines.compression.measurement import CANDIDATES, exact_first, quality, share_kept
from pipelines.compression.study import FULL, Study, build_variants, measure_variants
from pipelines.compression.text_towers import FullModel, towers_folder
from pipelines.compression.variants import parse_variant
from pipelines.config import CompressionConfig, DistillationConfig, TrainingConfig
from pipelines.experiments.plots import save_figure, variant_front
from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint
from pipelines.progress import Progress
from pipelines.retrieval.dense import ItemVectors
from pipelines.schemas import MeasuredVariant

BENCH = "compress"
DEFAULT_VARIANTS = ("6-layer int8", "6-layer int8 domain vocabulary", "2-layer int8", "static")
DEFAULT_ITEM_VARIANTS = ("6-layer int8", "2-layer int8", "static")
BUNDLE_CASE = "100,000 items"
_PREFIXES = (256, 128, 64)
_PRODUCT_WIDTH = 4
"""Numbers of a vector that share a code of four bits."""
_MIN_PRODUCT_ITEMS = 1_000
"""Fewer items say too little to learn product codes from."""
_ROTATION_STEPS = 60
_ROTATION_TEXTS = 4_000
"""Items whose neighbors a rotation learns to keep."""
_SAMPLES = 1_000
_QUICK_BUNDLE = 2_000
QUICK_NOTE = "QUICK: a sample and a short training. This only shows that it runs: the numbers are no result."


@dataclass(frozen=True)
class CompressOptions:
    """What a person may choose."""

    data: str
    """Folder with `items.parquet` and `judgements.parquet`, or `completejourney`."""
    work: Path
    """Folder of unfinished and finished work, kept between runs."""
    cache: Path
    """Folder of text embeddings."""
    variants: tuple[str, ...] = DEFAULT_VARIANTS
    item_variants: tuple[str, ...] = DEFAULT_ITEM_VARIANTS
    """Towers that read items."""
    seed: int = 0
    quick: bool = False
    json_file: Path | None = None
    distillation: DistillationConfig | None = None
    """How small towers learn; None takes the defaults."""
    training: TrainingConfig | None = None
    """How the encoder is tuned; None takes what fits the data."""


def bench_compress(options: CompressOptions, progress: Progress) -> list[BenchmarkRecord]:
    """Measure, print tables, and write records and a picture.

    Raises:
        DataError: the folder cannot be used; the message says why.
        ConfigError: a variant has no meaning, or the encoder is not installed.
    """
    variants, item_variants = (
        [parse_variant(name) for name in names] for names in (options.variants, options.item_variants)
    )
    task = compress_task(options.data, options.work, seed=options.seed, quick=options.quick, training=options.training)
    work = options.work / f"{BENCH}-{task.name.replace(', ', '-')}" / f"seed-{options.seed}"
    study = _study(task, work, options, progress)
    towers = towers_folder(work, study.config.distillation, options.seed)
    folders = build_variants(study, variants, towers)
    measured = measure_variants(study, folders, work / "index")
    item_towers = build_item_towers(
        study, item_variants, towers_folder(work, study.config.distillation, options.seed, "item_text_towers")
    )
    reader_records = list(item_tower_records(study, item_towers, partial(_record, task.name)))
    item_records = list(_item_codes(study, task.name))
    n_items = _QUICK_BUNDLE if options.quick else N_ITEMS
    sizes = dict(_bundle_sizes(study, task, folders, item_towers, n_items))
    records = [
        *_variant_records(measured, task.name),
        *reader_records,
        *item_records,
        *(_record(task.name, case, "bundle_mib", size, "MiB") for case, size in sizes.items()),
    ]
    _publish(records, measured, task, study, options)
    return records


def _study(task: CompressTask, work: Path, options: CompressOptions, progress: Progress) -> Study:
    work.mkdir(parents=True, exist_ok=True)
    encoder, tokenizer = task.tune(work, progress)
    encoder.eval()
    max_tokens = task.training.max_tokens
    tokenizer.save_pretrained(work / "tokenizer")
    cache = EmbeddingCache(options.cache)
    vectors = cache.encode(
        task.catalog.texts,
        f"{encoder_fingerprint(encoder)}-float32-{max_tokens}",
        encoder.dim,
        lambda texts: encode_texts(encoder, tokenizer, texts, max_tokens=max_tokens, progress=progress),
    )
    config = CompressionConfig(distillation=options.distillation or _distillation(options.quick))

    def texts() -> list[str]:
        rng = np.random.default_rng([options.seed, 12])
        most = config.distillation.texts
        return lesson_texts(task.catalog, task.typed, task.queries.queries, most=most, rng=rng)

    return Study(
        full=FullModel(encoder, work / "tokenizer" / "tokenizer.json", max_tokens),
        tokenizer=tokenizer,
        item_vectors=vectors,
        served_vectors=vectors,
        item_texts=task.catalog.texts,
        text_vectors=vectors,
        queries=task.queries,
        lesson_texts=texts,
        config=config,
        seed=options.seed,
        progress=progress,
        cache=cache,
    )


def _distillation(quick: bool) -> DistillationConfig:
    return DistillationConfig(texts=500, steps=5, static_steps=20) if quick else DistillationConfig()


def _item_codes(study: Study, data: str) -> Iterator[BenchmarkRecord]:
    """Yield what smaller item vectors keep, alone and with the best candidates scored again."""
    vectors = study.vectors_of(study.queries.queries, "held-out queries")
    wanted = exact_first(vectors, study.item_vectors)
    reference = quality(wanted, study.queries, wanted)
    exact = ItemVectors.quantized(study.item_vectors)
    for codes in _first_looks(study):
        for case, found in (
            (codes.name, unscored(codes, vectors)),
            (f"{codes.name}, rescored", rescored(codes, exact, vectors, CANDIDATES)),
        ):
            own = quality(found, study.queries, wanted)
            yield _kept(data, case, *share_kept(own.ndcg, reference.ndcg, samples=_SAMPLES, seed=study.seed))
            yield _record(data, case, "recall@10", float(own.overlap.mean()), "share")
            yield _record(data, case, "bytes_per_item", codes.bytes_per_item, "bytes")
        study.progress.update("item vectors measured", 1, 1, codes.name)


def _first_looks(study: Study) -> Iterator[ItemCodes]:
    dim = study.item_vectors.shape[1]
    yield prefix_codes(f"items int8, {dim} dims", study.item_vectors, lambda vector: vector)
    if dims := [short for short in _PREFIXES if short < dim]:
        yield from _prefixes(study, dims)
    if len(study.item_vectors) >= _MIN_PRODUCT_ITEMS:
        parts = dim // _PRODUCT_WIDTH
        yield product_codes(f"items PQ, {parts // 2} bytes", study.item_vectors, parts)


def _prefixes(study: Study, dims: Sequence[int]) -> Iterator[ItemCodes]:
    chosen = np.linspace(0, len(study.item_vectors) - 1, min(_ROTATION_TEXTS, len(study.item_vectors))).astype(int)
    lessons = make_lessons(
        [str(row) for row in chosen],
        study.item_vectors[chosen],
        study.item_vectors,
        k=study.config.distillation.found_per_text,
        progress=study.progress,
    )
    start = principal_rotation(study.item_vectors)
    trained = train_rotation(
        start,
        lessons,
        dims,
        config=study.config.distillation,
        steps=_ROTATION_STEPS,
        seed=study.seed,
        progress=study.progress,
    )
    for kind, rotation in (("principal axes", start), ("trained", trained)):
        for short in dims:
            yield _prefix(f"items int8, {short} dims, {kind}", study.item_vectors, rotation, short)


def _prefix(name: str, item_vectors: np.ndarray, rotation: np.ndarray, dim: int) -> ItemCodes:
    return prefix_codes(name, prefixes(item_vectors, rotation, dim), lambda vector: prefixes(vector, rotation, dim))


def _bundle_sizes(
    study: Study, task: CompressTask, folders: Mapping[str, Path], item_towers: Mapping[str, Path], n_items: int
) -> Iterator[tuple[str, float]]:
    default = study.config.item_text_tower
    size = partial(
        bundle_mib,
        study.full.encoder,
        study.full.tokenizer_file,
        task.catalog.titles,
        n_items=n_items,
        item_text_tower=item_towers.get(default),
    )
    case = BUNDLE_CASE if n_items == N_ITEMS else f"{n_items:,} items"
    yield case, size()
    if default in item_towers:
        yield f"{case}, new ones read by the encoder alone", size(item_text_tower=None)
    small = next((name for name in ("2-layer int8", "static") if name in folders), None)
    if small:
        yield f"{case}, {small} reads queries", size(query_tower=folders[small])


def _variant_records(measured: Sequence[MeasuredVariant], data: str) -> Iterator[BenchmarkRecord]:
    for one in measured:
        yield _kept(data, one.name, one.ndcg_kept, one.ndcg_kept_low, one.ndcg_kept_high)
        for metric, value, unit in (
            ("speedup", one.speedup, "times"),
            ("ndcg@10", one.ndcg, ""),
            ("recall@10", one.recall, "share"),
            ("encode_ms", one.encode_ms, "ms"),
            ("cpu_ms", one.cpu_ms, "ms"),
            ("size_mib", one.size_mib, "MiB"),
        ):
            yield _record(data, one.name, metric, value, unit)


def _kept(data: str, case: str, value: float, low: float | None, high: float | None) -> BenchmarkRecord:
    return _record(data, case, "ndcg_kept", value, "share", low=low, high=high)


def _record(
    data: str,
    case: str,
    metric: str,
    value: float,
    unit: str,
    *,
    low: float | None = None,
    high: float | None = None,
) -> BenchmarkRecord:
    return BenchmarkRecord(
        bench=BENCH, data=data, case=case, metric=metric, value=value, low=low, high=high, unit=unit, seeds=1
    )


def _publish(
    records: Sequence[BenchmarkRecord],
    measured: Sequence[MeasuredVariant],
    task: CompressTask,
    study: Study,
    options: CompressOptions,
) -> None:
    names = {one.name for one in measured}
    towers = [record for record in records if record.case in names]
    sizes = [record for record in records if record.metric == "bundle_mib"]
    readers = [record for record in records if record.case.startswith(READ_BY)]
    items = [record for record in records if record not in [*towers, *readers, *sizes]]
    tables = (
        ("Query towers", towers, 4),
        ("Towers for items that arrive", readers, 4),
        ("Item vectors", items, 4),
        ("Bundles", sizes, 1),
    )
    for title, part, decimals in tables:
        click.echo(f"\n{title}\n{records_table(part, decimals)}")
    click.echo("\n" + "\n".join(_notes(task, study, options)))
    if options.json_file:
        write_records(records, options.json_file)
        picture = options.json_file.with_suffix(".png")
        save_figure(variant_front(measured, picked=None), picture)
        click.echo(f"Records: {options.json_file}\nPicture: {picture}")


def _notes(task: CompressTask, study: Study, options: CompressOptions) -> list[str]:
    return [
        *([QUICK_NOTE] if options.quick else []),
        f"{len(task.queries):,} queries that nothing learned from, over all {len(task.catalog):,} items.",
        f"The reference, {FULL}, runs in torch ({torch.__version__}) on one thread with exact float32 products; the "
        f"others go through the int8 index, and {CANDIDATES} candidates are scored again with the int8 vectors of the "
        "items. The float32 model made the vectors of the items.",
        f"Speed: one query at a time on one thread, tokenizer included, {study.config.timed_queries} queries three "
        "times, variants in turns of 20 queries, medians. Intervals: 95 %, resamples of queries.",
        "A tower for items that arrive learned from nine tenths of the items; a random tenth stands for those that "
        "arrive, and the full model has read the others and the queries. Items a second: one thread, CPU time, batches "
        "of 32 by length.",
        "Item vectors are measured with the queries of the full model. float16 is for GPUs and is not measured here.",
        f"A bundle of {BUNDLE_CASE} has real models and titles, and tables as dense as those of a grocer.",
    ]
