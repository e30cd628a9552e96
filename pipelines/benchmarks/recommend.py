"""`bench recommend`: how well the next item, or the next basket, of held-out users is found; all items are ranked.

headline            items that are new to the user; what the user had seen is left out of the ranking
whole basket        where users take things again: nothing is left out, every item of the basket counts
slices              cold and tail items, short and long histories
beyond accuracy     coverage, novelty, diversity, Gini, popularity rank of the ten items shown
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.fingerprint import recommend_fingerprint
from pipelines.benchmarks.folder import read_recommend_folder, smaller_recommend_folder
from pipelines.benchmarks.protocols import RecommendTask, TaskRows, recommend_task
from pipelines.benchmarks.recommend_baselines import RecommendBaselines, Scorer, blocks
from pipelines.benchmarks.record_book import OVER_SEEDS, RecordBook, section
from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.benchmarks.runs import QUICK_NOTE, WITHOUT, BenchOptions, SeedRuns, publish, run_cases
from pipelines.benchmarks.shop_folder import COMPLETE_JOURNEY, completejourney_folder
from pipelines.benchmarks.time_left import TimeLeft
from pipelines.benchmarks.untouched import untouched_encoder
from pipelines.errors import DataError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.ranked import RankedRows, joined_rows, rank_rows
from pipelines.evaluation.ranks import TIE_RULE, put_broken_last
from pipelines.evaluation.row_values import LIST_VALUES, NEXT_BASKET, SLICE_NOTES, SLICED, SLICES, RowValues
from pipelines.inference.bundle import DENSE, ITEM_TO_ITEM
from pipelines.progress import Progress
from pipelines.ranking.candidates import TRENDING
from pipelines.training.generators import LEXICAL, SUCCESSORS

BENCH = "recommend"
MODEL_CASES = ("headrace", "headrace_dense")
ABLATIONS = tuple(WITHOUT + part for part in (ITEM_TO_ITEM, LEXICAL, SUCCESSORS, DENSE, TRENDING, "ranker"))
"""The model without each part, where `--ablation` asks for it."""
HEADLINE = ("recall@10", "ndcg@10", "recall@100", "mrr")
WHOLE_BASKET = tuple(NEXT_BASKET + name for name in HEADLINE)
"""The same in the second table."""


def bench_recommend(data: str, options: BenchOptions, progress: Progress) -> list[BenchmarkRecord]:
    """Measure baselines and model on a folder, print tables and write the records.

    Args:
        data: A folder with `items.parquet` and `interactions.parquet`, or `completejourney` for the default data.

    Raises:
        DataError: the folder cannot be used; the message says why.
        ConfigError: the default data or the encoder is not installed.
    """
    timed = TimeLeft(progress)
    folder = _folder(data, options.work)
    read = read_recommend_folder(folder)
    task = recommend_task(smaller_recommend_folder(read) if options.quick else read)
    store = CaseStore(options.folder(BENCH, task.data, task.sha1, recommend_fingerprint(task)))
    encode = untouched_encoder(options.cache, timed, options.encoder)
    vectors: list[np.ndarray] = []

    def item_vectors() -> np.ndarray:
        if not vectors:
            vectors.append(encode(task.texts))
        return vectors[0]

    baselines = RecommendBaselines(task, item_vectors, store, timed)
    fit = _model(task, store, folder, options, timed)
    measure = _measurer(task.test, task.n_items, timed)
    runs = run_cases(
        baselines.names,
        (*MODEL_CASES, *(ABLATIONS if options.ablation else ())),
        lambda name: measure(baselines.scorer(name)),
        fit,
        measure,
        store,
        options,
        timed,
    )
    records = _records(task, runs, item_vectors(), options)
    notes = _notes(task, runs, baselines, store, options)
    publish(records, _tables(records), notes, options, figure_metrics=_drawn(records))
    return records


def _folder(data: str, work: Path) -> Path:
    return completejourney_folder(work / COMPLETE_JOURNEY) if data == COMPLETE_JOURNEY else Path(data)


def _model(
    task: RecommendTask, store: CaseStore, folder: Path, options: BenchOptions, progress: Progress
) -> Callable[[int], Mapping[str, Scorer]]:
    """Return what trains the model with one seed; torch is imported when it does."""

    def fit(seed: int) -> Mapping[str, Scorer]:
        from pipelines.benchmarks.recommend_model import fit_recommender
        from pipelines.training.item_images import ItemImages

        return fit_recommender(
            task,
            seed=seed,
            work=store.model_folder(seed),
            quick=options.quick,
            ablation=options.ablation and seed == 0,
            images=ItemImages(options.image_encoder, folder, options.cache) if options.image_encoder else None,
            progress=progress,
        )

    return fit


def _measurer(rows: TaskRows, n_items: int, progress: Progress) -> Callable[[Scorer], dict[str, np.ndarray]]:
    """Return a function that ranks all rows with one scorer, block by block."""

    def measure(score: Scorer) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        parts, done = [], 0
        for block in blocks(rows, n_items):
            scores = score(block)
            if scores.shape != (len(block), n_items):
                raise DataError(f"A case gave scores of shape {scores.shape}, ({len(block)}, {n_items}) is needed.")
            put_broken_last(scores)
            parts.append(rank_rows(block, scores))
            done += len(block)
            progress.update("users ranked", done, len(rows))
        seconds = np.float64(time.perf_counter() - began)
        return {**asdict(joined_rows(parts)), "ms_per_row": 1_000 * seconds / len(rows)}

    return measure


def _records(task: RecommendTask, runs: SeedRuns, vectors: np.ndarray, options: BenchOptions) -> list[BenchmarkRecord]:
    rows = task.test
    lengths = np.asarray([len(history) for history in rows.histories], np.int64)
    measures = RowValues(rows, lengths, task.known_before_test.counts(), vectors)
    bootstrap = UserBootstrap(rows.users, samples=options.samples, seed=0)
    book = RecordBook(BENCH, f"{task.data}, quick" if options.quick else task.data, bootstrap)
    for case, results in runs.results.items():
        ranked = [RankedRows(one["new"], one["every"], one["top"]) for one in results]
        values = [measures.metrics(found) for found in ranked]
        if not task.repeats:  # then the second table would only say what not masking costs
            values = [{name: one for name, one in found.items() if NEXT_BASKET not in name} for found in values]
        book.add_rows(case, values, over_seeds=SLICED)
        lists = [measures.lists(found) for found in ranked]
        for name, unit in LIST_VALUES.items():
            book.add_list_value(case, name, [found[name] for found in lists], unit)
    book.add_gains(runs.baselines, HEADLINE, best_by="ndcg@10")
    if task.repeats:
        book.add_gains(runs.baselines, WHOLE_BASKET, best_by=NEXT_BASKET + "ndcg@10")
    return book.records


def _drawn(records: Sequence[BenchmarkRecord]) -> list[str]:
    """Return the metrics of the picture: of new items, or of the whole basket where nobody takes a new one."""
    found = {record.metric for record in records}
    return [name for name in HEADLINE[:2] if name in found] or list(WHOLE_BASKET[:2])


def _tables(records: Sequence[BenchmarkRecord]) -> str:
    sections = [
        section("Items new to the user", records, HEADLINE),
        section("The whole basket", records, WHOLE_BASKET, without=NEXT_BASKET),
        *(
            section(f"Slices, {metric}", records, [f"{name}.{metric}" for name in SLICES], without=f".{metric}")
            for metric in SLICED
        ),
        section("The ten items shown", records, list(LIST_VALUES)),
        section(
            "Over seeds: mean [lowest, highest]", records, [name + OVER_SEEDS for name in SLICED], without=OVER_SEEDS
        ),
        section("Paired gains, items new to the user", records, HEADLINE, gains=True),
        section("Paired gains, the whole basket", records, WHOLE_BASKET, gains=True, without=NEXT_BASKET),
    ]
    return "\n\n".join(found for found in sections if found)


def _notes(
    task: RecommendTask,
    runs: SeedRuns,
    baselines: RecommendBaselines,
    store: CaseStore,
    options: BenchOptions,
) -> list[str]:
    known = task.known_before_test
    split = (
        "Leave one out by `pos`: the last item of a user is the test, the one before it the validation. When testing, "
        "the validation item is in the history, and every case may have learnt from the validation items"
        if task.protocol == "leave_one_out"
        else "Next basket: the newest tenth of the baskets is the test window, the tenth before it validation. A user "
        "is asked for the first basket in the window; what was known before the window may be learnt from"
    )
    chosen = [text for name in baselines.names if name in runs.results and (text := baselines.describe(name))]
    return [
        *([QUICK_NOTE] if options.quick else []),
        f"{split}.",
        f"{len(task.test):,} test users, {len(task.validation):,} validation users, {len(known):,} events known before "
        f"the test, {task.n_items:,} items, all of them ranked: no sampled negatives.",
        f"SHA-1 of the split {task.sha1}. Ties: {TIE_RULE}.",
        f"Intervals: 95 %, {options.samples:,} resamples of users, the same for every case. Baselines have no chance "
        f"in them and run once; the model runs once a seed, {options.seeds} in all: its values are means.",
        *task.notes,
        *SLICE_NOTES,
        *([f"Chosen on validation: {'; '.join(chosen)}."] if chosen else []),
        f"Work is kept in {store.folder}.",
    ]
