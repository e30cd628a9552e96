"""Step: measure the challenger, the champion and the baselines on the same frozen test rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import EvaluationConfig, ServingConfig
from pipelines.evaluation.baselines import ItemKnn, Popularity, TextProfile
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.bundle_cases import BundleScorer
from pipelines.evaluation.cases import Case, measure_cases, paired_gains, summarize
from pipelines.evaluation.interactions import KNN_DAYS, POPULARITY_DAYS, Interactions, read_interactions
from pipelines.evaluation.latency import bundle_latency_ms, time_calls
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranks import TIE_RULE
from pipelines.evaluation.row_values import NEXT_BASKET, SLICE_NOTES
from pipelines.evaluation.rows import EvaluationRows, read_rows
from pipelines.evaluation.search_cases import SEARCH, JudgedQueries, QueryScorer, measure_search, same_text_targets
from pipelines.experiments.plots import QualityPoint, metric_bars, quality_against_latency
from pipelines.experiments.report import evaluation_page
from pipelines.inference.bundle import Bundle, OtherVersionError, load_bundle
from pipelines.progress import Progress
from pipelines.promotion.gate import CHALLENGER_CASE, CHAMPION_CASE
from pipelines.schemas import CompressedBundle, EvaluationReport, Metric, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.files import write_text
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import Catalog, load_catalog
from pipelines.training.catalog_queries import catalog_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP = "evaluate_model"
DENSE_CASE = "headrace_dense"
UNTOUCHED_CASE = "untouched_encoder"
_QUERY_STREAM = 97
"""Keeps the made-up test queries apart from those that training draws with the same seed."""
_TIMED_ROWS = 20

TextEncoder = Callable[[Sequence[str]], np.ndarray]
"""Texts -> float32 `(n, dim)`, each row L2 norm 1."""


@dataclass(frozen=True)
class _Data:
    """What all cases share."""

    item_ids: list[str]
    """The challenger's catalogue: what every row number means."""
    title_vectors: np.ndarray
    """float32 `(n_items, dim)` by the untouched encoder, each row L2 norm 1."""
    rows: EvaluationRows
    interactions: Interactions
    judged: JudgedQueries

    @cached_property
    def popularity(self) -> np.ndarray:
        """float32 `(n_items,)`, recent events of each item."""
        return self.interactions.newest(POPULARITY_DAYS).counts()


def evaluate_model(
    training_set: TrainingSet,
    compressed: CompressedBundle,
    *,
    tables: TableStore,
    bundles_dir: Path,
    registry: ModelRegistry,
    tracker: ExperimentTracker,
    config: EvaluationConfig,
    serving: ServingConfig,
    cache_dir: Path,
    progress: Progress,
) -> EvaluationReport:
    """Rank the whole catalogue for every test row with every case, and keep the report with the version.

    A champion of another version (another format, or other activity features) cannot be measured: it is left out, the
    report says so, and the gate asks the challenger to beat the baselines instead.

    Running it again replaces the report; only the latencies differ then.

    Args:
        cache_dir: Text embeddings by encoder and text; the untouched encoder reads the catalogue once.

    Raises:
        BundleError: the challenger or the champion cannot be opened.
        DataError: there are no test rows.
    """
    bundle = load_bundle(compressed.folder)
    with tracker.step(training_set.run, STEP) as log:
        log.params({**config.model_dump(), "metric.ties": TIE_RULE})
        encode_queries, encode_items = _untouched_encoder(bundle, cache_dir, progress)
        data = _read(training_set, bundle, tables, config, encode_items)
        champion, left_out = _champion(compressed, bundles_dir, registry)
        log.tags({"champion_left_out": left_out[0]} if left_out else {})
        own = BundleScorer(bundle, data.item_ids)
        live = BundleScorer(champion, data.item_ids) if champion else None
        cases = _cases(own, live, data)
        metrics = _metrics(cases, _search_scorers(own, live, data, encode_queries), data, config, progress)
        report = EvaluationReport(
            run=training_set.run,
            bundle=compressed.bundle,
            test_start=training_set.test_start,
            test_end=training_set.test_end,
            users=len(np.unique(data.rows.user_ids)),
            metrics=metrics,
            latency_ms=bundle_latency_ms(bundle, data.rows, data.judged.queries, serving, config.latency_requests),
            report=training_set.folder / "evaluation" / "report.html",
        )
        served_ms = {CHALLENGER_CASE: report.latency_ms["recommend_p50"]}
        if champion:
            asked = bundle_latency_ms(champion, data.rows, [], serving, config.latency_requests)
            served_ms[CHAMPION_CASE] = asked["recommend_p50"]
        figures = _figures(report, cases, data.rows, served_ms)
        _publish(report, compressed, figures, [*_notes(data, config), *left_out], data, registry, tracker, log)
    return report


def _read(
    training_set: TrainingSet, bundle: Bundle, tables: TableStore, config: EvaluationConfig, encode_items: TextEncoder
) -> _Data:
    from pipelines.training.search_pairs import MIN_LOGGED_PAIRS, logged_pairs  # imports torch

    with tables.connect() as connection:
        catalog = load_catalog(connection, training_set.test_start)
        interactions = read_interactions(connection, bundle.item_ids, training_set.test_start)
        earlier = logged_pairs(connection, catalog, training_set.test_start)
        logged = logged_pairs(connection, catalog, training_set.test_end)
    # Items may have come or gone since the challenger was made: its catalogue is the one that counts.
    text_of = dict(zip(catalog.item_ids, catalog.texts, strict=True))
    texts = [text_of.get(item_id, title) for item_id, title in zip(bundle.item_ids, bundle.titles, strict=True)]
    typed = len(logged[0]) - len(earlier[0])  # newest first, so that many are of the test window
    fresh = (logged[0][:typed], logged[1][:typed]) if typed >= MIN_LOGGED_PAIRS else None
    return _Data(
        item_ids=bundle.item_ids,
        title_vectors=encode_items(texts),
        rows=read_rows(training_set.folder, "test", bundle.item_ids),
        interactions=interactions,
        judged=_judged_queries(fresh, catalog, bundle, texts, config),
    )


def _judged_queries(
    fresh: tuple[list[str], np.ndarray] | None,
    catalog: Catalog,
    bundle: Bundle,
    texts: Sequence[str],
    config: EvaluationConfig,
) -> JudgedQueries:
    """Return the searches of the test window and what was chosen; made-up ones where `fresh` is None."""
    if fresh is None:
        rng = np.random.default_rng([config.seed, _QUERY_STREAM])
        queries, wanted = catalog_pairs(catalog, config.search_queries, rng)
        origin = "made up from titles and categories, for want of a search log; drawn apart from those of training"
    else:
        (queries, wanted), origin = fresh, "searches of the test window"
    rows = bundle.rows_of([catalog.item_ids[row] for row in wanted])
    kept = np.flatnonzero(rows >= 0)[: config.search_queries]
    return JudgedQueries([queries[place] for place in kept], same_text_targets(rows[kept], texts), origin)


def _untouched_encoder(bundle: Bundle, cache_dir: Path, progress: Progress) -> tuple[TextEncoder, TextEncoder]:
    """Return the pre-trained encoder that the bundle once started from, for queries, and behind the cache for items."""
    from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint, load_encoder

    encoder, tokenizer = load_encoder(bundle.manifest.encoder)
    max_tokens = bundle.preprocessing.max_tokens
    name = f"{encoder_fingerprint(encoder)}-float32-{max_tokens}"

    def encode(texts: Sequence[str]) -> np.ndarray:
        return encode_texts(
            encoder, tokenizer, texts, max_tokens=max_tokens, progress=progress, stage="texts encoded, untouched"
        )

    return encode, lambda texts: EmbeddingCache(cache_dir).encode(texts, name, encoder.dim, encode)


def _cases(own: BundleScorer, live: BundleScorer | None, data: _Data) -> list[Case]:
    known = data.interactions.newest(KNN_DAYS)
    return [
        Case(CHALLENGER_CASE, own.fused_scores, own_fallback=True),
        *([Case(CHAMPION_CASE, live.fused_scores, own_fallback=True)] if live else []),
        Case(DENSE_CASE, own.dense_scores),
        Case("popularity", Popularity(data.popularity).scores),
        Case("item_knn", ItemKnn(known.users, known.items, known.n_items).scores),
        Case(UNTOUCHED_CASE, TextProfile(data.title_vectors).scores),
    ]


def _search_scorers(
    own: BundleScorer, live: BundleScorer | None, data: _Data, encode_queries: TextEncoder
) -> dict[str, QueryScorer]:
    return {
        CHALLENGER_CASE: own.search_scores,
        **({CHAMPION_CASE: live.search_scores} if live else {}),
        DENSE_CASE: own.dense_search_scores,
        "lexical": own.lexical_search_scores,
        UNTOUCHED_CASE: lambda queries: encode_queries(queries) @ data.title_vectors.T,
    }


def _champion(
    compressed: CompressedBundle, bundles_dir: Path, registry: ModelRegistry
) -> tuple[Bundle | None, list[str]]:
    """Open the champion; where the challenger already is the champion, the one before it.

    Returns:
        The bundle, or none with the reason why it cannot be measured.
    """
    found = registry.champion()
    if found is not None and found.bundle == compressed.bundle:
        found = registry.previous_champion()
    if found is None:
        return None, []
    folder = bundles_dir / found.bundle
    try:
        return load_bundle(folder if folder.is_dir() else registry.fetch(found.version, bundles_dir)), []
    except OtherVersionError as error:
        return None, [f"The champion is left out. {error}"]


def _metrics(
    cases: Sequence[Case],
    search_scorers: Mapping[str, QueryScorer],
    data: _Data,
    config: EvaluationConfig,
    progress: Progress,
) -> dict[str, dict[str, Metric]]:
    results = measure_cases(
        data.rows, cases, data.popularity, progress, counts=data.interactions.counts(), vectors=data.title_vectors
    )
    users = UserBootstrap(data.rows.user_ids, samples=config.bootstrap_samples, seed=config.seed)
    metrics = {**summarize(results, users), **paired_gains(results, CHALLENGER_CASE, users)}
    found = measure_search(data.judged, search_scorers, len(data.item_ids))
    queries = UserBootstrap(np.asarray(data.judged.queries), samples=config.bootstrap_samples, seed=config.seed)
    searches = {**summarize(found, queries, SEARCH), **paired_gains(found, CHALLENGER_CASE, queries, SEARCH)}
    return {case: {**metrics.get(case, {}), **searches.get(case, {})} for case in {**metrics, **searches}}


def _notes(data: _Data, config: EvaluationConfig) -> list[str]:
    rows = data.rows
    with_new = sum(len(targets) > 0 for targets in rows.new_targets)
    return [
        f"{len(rows):,} baskets, {with_new:,} of them with an item that is new to the user; SHA-1 of the rows "
        f"{rows.fingerprint}.",
        f"Full ranking of {len(data.item_ids):,} items, no sampled negatives; {TIE_RULE}.",
        "recall@k is the share of the basket's items among the first k; ndcg@10 has gains of 0 and 1; mrr looks at the "
        "first hit in the whole ranking.",
        f"Intervals: {config.bootstrap_samples:,} resamples of users (of queries for search), the same for every case, "
        "so that gains are paired.",
        f"popularity counts the newest {POPULARITY_DAYS} days before the test window; item_knn is the cosine of items "
        f"over the users of the newest {KNN_DAYS} days, with recency 0.7^age in baskets. Both know everything before "
        "the test window, the challenger what was there before its validation window.",
        "A case that knows nothing about a user ranks by popularity.",
        *SLICE_NOTES,
        "headrace is what the service ranks by, without its filter for what was bought within the last days; "
        "headrace_dense is the model alone.",
        "Time for one user: headrace and the champion as they serve, the other cases as they score every item.",
        f"{len(data.judged.queries):,} queries: {data.judged.origin}.",
    ]


def _publish(
    report: EvaluationReport,
    compressed: CompressedBundle,
    figures: "Mapping[str, Figure]",
    notes: Sequence[str],
    data: _Data,
    registry: ModelRegistry,
    tracker: ExperimentTracker,
    log: StepLog,
) -> None:
    """Write the page, log everything to MLflow and keep the report with the version."""
    if report.report is not None:
        write_text(report.report, evaluation_page(report, notes, figures))
        log.artifact(report.report, "report")
    for caption, figure in figures.items():
        log.figure(figure, caption.lower().replace(" ", "_") + ".png")
    log.metrics({f"{case}.{name}": value for case, found in report.metrics.items() for name, value in found.items()})
    log.metrics(report.latency_ms, prefix="latency_ms.")
    log.dataset("test_rows", data.rows.fingerprint, len(data.rows), "training set", context="evaluation")
    registry.save_report(compressed.version, report)
    own = report.metrics[CHALLENGER_CASE]
    headline = {name: own[name] for name in METRICS if name in own}
    tracker.parent(report.run).metrics({**headline, **report.latency_ms, "size_mib": compressed.size_mib})


def _figures(
    report: EvaluationReport, cases: Sequence[Case], rows: EvaluationRows, served_ms: Mapping[str, float]
) -> "dict[str, Figure]":
    """Draw the pictures; bundles are timed as they serve (`served_ms`), other cases as they score every item."""
    latency = {**{case.name: _latency_ms(case, rows) for case in cases if case.name not in served_ms}, **served_ms}
    measured = {case.name: report.metrics[case.name] for case in cases}
    own = report.metrics[CHALLENGER_CASE]
    shown = [name for name in ("recall@10", "ndcg@10", NEXT_BASKET + "recall@10") if name in own]
    points = [QualityPoint(name, found[shown[0]], latency[name]) for name, found in measured.items()]
    return {
        "Quality of each case": metric_bars(measured, shown),
        "Quality against latency": quality_against_latency(points, shown[0]),
    }


def _latency_ms(case: Case, rows: EvaluationRows) -> float:
    """Return the median time to score every item for one user."""
    parts = [rows.part(place, place + 1) for place in range(min(_TIMED_ROWS, len(rows)))]
    return float(np.median(time_calls([partial(case.score, part) for part in parts], warm_up=2)))
