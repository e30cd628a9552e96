"""`bench joint`: one item tower for recommendation and search, or two, at equal numbers of parameters.

joint                   one item tower, the losses of both tasks in every step
alternating             the same, the losses in turns
separate                two narrower item towers, one trained for each task; together as many parameters as `joint`
separate_uneven         the same, the one for search as narrow as is sensible
separate_full_width     two item towers as wide as that of `joint`, for reference: nearly twice its parameters
untrained               text vectors as they are

The text encoder stands still in all of them, and all see the same batches of each task.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.benchmarks.case_store import CaseStore
from pipelines.benchmarks.fingerprint import recommend_fingerprint, search_fingerprint
from pipelines.benchmarks.joint_tasks import JointTasks, joint_tasks
from pipelines.benchmarks.record_book import OVER_SEEDS, RecordBook, RowValues, section
from pipelines.benchmarks.records import BenchmarkRecord, records_table
from pipelines.benchmarks.runs import QUICK_NOTE, Arrays, BenchOptions, publish
from pipelines.benchmarks.search import query_metrics
from pipelines.benchmarks.time_left import TimeLeft, in_words
from pipelines.config import HeadraceConfig
from pipelines.errors import ConfigError
from pipelines.evaluation.bootstrap import UserBootstrap
from pipelines.evaluation.cases import gain_over
from pipelines.evaluation.ranked import row_metrics, row_numbers
from pipelines.evaluation.ranks import TIE_RULE
from pipelines.progress import Progress
from pipelines.schemas import Metric
from pipelines.stores.files import text_sha256

if TYPE_CHECKING:
    from pipelines.benchmarks.joint_model import Laboratory, Part

BENCH = "joint"
JOINT, UNTRAINED = "joint", "untrained"
TASKS = ("recommend", "search")
METRICS = ("ndcg@10", "recall@10")
COLUMNS = tuple(f"{task}.{metric}" for task in TASKS for metric in METRICS)
PARAMETERS = "parameters"
_QUICK_STEPS = 20
_DRAWS_PER_PAIR = 2
"""Queries drawn from the catalogue for each that trains: three fifths of the distinct ones do."""


@dataclass(frozen=True)
class JointCase:
    """A way to serve both tasks: the towers that answer each of them."""

    recommend: "Part"
    search: "Part"

    @property
    def parts(self) -> list["Part"]:
        """The towers to train, each once."""
        return list(dict.fromkeys([self.recommend, self.search]))


def bench_joint(
    data: Path, options: BenchOptions, progress: Progress, *, steps: int | None = None
) -> list[BenchmarkRecord]:
    """Train each case with every seed, print tables and write the records.

    Args:
        data: A folder with `items.parquet` and `interactions.parquet`; queries come from its `judgements.parquet`, or
            are made from the catalogue.
        steps: Steps of each task at most; None takes those of the loop.

    Raises:
        DataError: the folder cannot be used; the message says why.
        ConfigError: the encoder is not installed, or there is no such case.
    """
    timed = TimeLeft(progress)
    config = recipe(steps, encoder=options.encoder, quick=options.quick)
    tasks = joint_tasks(data, drawn=_DRAWS_PER_PAIR * config.training.query_pairs, quick=options.quick)
    questions = text_sha256(tasks.recommend.sha1 + tasks.search.sha1)
    name = f"{tasks.recommend.data}-{config.training.tower_steps}-steps"
    known = text_sha256(recommend_fingerprint(tasks.recommend), search_fingerprint(tasks.search))
    store = CaseStore(options.folder(BENCH, name, questions, known, config))
    laboratory = _laboratory(tasks, config, options, timed)
    cases = _chosen(joint_cases(tasks, config.training.behavior_dim, laboratory.item_texts.shape[1]), options.cases)
    parts = {part.name: part for case in cases.values() for part in case.parts}
    results = _measured(laboratory, parts, store, options, timed)
    data_name = f"{tasks.recommend.data}, quick" if options.quick else tasks.recommend.data
    records = joint_records(tasks, cases, results, data_name, options.samples)
    publish(records, _tables(records), _notes(tasks, cases, records, config, store, options), options, COLUMNS[::2])
    return records


def recipe(steps: int | None, *, encoder: str | None, quick: bool) -> HeadraceConfig:
    """Return the settings of the loop, with so many steps of each task."""
    defaults = HeadraceConfig()
    changes: dict[str, object] = {"tower_steps": steps} if steps else {}
    if quick:
        changes |= {"tower_steps": _QUICK_STEPS, "query_pairs": 1_000}
    if encoder:
        changes["encoder"] = encoder
    return defaults.model_copy(update={"training": defaults.training.model_copy(update=changes)})


def joint_cases(tasks: JointTasks, width: int, dim: int) -> dict[str, JointCase]:
    """Return the cases by name.

    Args:
        width: `behavior_dim` of the one tower.
        dim: Of the text vectors.
    """
    from pipelines.benchmarks.joint_model import Part
    from pipelines.benchmarks.parameter_budget import equal_widths

    widths = equal_widths(width, tasks.catalog, dim)
    joint, alternating = Part("joint", widths.joint), Part("alternating", widths.joint)

    def apart(of_recommend: int, of_search: int) -> JointCase:
        return JointCase(Part("recommend", of_recommend), Part("search", of_search))

    return {
        JOINT: JointCase(joint, joint),
        "alternating": JointCase(alternating, alternating),
        "separate": apart(*widths.halves),
        "separate_uneven": apart(*widths.uneven),
        "separate_full_width": apart(widths.joint, widths.joint),
    }


def joint_records(
    tasks: JointTasks,
    cases: Mapping[str, JointCase],
    results: Mapping[str, Sequence[Arrays]],
    data: str,
    samples: int,
) -> list[BenchmarkRecord]:
    """Return the quality of each case on both tasks, the paired gains of `joint`, and the parameters of each case.

    Args:
        results: What `Laboratory.measure` gave, by part, one a seed.
        samples: Resamples behind an interval.
    """
    users, queries = tasks.recommend.test.users, np.arange(len(tasks.search.test))
    found: list[BenchmarkRecord] = []
    for task, rows in zip(TASKS, (users, queries), strict=True):
        book = RecordBook(BENCH, data, UserBootstrap(rows, samples=samples, seed=0))
        values = {
            name: [_values(tasks, task, one[task]) for one in results[getattr(case, task).name]]
            for name, case in cases.items()
        }
        for name, per_seed in {UNTRAINED: [_values(tasks, task, results[UNTRAINED][0][task])], **values}.items():
            book.add_rows(name, per_seed, over_seeds=list(per_seed[0]))
        for other in (name for name in cases if JOINT in cases and name != JOINT):
            gains = [
                {metric: own[metric] - others[metric] for metric in own}
                for own, others in zip(values[JOINT], values[other], strict=True)
            ]
            book.add_rows(f"{JOINT}: {gain_over(other)}", gains, over_seeds=list(gains[0]))
        found += book.records
    book = RecordBook(BENCH, data, UserBootstrap(np.zeros(1), samples=1, seed=0))
    for name, case in cases.items():
        counts = [int(results[part.name][0][PARAMETERS]) for part in case.parts]
        book.add(name, PARAMETERS, Metric(value=float(sum(counts))), seeds=len(results[case.recommend.name]))
    return [*found, *book.records]


def verdict(gain: Metric) -> str:
    """Return what the 95 % interval of a gain says."""
    if gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        return "no clear difference"
    return "better" if gain.low > 0 else "worse"


def _measured(
    laboratory: "Laboratory",
    parts: Mapping[str, "Part"],
    store: CaseStore,
    options: BenchOptions,
    progress: TimeLeft,
) -> dict[str, list[Arrays]]:
    """Train and measure what is not stored yet, and return all results by part, one a seed."""
    if options.fresh:
        store.forget([UNTRAINED])
        store.forget_model()
    if not store.has(UNTRAINED):
        progress.begin(UNTRAINED)
        store.save(UNTRAINED, None, laboratory.untrained())
    every = [(seed, part) for seed in range(options.seeds) for part in parts.values()]
    missing = [(seed, part) for seed, part in every if not store.has(part.name, seed)]
    began = time.perf_counter()
    for done, (seed, part) in enumerate(missing):
        left = (time.perf_counter() - began) / done * (len(missing) - done) if done else None
        about = f", about {in_words(left)} left" if left is not None else ""
        progress.begin(f"[{done + 1}/{len(missing)}{about}] seed {seed + 1}, {part.name}")
        store.save(part.name, seed, laboratory.train(part, seed, store.model_folder(seed)))
    progress.begin("")
    results = {UNTRAINED: [store.load(UNTRAINED)]}
    for seed, part in every:
        results.setdefault(part.name, []).append(store.load(part.name, seed))
    return results


def _chosen(cases: Mapping[str, JointCase], names: Sequence[str]) -> dict[str, JointCase]:
    if unknown := [name for name in names if name not in cases]:
        raise ConfigError(f"--cases {', '.join(unknown)}: there is no such case. Known: {'; '.join(cases)}.")
    return {name: case for name, case in cases.items() if not names or name in names}


def _values(tasks: JointTasks, task: str, ranks: np.ndarray) -> RowValues:
    """Return `METRICS` of each user or query, NaN where there is nothing to find, named after the task."""
    if task == "search":
        every = query_metrics(tasks.search.test, ranks)
    else:
        wanted = tasks.recommend.test.new_targets
        every = row_metrics(ranks, row_numbers(wanted), len(wanted))
    return {f"{task}.{metric}": every[metric] for metric in METRICS}


def _laboratory(tasks: JointTasks, config: HeadraceConfig, options: BenchOptions, progress: Progress) -> "Laboratory":
    """Encode the items; torch is imported here."""
    from pipelines.benchmarks.joint_model import Laboratory
    from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint, load_encoder

    training = config.training
    encoder, tokenizer = load_encoder(training.encoder)
    key = f"{encoder_fingerprint(encoder)}-float32-{training.max_tokens}"

    def embed(texts: Sequence[str]) -> np.ndarray:
        encode = partial(encode_texts, encoder, tokenizer, max_tokens=training.max_tokens, progress=progress)
        return EmbeddingCache(options.cache).encode(texts, key, encoder.dim, encode)

    return Laboratory(tasks, config, embed(tasks.catalog.texts), embed, progress)


def _tables(records: Sequence[BenchmarkRecord]) -> str:
    over_seeds = [column + OVER_SEEDS for column in COLUMNS]
    counts = [record for record in records if record.metric == PARAMETERS]
    sections = [
        f"Parameters that learn\n{records_table(counts, decimals=0)}",
        section("Vectors alone, all items ranked", records, COLUMNS),
        section("Over seeds: mean [lowest, highest]", records, over_seeds, without=OVER_SEEDS),
        section("Paired gains of joint", records, COLUMNS, gains=True),
        section("Paired gains of joint over seeds: mean [lowest, highest]", records, over_seeds, gains=True,
                without=OVER_SEEDS),
    ]  # fmt: skip
    return "\n\n".join(found for found in sections if found)


def _notes(
    tasks: JointTasks,
    cases: Mapping[str, JointCase],
    records: Sequence[BenchmarkRecord],
    config: HeadraceConfig,
    store: CaseStore,
    options: BenchOptions,
) -> list[str]:
    recommend, search, training = tasks.recommend, tasks.search, config.training
    origin = (
        "Queries are MADE FROM THE CATALOGUE (words of a title, its category with a word, some misspelt), for the "
        "folder has no judgements.parquet: they say how well vectors keep the text, not what people type"
        if tasks.made_up
        else "Queries are those of judgements.parquet"
    )
    widths = "; ".join(f"{name}: {' and '.join(part.name for part in case.parts)}" for name, case in cases.items())
    return [
        *([QUICK_NOTE] if options.quick else []),
        *_verdicts(records),
        f"{origin}. By the SHA-1 of their text three fifths train, one validates, one tests.",
        f"{len(recommend.test):,} test users ({recommend.protocol}; only items new to them count, what they have seen "
        f"is left out), {len(search.test):,} test queries, {recommend.n_items:,} items. Ties: {TIE_RULE}.",
        *recommend.notes,
        f"At most {training.tower_steps:,} steps of each task. A step of `joint` sees {training.tower_batch} users and "
        f"{training.tower_batch} queries; `alternating` takes twice as many steps, each with one of them; `separate` "
        "as many with users as with queries. Batches of a seed are the same in joint and separate.",
        "Stopped by its own task's recall@10 on validation rows; joint and alternating by the mean of both, each "
        "relative to the untrained towers.",
        f"Behavior embeddings: {widths}. The encoder is frozen and counts nowhere, and nor does the user tower where "
        "only search is learnt.",
        f"Intervals: 95 %, {options.samples:,} resamples of users or queries, of which each counts with the mean over "
        f"{options.seeds} seeds.",
        f"Work is kept in {store.folder}.",
    ]


def _verdicts(records: Sequence[BenchmarkRecord]) -> list[str]:
    said = []
    for case in dict.fromkeys(record.case for record in records if gain_over("") in record.case):
        of_case = {record.metric: record for record in records if record.case == case}
        found = [
            f"{task} {verdict(Metric(value=one.value, low=one.low, high=one.high))}"
            for task in TASKS
            if (one := of_case.get(f"{task}.{METRICS[0]}"))
        ]
        other = case.removeprefix(f"{JOINT}: {gain_over('')}")
        said.append(f"joint against {other} by NDCG@10: {', '.join(found)}.")
    return said
