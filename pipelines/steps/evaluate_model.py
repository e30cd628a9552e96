"""Step: measure the challenger, the champion and the baselines on the same frozen test rows."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import EvaluationConfig, ServingConfig
from pipelines.errors import BundleError
from pipelines.evaluation.baselines import ItemKnn, Popularity, TextProfile
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.bundle_cases import BundleScorer
from pipelines.evaluation.cases import (
    Case,
    CaseResult,
    gain_over,
    measure_cases,
    paired_gains,
    slice_gains,
    slice_sizes,
    summarize,
)
from pipelines.evaluation.examples import Example, examples_of
from pipelines.evaluation.foresight import look_ahead
from pipelines.evaluation.frozen_window import FrozenWindow, MeasuredBundles, RankedCatalog, TextEncoder, read_window
from pipelines.evaluation.golden import ask_golden_queries, golden_titles, read_golden_queries, titles_found
from pipelines.evaluation.interactions import KNN_DAYS, POPULARITY_DAYS
from pipelines.evaluation.invariances import query_overlaps, recommendation_checks
from pipelines.evaluation.latency import RECOMMEND, AnswerTimes, answer_times, time_calls
from pipelines.evaluation.memory import bundle_memory_mib
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.ranks import TIE_RULE
from pipelines.evaluation.row_values import NEXT_BASKET, SLICE_NOTES, SLICES
from pipelines.evaluation.rows import EvaluationRows
from pipelines.evaluation.search_cases import SEARCH, QueryScorer, measure_search
from pipelines.evaluation.slices import script_slices
from pipelines.evaluation.window_jump import JUMP_METRIC, WINDOW_JUMP, window_jump
from pipelines.experiments.model_card import model_card
from pipelines.experiments.plots import (
    QualityPoint,
    latency_histogram,
    metric_bars,
    quality_against_latency,
    slice_intervals,
)
from pipelines.experiments.report import evaluation_page
from pipelines.inference.bundle import Bundle, load_bundle
from pipelines.inference.manifest import OtherVersionError
from pipelines.progress import Progress
from pipelines.promotion.budgets import MEMORY, SIZE
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE, DENSE_CASE
from pipelines.promotion.receipts import is_fresher, receipt_findings
from pipelines.promotion.shadow_findings import shadow_findings
from pipelines.promotion.soundness import OPENS
from pipelines.rollout.shadow_summary import ShadowSummary, summarize_shadow
from pipelines.schemas import CompressedBundle, EvaluationReport, Finding, Metric, TrainingSet
from pipelines.stores.experiment_tracker import ExperimentTracker, StepLog
from pipelines.stores.files import write_text
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.shadow_answers import read_shadow_answers
from pipelines.stores.table_store import TableStore
from pipelines.training.receipt import find_receipt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP = "evaluate_model"
UNTOUCHED_CASE = "untouched_encoder"
_TIMED_ROWS = 20
_CHECKED_ANSWERS = 50
"""Queries, and users, whose answers must not change."""
_SMALLER = 0.9
"""A bundle of at most so much of the champion's size is smaller."""


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
    shadow_answers: Path,
    cache_dir: Path,
    progress: Progress,
) -> EvaluationReport:
    """Rank the whole catalogue for every test row with every case, and keep the report with the version.

    A challenger that does not open or answer has a report that says so, for the gate to refuse. A champion of another
    version (another format, or other activity features) cannot be measured: it is left out, the report says so, and the
    gate asks the challenger to beat the baselines instead.

    Running it again replaces the report; only latencies and memory differ then.

    Args:
        shadow_answers: Folder of what shadows would have answered to live requests.
        cache_dir: Text embeddings by encoder and text; the untouched encoder reads the catalogue once.

    Raises:
        BundleError: the champion cannot be opened.
        ConfigError: the file with the golden queries cannot be read.
        DataError: there are no test rows.
    """
    golden = read_golden_queries(config.golden_queries) if config.golden_queries else []
    with tracker.step(training_set.run, STEP) as log:
        log.params({**config.model_dump(), "metric.ties": TIE_RULE})
        try:
            bundle = load_bundle(compressed.folder)
        except BundleError as error:
            report = _closed(training_set, compressed, error)
            registry.save_report(compressed.version, report)
            _introduce(training_set, tracker.parent(training_set.run))
            return report
        bundles = _with_champion(bundle, bundles_dir, registry)
        encode_queries, encode_items = _untouched_encoder(bundle, cache_dir, progress)
        with tables.connect() as connection:
            data = read_window(connection, training_set, RankedCatalog.of(bundles), config, encode_items)
        log.tags({"champion_left_out": bundles.left_out[0]} if bundles.left_out else {})
        own = BundleScorer(bundle, data.item_ids)
        live = BundleScorer(bundles.live, data.item_ids) if bundles.live else None
        cases = _cases(own, live, data)
        metrics, slice_rows = _metrics(cases, _search_scorers(own, live, data, encode_queries), data, config, progress)
        times = answer_times(bundles.by_case, data.rows, data.judged.queries, serving, config.latency_requests)
        for case, found in _answers(bundles, data, config, serving).items():
            metrics[case] |= {name: Metric(value=value) for name, value in found.items()}
        receipt = find_receipt(bundle.folder)
        theirs = find_receipt(bundles.live.folder) if bundles.live else None
        report = EvaluationReport(
            run=training_set.run,
            bundle=compressed.bundle,
            test_start=training_set.test_start,
            test_end=training_set.test_end,
            users=len(np.unique(data.rows.user_ids)),
            metrics=metrics,
            latency_ms=times[CHALLENGER_CASE].percentiles(),
            costs=_costs(bundles, times, data, config, serving),
            report=training_set.folder / "evaluation" / "report.html",
            champion=bundles.champion,
            rows_fingerprint=data.rows.fingerprint,
            slice_rows=slice_rows,
            is_smaller=bool(bundles.live and _size(bundles.own) <= _SMALLER * _size(bundles.live)),
            is_fresher=is_fresher(receipt, theirs),
            findings=(
                *receipt_findings(receipt, theirs, training_set.test_start),
                look_ahead(bundle, training_set.test_start, data.interactions.counts(), data.item_ids),
                *ask_golden_queries(bundle, golden, serving),
                *shadow_findings(_as_shadow(compressed.bundle, shadow_answers), config.max_shadow_bad_share),
            ),
        )
        figures = _figures(report, cases, data.rows, times)
        examples = examples_of(bundles.by_case, data.rows, data.judged, serving, config.examples)
        notes = [*_notes(data, config), *bundles.left_out]
        _publish(report, compressed, training_set, figures, notes, examples, data, registry, tracker, log)
        card = model_card(bundle.manifest, receipt, report)
        registry.describe(compressed.version, card)
        tracker.parent(report.run).note(card)
    return report


def _as_shadow(bundle: str, shadow_answers: Path) -> list[ShadowSummary]:
    return summarize_shadow(read_shadow_answers(shadow_answers, shadow=bundle))


def _closed(training_set: TrainingSet, compressed: CompressedBundle, error: BundleError) -> EvaluationReport:
    """Return the report of a challenger that cannot be asked anything."""
    finding = Finding(name=OPENS, passed=False, words=f"the challenger cannot be opened: {error}")
    return EvaluationReport(
        run=training_set.run,
        bundle=compressed.bundle,
        test_start=training_set.test_start,
        test_end=training_set.test_end,
        users=0,
        metrics={},
        latency_ms={},
        report=None,
        findings=(finding,),
    )


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


def _cases(own: BundleScorer, live: BundleScorer | None, data: FrozenWindow) -> list[Case]:
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
    own: BundleScorer, live: BundleScorer | None, data: FrozenWindow, encode_queries: TextEncoder
) -> dict[str, QueryScorer]:
    return {
        CHALLENGER_CASE: own.search_scores,
        **({CHAMPION_CASE: live.search_scores} if live else {}),
        DENSE_CASE: own.dense_search_scores,
        "lexical": own.lexical_search_scores,
        UNTOUCHED_CASE: lambda queries: encode_queries(queries) @ data.title_vectors.T,
    }


def _with_champion(own: Bundle, bundles_dir: Path, registry: ModelRegistry) -> MeasuredBundles:
    """Open the champion; where the challenger already is the champion, the one before it."""
    found = registry.champion()
    if found is not None and found.bundle == own.folder.name:
        found = registry.previous_champion()
    if found is None:
        return MeasuredBundles(own)
    folder = bundles_dir / found.bundle
    try:
        live = load_bundle(folder if folder.is_dir() else registry.fetch(found.version, bundles_dir))
    except OtherVersionError as error:
        return MeasuredBundles(own, champion=found.bundle, left_out=(f"The champion is left out. {error}",))
    return MeasuredBundles(own, live, found.bundle)


def _metrics(
    cases: Sequence[Case],
    search_scorers: Mapping[str, QueryScorer],
    data: FrozenWindow,
    config: EvaluationConfig,
    progress: Progress,
) -> tuple[dict[str, dict[str, Metric]], dict[str, int]]:
    """Return case -> metric -> value, and slice -> rows."""
    results = measure_cases(
        data.rows,
        cases,
        data.popularity,
        progress,
        counts=data.interactions.counts(),
        vectors=data.title_vectors,
        item_slices=data.item_slices,
    )
    found = measure_search(
        data.judged, search_scorers, len(data.item_ids), query_slices=script_slices(data.judged.queries)
    )
    metrics: dict[str, dict[str, Metric]] = {}
    sizes: dict[str, int] = {}
    for measured, owners, prefix in (
        (results, data.rows.user_ids, ""),
        (found, np.asarray(data.judged.queries), SEARCH),
    ):
        bootstrap = UserBootstrap(owners, samples=config.bootstrap_samples, seed=config.seed)
        parts = [summarize(measured, bootstrap, prefix), paired_gains(measured, CHALLENGER_CASE, bootstrap, prefix)]
        if CHAMPION_CASE in measured:
            gains = slice_gains(measured, CHALLENGER_CASE, CHAMPION_CASE, bootstrap, prefix)
            parts.append({gain_over(CHAMPION_CASE): gains})
        for part in parts:
            for case, values in part.items():
                metrics.setdefault(case, {}).update(values)
        sizes |= slice_sizes(measured[CHALLENGER_CASE], prefix)
    if jump := _jump(cases, results, data, config, progress):
        metrics[CHALLENGER_CASE][WINDOW_JUMP] = jump
    return metrics, sizes


def _jump(
    cases: Sequence[Case],
    results: Mapping[str, CaseResult],
    data: FrozenWindow,
    config: EvaluationConfig,
    progress: Progress,
) -> Metric | None:
    """Return how much more the towers gain over the untouched encoder on the test window than before it."""
    rows = data.validation
    if rows is None:
        return None
    compared = [case for case in cases if case.name in (DENSE_CASE, UNTOUCHED_CASE)]
    earlier = measure_cases(
        rows, compared, data.popularity, progress, counts=data.interactions.counts(), vectors=data.title_vectors
    )
    gains = [
        found[DENSE_CASE].values[JUMP_METRIC] - found[UNTOUCHED_CASE].values[JUMP_METRIC]
        for found in (results, earlier)
    ]
    return window_jump(
        gains[0], data.rows.user_ids, gains[1], rows.user_ids, samples=config.bootstrap_samples, seed=config.seed
    )


def _answers(
    bundles: MeasuredBundles, data: FrozenWindow, config: EvaluationConfig, serving: ServingConfig
) -> dict[str, dict[str, float]]:
    """Return, for both bundles, whether titles find their items and answers stay what they are."""
    queries = data.judged.queries[:_CHECKED_ANSWERS]
    places = np.linspace(0, len(data.rows) - 1, min(_CHECKED_ANSWERS, len(data.rows)), dtype=int).tolist()
    titles = golden_titles(bundles.own, data.item_ids, data.popularity, config.golden_titles)
    return {
        case: {
            **titles_found(bundle, titles, serving),
            **query_overlaps(bundle, queries, serving),
            **recommendation_checks(bundle, data.rows, places, serving),
        }
        for case, bundle in bundles.by_case.items()
    }


def _costs(
    bundles: MeasuredBundles,
    times: Mapping[str, AnswerTimes],
    data: FrozenWindow,
    config: EvaluationConfig,
    serving: ServingConfig,
) -> dict[str, dict[str, float]]:
    """Return, for both bundles, the milliseconds of an answer, and MiB of memory and of disk."""
    queries = data.judged.queries
    return {
        case: {
            **{f"{name}_ms": value for name, value in times[case].percentiles().items()},
            MEMORY: bundle_memory_mib(bundle.folder, data.rows, queries, serving, config.memory_requests),
            SIZE: _size(bundle),
        }
        for case, bundle in bundles.by_case.items()
    }


def _size(bundle: Bundle) -> float:
    return bundle.manifest.size_mib


def _notes(data: FrozenWindow, config: EvaluationConfig) -> list[str]:
    rows = data.rows
    with_new = sum(len(targets) > 0 for targets in rows.new_targets)
    return [
        f"{len(rows):,} baskets, {with_new:,} of them with an item that is new to the user; SHA-1 of the rows "
        f"{rows.fingerprint}.",
        f"Full ranking of {len(data.item_ids):,} items, those that challenger or champion have, no sampled negatives; "
        f"{TIE_RULE}.",
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
    training_set: TrainingSet,
    figures: "Mapping[str, Figure]",
    notes: Sequence[str],
    examples: Sequence[Example],
    data: FrozenWindow,
    registry: ModelRegistry,
    tracker: ExperimentTracker,
    log: StepLog,
) -> None:
    """Write the page, log everything to MLflow and keep the report with the version."""
    if report.report is not None:
        write_text(report.report, evaluation_page(report, notes, figures, examples))
        log.artifact(report.report, "report")
    for caption, figure in figures.items():
        log.figure(figure, caption.lower().replace(" ", "_") + ".png")
    log.metrics({f"{case}.{name}": value for case, found in report.metrics.items() for name, value in found.items()})
    for case, costs in report.costs.items():
        log.metrics(costs, prefix=f"{case}.")
    log.dataset("test_rows", data.rows.fingerprint, len(data.rows), "training set", context="evaluation")
    registry.save_report(compressed.version, report)
    _summarize(report, training_set, data, tracker.parent(report.run))


def _introduce(training_set: TrainingSet, parent: StepLog) -> None:
    """Give the parent run a name that says what it is, and what it was made from."""
    kind = "incremental" if training_set.incremental else "from zero"
    # what tells runs apart comes first: MLflow's lists cut names off
    parent.rename(f"{training_set.validation_start:%Y-%m-%d} {training_set.run[:6]} {kind}")
    parent.facts(
        {
            "kind": kind,
            "started_from": training_set.champion or "pre-trained encoder",
            "rows_since": f"{training_set.since:%Y-%m-%d}" if training_set.since else "",
            "rows_until": f"{training_set.validation_start:%Y-%m-%d}",
            "rows_train": training_set.rows.get("train", 0),
            "rows_replayed": training_set.replayed,
            "test_window": f"{training_set.test_start:%Y-%m-%d} to {training_set.test_end:%Y-%m-%d}",
        }
    )


def _summarize(report: EvaluationReport, training_set: TrainingSet, data: FrozenWindow, parent: StepLog) -> None:
    """Give the parent run the metrics by which runs are compared: intervals for the gain over the champion alone."""
    _introduce(training_set, parent)
    own = {name: metric.value for name, metric in _comparable(report, CHALLENGER_CASE).items()}
    gains = report.metrics.get(gain_over(CHAMPION_CASE), {})
    parent.metrics({**own, **report.costs[CHALLENGER_CASE]})
    parent.metrics({name: gains[name] for name in METRICS if name in gains}, prefix="gain_over_champion.")
    parent.tags({"champion": report.champion or "none"})
    parent.dataset("training_rows", training_set.fingerprint, training_set.rows.get("train", 0), "training set")
    parent.dataset("test_rows", data.rows.fingerprint, len(data.rows), "training set", context="evaluation")


def _comparable(report: EvaluationReport, case: str) -> dict[str, Metric]:
    """Return the metrics that every run has: slices that the data brings along, such as categories, are left out."""
    own_slices = report.slice_rows.keys() - set(SLICES)
    found = report.metrics.get(case, {})
    return {name: metric for name, metric in found.items() if name.rpartition(".")[0] not in own_slices}


def _figures(
    report: EvaluationReport, cases: Sequence[Case], rows: EvaluationRows, times: Mapping[str, AnswerTimes]
) -> "dict[str, Figure]":
    """Draw the pictures; bundles are timed as they serve, other cases as they score every item."""
    latency = {case.name: _latency_ms(case, rows) for case in cases if case.name not in times}
    latency |= {name: float(np.median(found.by_kind[RECOMMEND])) for name, found in times.items()}
    measured = {case.name: report.metrics[case.name] for case in cases}
    own = report.metrics[CHALLENGER_CASE]
    shown = [name for name in ("recall@10", "ndcg@10", NEXT_BASKET + "recall@10") if name in own]
    points = [
        QualityPoint(name, found[shown[0]], latency[name], report.costs.get(name, {}).get(SIZE))
        for name, found in measured.items()
        if shown[0] in found
    ]
    return {
        "Quality of each case": metric_bars(measured, shown),
        "Quality of each slice": slice_intervals(report.metrics, report.slice_rows, (CHALLENGER_CASE, CHAMPION_CASE)),
        "Quality against latency": quality_against_latency(points, shown[0]),
        "Latency of an answer": latency_histogram({case: found.by_kind for case, found in times.items()}),
    }


def _latency_ms(case: Case, rows: EvaluationRows) -> float:
    """Return the median time to score every item for one user."""
    parts = [rows.part(place, place + 1) for place in range(min(_TIMED_ROWS, len(rows)))]
    return float(np.median(time_calls([partial(case.score, part) for part in parts], warm_up=2)))
