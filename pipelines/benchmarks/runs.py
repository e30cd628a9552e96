"""The course of a quality bench: baselines once, the model once a seed, nothing measured twice, results published."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click
import numpy as np

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.records import BenchmarkRecord, write_records
from pipelines.benchmarks.time_left import TimeLeft, in_words
from pipelines.config import HeadraceConfig, TrainingConfig
from pipelines.errors import ConfigError
from pipelines.schemas import Metric
from pipelines.stores.files import text_sha256

WITHOUT = "without "
"""What names of the model without a part begin with."""
_MODEL_SETTINGS = ("training_set", "training", "compression", "ranker", "search_ranker")
"""Sections of the settings that a measured model depends on."""
QUICK_NOTE = (
    "QUICK: a sample of the data and a short training. This only shows that it runs: the numbers are no result."
)
ScorerT = TypeVar("ScorerT")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class BenchOptions:
    """What a person may choose."""

    work: Path
    """Folder of unfinished and finished work, kept between runs."""
    cache: Path
    """Folder of text embeddings."""
    seeds: int = 3
    cases: tuple[str, ...] = ()
    """Only these; empty: all."""
    quick: bool = False
    fresh: bool = False
    """Measure the cases again although they are stored."""
    ablation: bool = False
    """Measure the model without each of its parts as well, with the first seed; the search bench always does."""
    json_file: Path | None = None
    plot_file: Path | None = None
    samples: int = 1_000
    """Resamples behind an interval."""
    encoder: str | None = None
    """The untouched encoder of the baselines; None takes the one that training starts from."""
    image_encoder: str | None = None
    """What looks at the pictures of the items, as in `training.image_encoder`; None does without."""

    def folder(self, bench: str, data: str, sha1: str, fingerprint: str, config: HeadraceConfig | None = None) -> Path:
        """Return the folder of one split of one state of the data, under these settings.

        Args:
            sha1: Of the questions.
            fingerprint: Of everything that is known.
            config: Settings of the model; None takes the defaults.
        """
        encoder = self.encoder or TrainingConfig().encoder
        settings = (config or HeadraceConfig()).model_dump_json(include=set(_MODEL_SETTINGS))
        known = text_sha256(fingerprint, json.dumps([encoder, self.image_encoder]), settings)
        return self.work / f"{bench}-{data}-{sha1[:12]}-{known[:12]}{'-quick' if self.quick else ''}"


@dataclass(frozen=True)
class SeedRuns:
    """Results by case, one a seed."""

    baselines: tuple[str, ...]
    """Names of the cases without chance."""
    results: Mapping[str, Sequence[Arrays]] = field(default_factory=dict)


def run_cases(
    baselines: Sequence[str],
    model_cases: Sequence[str],
    measure_baseline: Callable[[str], Arrays],
    fit: Callable[[int], Mapping[str, ScorerT]],
    measure: Callable[[ScorerT], Arrays],
    store: CaseStore,
    options: BenchOptions,
    progress: TimeLeft,
) -> SeedRuns:
    """Measure what is wanted and not stored yet.

    Args:
        model_cases: Names of the model's cases that `fit` may return under these options.
        fit: Trains the model with one seed and returns its cases.

    Raises:
        ConfigError: `--cases` names a case that there is not.
    """
    stored = store.model_cases(0) or []
    _refuse_unknown(options.cases, [*baselines, *dict.fromkeys([*model_cases, *([] if options.fresh else stored)])])
    wanted = [name for name in baselines if not options.cases or name in options.cases]
    with_model = not options.cases or len(wanted) < len(set(options.cases))
    if options.fresh:
        store.forget(wanted)
        if with_model:
            store.forget_model()
    results: dict[str, list[Arrays]] = {}
    spent: list[float] = []
    for place, name in enumerate(wanted):
        if not store.has(name):
            progress.begin(f"[{place + 1}/{len(wanted)}{_left(spent, len(wanted) - place)}] {name}")
            began = time.perf_counter()
            store.save(name, None, measure_baseline(name))
            spent.append(time.perf_counter() - began)
        results[name] = [store.load(name)]
    if with_model:
        for name, found in _model_results(model_cases, fit, measure, store, options, progress).items():
            results[name] = found
    progress.begin("")
    return SeedRuns(tuple(wanted), results)


def publish(
    records: Sequence[BenchmarkRecord],
    tables: str,
    notes: Sequence[str],
    options: BenchOptions,
    figure_metrics: Sequence[str],
) -> None:
    """Print the tables and notes; write the JSON and the picture where they are wanted."""
    click.echo(tables)
    click.echo("\n" + "\n".join(notes))
    if options.json_file:
        write_records(records, options.json_file)
        click.echo(f"Records: {options.json_file}")
    plot = options.plot_file or (options.json_file.with_suffix(".png") if options.json_file else None)
    if plot and (drawn := [name for name in figure_metrics if any(record.metric == name for record in records)]):
        draw(records, drawn, plot)
        click.echo(f"Picture: {plot}")


def draw(records: Sequence[BenchmarkRecord], metrics: Sequence[str], path: Path) -> None:
    """Draw one panel a metric and one bar a case."""
    from pipelines.experiments.plots import metric_bars, save_figure

    values: dict[str, dict[str, Metric]] = {}
    for record in records:
        if record.metric in metrics and ": gain over" not in record.case:
            found = Metric(value=record.value, low=record.low, high=record.high)
            values.setdefault(record.case, {})[record.metric] = found
    save_figure(metric_bars(values, list(metrics)), path)


def _model_results(
    model_cases: Sequence[str],
    fit: Callable[[int], Mapping[str, ScorerT]],
    measure: Callable[[ScorerT], Arrays],
    store: CaseStore,
    options: BenchOptions,
    progress: TimeLeft,
) -> dict[str, list[Arrays]]:
    results: dict[str, list[Arrays]] = {}
    spent: list[float] = []
    for seed in range(options.seeds):
        names = store.model_cases(seed)
        if names is None or (options.ablation and seed == 0 and not any(map(is_ablation, names))):
            left = _left(spent, options.seeds - seed)
            progress.begin(f"[model, seed {seed + 1} of {options.seeds}{left}]")
            began = time.perf_counter()
            names = _measure_seed(seed, fit, measure, store, progress)
            spent.append(time.perf_counter() - began)
        for name in sorted(names, key=_own_place):
            if not options.cases or name in options.cases:
                results.setdefault(name, []).append(store.load(name, seed))
    if missing := [name for name in options.cases if name in model_cases and name not in results]:
        raise ConfigError(
            f"--cases {', '.join(missing)}: the model came out without (it has: {', '.join(names or [])})."
        )
    return results


def _measure_seed(
    seed: int,
    fit: Callable[[int], Mapping[str, ScorerT]],
    measure: Callable[[ScorerT], Arrays],
    store: CaseStore,
    progress: TimeLeft,
) -> list[str]:
    scorers = fit(seed)
    for place, (name, scorer) in enumerate(scorers.items()):
        if not store.has(name, seed):
            progress.begin(f"[model, seed {seed + 1}, {place + 1}/{len(scorers)}] {name}")
            store.save(name, seed, measure(scorer))
    store.finish_model(seed, list(scorers))
    return list(scorers)


def is_ablation(case: str) -> bool:
    """Whether a case is the model without a part."""
    return case.startswith(WITHOUT)


def _left(spent: Sequence[float], parts: int) -> str:
    """Return how long the other parts take if they take as long as those before; "" where there are none."""
    return f", about {in_words(sum(spent) / len(spent) * parts)} left" if spent else ""


def _own_place(case: str) -> int:
    """Return where a case of the model stands: what is served first, then the vectors alone, then parts of it."""
    return {"headrace": 0, "headrace_dense": 1}.get(case, 2)


def _refuse_unknown(cases: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in cases if name not in known]:
        ablation = " A part is only taken away with --ablation." if not any(map(is_ablation, known)) else ""
        hint = ablation if any(map(is_ablation, unknown)) else ""
        raise ConfigError(f"--cases {', '.join(unknown)}: there is no such case. Known: {', '.join(known)}.{hint}")
