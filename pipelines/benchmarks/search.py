"""`bench search`: how well the answers of held-out queries are found; the whole corpus is ranked.

ndcg@10       gains are grades above the lowest; what nobody judged counts as nothing
recall@100    items with a grade in the top third
recall@10, mrr  of the same items
slices        short and long queries
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.fingerprint import search_fingerprint
from pipelines.benchmarks.folder import read_search_folder, smaller_search_folder
from pipelines.benchmarks.protocols import GradedQueries, SearchTask, search_split
from pipelines.benchmarks.record_book import OVER_SEEDS, RecordBook, section
from pipelines.benchmarks.records import BenchmarkRecord
from pipelines.benchmarks.runs import QUICK_NOTE, WITHOUT, BenchOptions, SeedRuns, publish, run_cases
from pipelines.benchmarks.search_baselines import NAMES, QueryScorer, SearchBaselines, query_blocks
from pipelines.benchmarks.time_left import TimeLeft
from pipelines.benchmarks.untouched import untouched_encoder
from pipelines.errors import DataError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.graded import graded_ndcg, share_found
from pipelines.evaluation.ranks import TIE_RULE, put_broken_last, target_ranks
from pipelines.progress import Progress
from pipelines.ranking.search_candidates import GENERATORS

BENCH = "search"
MODEL_CASES = ("headrace", "headrace_dense", "headrace_lexical", *(WITHOUT + part for part in ("ranker", *GENERATORS)))
HEADLINE = ("ndcg@10", "recall@100", "recall@10", "mrr")
_SLICED = ("ndcg@10", "recall@100")
_SLICES = ("short queries", "long queries")
SHORT_QUERY, LONG_QUERY = 2, 5
"""Words of a short query at most, and of a long one at least."""


def bench_search(
    data: Path, options: BenchOptions, progress: Progress, *, lowest_grade: float | None = None
) -> list[BenchmarkRecord]:
    """Measure baselines and model on a folder, print tables and write the records.

    Args:
        data: A folder with `items.parquet` and `judgements.parquet`.
        lowest_grade: The grade that says "not relevant"; None takes the lowest of the folder.

    Raises:
        DataError: the folder cannot be used; the message says why.
        ConfigError: the encoder is not installed.
    """
    timed = TimeLeft(progress)
    read = read_search_folder(data)
    task = search_split(smaller_search_folder(read) if options.quick else read, lowest_grade)
    scale = "" if lowest_grade is None else f"-from-{lowest_grade:g}"
    store = CaseStore(options.folder(BENCH, task.data + scale, task.sha1, search_fingerprint(task)))
    baselines = SearchBaselines(task, untouched_encoder(options.cache, timed, options.encoder), store, timed)
    measure = _measurer(task.test, task.n_items, timed)
    fit = _model(task, store, options, timed)
    runs = run_cases(
        NAMES, MODEL_CASES, lambda name: measure(baselines.scorer(name)), fit, measure, store, options, timed
    )
    records = _records(task, runs, options)
    publish(
        records,
        _tables(records),
        _notes(task, runs, baselines, store, options),
        options,
        figure_metrics=HEADLINE[:2],
    )
    return records


def query_metrics(queries: GradedQueries, ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of each query, float64 `(n,)`, NaN for a query that does not count.

    A query without any gain has no best order and does not count for NDCG; one without a relevant item does not count
    for recall and MRR.

    Args:
        ranks: int64 `(n_judged,)`, ranks of the judged items of all queries, one query after the other.
    """
    of_query = np.split(ranks, np.cumsum([len(items) for items in queries.items])[:-1])
    relevant = [
        found[np.isin(items, wanted)]
        for found, items, wanted in zip(of_query, queries.items, queries.relevant, strict=True)
    ]
    values = {
        "ndcg@10": np.asarray([graded_ndcg(*pair) for pair in zip(of_query, queries.gains, strict=True)]),
        "recall@100": np.asarray([share_found(found, 100) for found in relevant]),
        "recall@10": np.asarray([share_found(found, 10) for found in relevant]),
        "mrr": np.asarray([1 / found.min() if len(found) else np.nan for found in relevant]),
    }
    words = np.asarray([len(query.split()) for query in queries.queries])
    for name, kept in zip(_SLICES, (words <= SHORT_QUERY, words >= LONG_QUERY), strict=True):
        values |= {f"{name}.{metric}": np.where(kept, values[metric], np.nan) for metric in _SLICED}
    return values


def _model(
    task: SearchTask, store: CaseStore, options: BenchOptions, progress: Progress
) -> Callable[[int], Mapping[str, QueryScorer]]:
    """Return what trains the model with one seed; torch is imported when it does."""

    def fit(seed: int) -> Mapping[str, QueryScorer]:
        from pipelines.benchmarks.search_model import fit_searcher

        return fit_searcher(task, seed=seed, work=store.model_folder(seed), quick=options.quick, progress=progress)

    return fit


def _measurer(
    queries: GradedQueries, n_items: int, progress: Progress
) -> Callable[[QueryScorer], dict[str, np.ndarray]]:
    """Return a function that ranks the corpus for all queries with one scorer, block by block."""

    def measure(score: QueryScorer) -> dict[str, np.ndarray]:
        ranks, done = [], 0
        for block in query_blocks(queries, n_items):
            scores = score(block.queries)
            if scores.shape != (len(block), n_items):
                raise DataError(f"A case gave scores of shape {scores.shape}, ({len(block)}, {n_items}) is needed.")
            put_broken_last(scores)
            ranks += [target_ranks(row, items)[0] for row, items in zip(scores, block.items, strict=True)]
            done += len(block)
            progress.update("queries ranked", done, len(queries))
        return {"ranks": np.concatenate(ranks)}

    return measure


def _records(task: SearchTask, runs: SeedRuns, options: BenchOptions) -> list[BenchmarkRecord]:
    queries = task.test
    bootstrap = UserBootstrap(np.arange(len(queries)), samples=options.samples, seed=0)
    book = RecordBook(BENCH, f"{task.data}, quick" if options.quick else task.data, bootstrap)
    for case, results in runs.results.items():
        book.add_rows(case, [query_metrics(queries, one["ranks"]) for one in results], over_seeds=_SLICED)
    book.add_gains(runs.baselines, HEADLINE, best_by="ndcg@10")
    return book.records


def _tables(records: Sequence[BenchmarkRecord]) -> str:
    sections = [
        section("Held-out queries", records, HEADLINE),
        *(
            section(f"Slices, {metric}", records, [f"{name}.{metric}" for name in _SLICES], without=f".{metric}")
            for metric in _SLICED
        ),
        section(
            "Over seeds: mean [lowest, highest]", records, [name + OVER_SEEDS for name in _SLICED], without=OVER_SEEDS
        ),
        section("Paired gains", records, HEADLINE, gains=True),
    ]
    return "\n\n".join(found for found in sections if found)


def _notes(
    task: SearchTask,
    runs: SeedRuns,
    baselines: SearchBaselines,
    store: CaseStore,
    options: BenchOptions,
) -> list[str]:
    scale, queries = task.scale, task.test
    gain = "1 for every judged item" if scale.lowest == scale.highest else f"grade − {scale.lowest:g}, at least 0"
    chosen = [text for name in NAMES if name in runs.results and (text := baselines.describe(name))]
    without_gain = sum(not found.any() for found in queries.gains)
    without_relevant = sum(len(found) == 0 for found in queries.relevant)
    return [
        *([QUICK_NOTE] if options.quick else []),
        "Queries are divided by the SHA-1 of their text, first byte modulo 5: 0 is test, 1 validation, 2 to 4 train.",
        f"{len(queries):,} test queries, {len(task.validation):,} validation, {len(task.train):,} train; "
        f"{task.n_items:,} items, all of them ranked. What nobody judged counts as nothing, so values are low and only "
        "comparisons inside one table mean something.",
        f"NDCG@10: gain = {gain}, worth 2^gain − 1; {without_gain:,} queries without a gain do not count. Recall and "
        f"MRR: grades from {scale.relevant_from:g} (the top third) are relevant; {without_relevant:,} queries without "
        "one do not count.",
        f"SHA-1 of the judgements {task.sha1}. Ties: {TIE_RULE}.",
        f"Intervals: 95 %, {options.samples:,} resamples of queries, the same for every case. Baselines have no chance "
        f"in them and run once; the model runs once a seed, {options.seeds} in all: its values are means.",
        f"Short queries have {SHORT_QUERY} words or fewer, long ones {LONG_QUERY} or more.",
        *([f"Chosen on validation: {'; '.join(chosen)}."] if chosen else []),
        f"Work is kept in {store.folder}.",
    ]
