"""What `bench compress` compresses: a catalogue, an encoder tuned on it, and queries that nothing learns from.

With a folder: the judged queries of `bench search`, divided as there; the encoder is tuned as there, on those of the
training part. Without one: the default data, with queries made up from titles and categories; those that are measured
are drawn first, and whoever draws later never gets one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipelines.benchmarks.folder import read_items, read_search_folder, smaller_search_folder
from pipelines.benchmarks.protocols import SearchTask, search_split
from pipelines.benchmarks.search_model import recipe, tuned_encoder
from pipelines.benchmarks.shop_folder import COMPLETE_JOURNEY, completejourney_folder
from pipelines.compression.chosen_tower import held_out_queries
from pipelines.compression.lesson_texts import folded
from pipelines.compression.measurement import HeldOutQueries
from pipelines.config import TrainingConfig
from pipelines.model.encoder import SentenceEncoder, load_encoder
from pipelines.progress import Progress
from pipelines.training.catalog import Catalog, numbered
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.encoder_tuning import PairSource, tune_encoder
from pipelines.training.judged_queries import JudgedQueries

Tuned = tuple[SentenceEncoder, PreTrainedTokenizerBase]
_QUICK_ITEMS, _QUICK_STEPS = 2_000, 10
_MADE_UP_QUERIES = 2_000


@dataclass(frozen=True)
class CompressTask:
    """A catalogue, held-out queries, and how the full model comes about."""

    name: str
    catalog: Catalog
    queries: HeldOutQueries
    typed: list[str]
    """Queries of the training part."""
    training: TrainingConfig
    tune: Callable[[Path, Progress], Tuned]
    """Tunes the encoder in a folder, or reads what is there."""


def compress_task(
    data: str, work: Path, *, seed: int, quick: bool, training: TrainingConfig | None = None
) -> CompressTask:
    """Return the task of a folder, or of the default data.

    Args:
        training: How the encoder is tuned; None takes the recipe of `bench search`, or the defaults of the loop.

    Raises:
        DataError: the folder cannot be used; the message says why.
        ConfigError: the default data is not installed.
    """
    if data == COMPLETE_JOURNEY and not Path(data).exists():
        return _made_up_task(work, training or TrainingConfig(seed=seed), quick)
    return _judged_task(Path(data), training, seed, quick)


def _judged_task(data: Path, training: TrainingConfig | None, seed: int, quick: bool) -> CompressTask:
    read = read_search_folder(data)
    task = search_split(smaller_search_folder(read) if quick else read)
    config = training or recipe(seed, len(task.train), quick=quick).training
    test = task.test
    answered = [place for place, gains in enumerate(test.gains) if (gains > 0).any()]
    held_out = test.at(answered)
    return CompressTask(
        name=f"{task.data}, quick" if quick else task.data,
        catalog=_catalog(task),
        queries=HeldOutQueries(held_out.queries, held_out.items, held_out.gains),
        typed=task.train.queries,
        training=config,
        tune=lambda work, progress: tuned_encoder(task, config, work, progress),
    )


def _made_up_task(work: Path, config: TrainingConfig, quick: bool) -> CompressTask:
    items = read_items(completejourney_folder(work / COMPLETE_JOURNEY))
    if quick:
        items = items.at(np.linspace(0, len(items) - 1, _QUICK_ITEMS).astype(np.int64))
    names, categories = numbered(items.categories)
    brand_names, brands = numbered(items.brands)
    zeros = np.zeros(len(items), np.float32)
    catalog = Catalog(
        items.item_ids, items.texts, items.titles, names, categories, brand_names, brands, zeros, zeros, zeros
    )
    queries = held_out_queries(catalog, JudgedQueries([], [], []), _MADE_UP_QUERIES)
    if quick:
        config = config.model_copy(update={"encoder_steps": _QUICK_STEPS})

    def tune(folder: Path, progress: Progress) -> Tuned:
        encoder, tokenizer = load_encoder(config.encoder)
        pairs = without_queries(lambda n, rng: catalog_pairs(catalog, n, rng), queries.queries)
        checkpoint = folder / "encoder.pt"
        tune_encoder(encoder, tokenizer, catalog, config=config, checkpoint=checkpoint, progress=progress, pairs=pairs)
        return encoder, tokenizer

    name = f"{COMPLETE_JOURNEY}, quick" if quick else COMPLETE_JOURNEY
    return CompressTask(name, catalog, queries, [], config, tune)


def without_queries(source: PairSource, held_out: list[str]) -> PairSource:
    """Return a source of pairs that draws again where it drew a held-out query."""
    hidden = {folded(query) for query in held_out}

    def draw(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        queries, rows = source(n, rng)
        rows = rows.copy()
        while bad := [place for place, query in enumerate(queries) if folded(query) in hidden]:
            again, other = source(len(bad), rng)
            for place, query, row in zip(bad, again, other, strict=True):
                queries[place], rows[place] = query, row
        return queries, rows

    return draw


def _catalog(task: SearchTask) -> Catalog:
    n = task.n_items
    category_names, categories = numbered(task.items.categories)
    nothing, zeros = np.zeros(n, np.int64), np.zeros(n, np.float32)
    return Catalog(
        task.item_ids, task.texts, task.titles, category_names, categories, [""], nothing, zeros, zeros, zeros
    )
