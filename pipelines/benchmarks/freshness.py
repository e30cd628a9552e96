"""`headrace bench freshness`: what staying fresh is worth, and what it costs, window by window of one week.

A first model is trained on `base_weeks`. Then, each week: the towers are trained on what the loop would train them on,
validated on the week after and measured on the week after that, with the functions of the loop.

| case | each week |
|---|---|
| `incremental` | from last week's model, on the new week and a replayed sample of all older ones |
| `without replay` | the same, on the new week alone |
| `from zero` | from the pre-trained encoder, on the newest `base_weeks` |
| `frozen` | nothing: the first model |

Measured are items that the customer has not bought before, every item ranked. The *old slice* is a tenth of the baskets
of the first weeks that no case is ever trained on, ranked over the items of that time. What no training changes is the
same for all cases: the encoder stands still, and popularity is that of the moment, with a weight set on validation.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.benchmarks.folder import read_recommend_folder
from pipelines.benchmarks.freshness_report import WindowResult, freshness_records, quality_over_time, window_table
from pipelines.benchmarks.records import write_records
from pipelines.benchmarks.shop_folder import shop_folder
from pipelines.benchmarks.time_left import in_words
from pipelines.benchmarks.weekly import WEEK_S, WeeklyShop, reservoir, some_users, weekly_shop
from pipelines.config import TrainingConfig
from pipelines.errors import DataError
from pipelines.experiments.plots import save_figure
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.baskets import replay_rows
from pipelines.inference.preprocessing import Preprocessing
from pipelines.progress import Progress, TerminalProgress
from pipelines.stores.files import replacing_file, replacing_folder, text_sha256, write_text

INCREMENTAL, NO_REPLAY, FROM_ZERO, FROZEN = "incremental", "without replay", "from zero", "frozen"
CASES = (FROM_ZERO, INCREMENTAL, NO_REPLAY, FROZEN)
_COST = {FROM_ZERO: 1.0, INCREMENTAL: 0.15, NO_REPLAY: 0.15, FROZEN: 0.05}
"""Time of a case before it was seen, where a training from zero takes 1."""
FORMAT = 1
"""Raise it when results mean something else, so that old ones are not gone on with."""


@dataclass(frozen=True)
class FreshnessPlan:
    """What is run."""

    base_weeks: int = 13
    """Weeks that a training from zero reads."""
    windows: int = 10
    """Weeks on which the model is made fresh."""
    replay_share: float = 0.8
    """Share of the rows of an incremental run that are replayed."""
    old_share: float = 0.1
    """Share of the baskets of the first weeks that make the old slice."""
    users: int | None = None
    """Users, drawn at random; None: all."""
    query_pairs: int = 2_000
    """Made-up queries beside the baskets, embedded once for all."""
    seed: int = 13

    @property
    def weeks(self) -> int:
        """Weeks of data that it needs: one more to validate on, and one to measure on."""
        return self.base_weeks + self.windows + 2


def bench_freshness(
    data: str,
    *,
    work: Path,
    plan: FreshnessPlan,
    config: TrainingConfig,
    json_file: Path | None = None,
    plot_file: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Run all cases over all windows, print a table, and write records and a plot; what is done is not done again.

    Raises:
        DataError: there are too few weeks, or nothing to read.
    """
    progress = progress or TerminalProgress()
    config = config.model_copy(update={"encoder_steps": 0, "incremental_encoder_steps": 0, "seed": plan.seed})
    source = work / text_sha256(str(Path(data).resolve()) if Path(data).exists() else data)[:12]
    folder, name = shop_folder(data, source)
    shop = weekly_shop(some_users(read_recommend_folder(folder), plan.users, plan.seed))
    bench = Freshness(shop, plan, config, _work_folder(source, shop, plan, config), progress)
    results = bench.run(lambda line: click.echo(line, err=True))
    records = freshness_records(results, name, plan.windows)
    click.echo("\n".join([window_table(results), *shop.folder.notes]))
    for record in records:
        interval = "" if record.low is None else f"  [{record.low:.4f}, {record.high:.4f}]"
        click.echo(f"{record.case:<38} {record.metric:<24} {record.value:>9.4f}{interval} {record.unit}")
    if json_file:
        write_records(records, json_file)
    if plot_file:
        save_figure(quality_over_time(results, name), plot_file)


def _work_folder(source: Path, shop: WeeklyShop, plan: FreshnessPlan, config: TrainingConfig) -> Path:
    # More windows of the same run go on from those that are there.
    settings = {name: value for name, value in asdict(plan).items() if name != "windows"}
    digest = text_sha256(str(FORMAT), json.dumps(settings), config.model_dump_json(), shop.fingerprint())
    return source / digest[:12]


def seconds_left(took: Mapping[str, Sequence[float]], remaining: Mapping[str, int]) -> float:
    """Return how long the rest takes: as long as each case took so far, or its usual part of a training from zero.

    Args:
        took: Case -> seconds of its windows that are done.
        remaining: Case -> windows to come.
    """
    whole = max((statistics.fmean(seconds) / _COST[case] for case, seconds in took.items() if seconds), default=0.0)
    return sum(
        count * (statistics.fmean(took[case]) if took[case] else whole * _COST[case])
        for case, count in remaining.items()
    )


class Freshness:
    """The bench over one shop."""

    def __init__(
        self, shop: WeeklyShop, plan: FreshnessPlan, config: TrainingConfig, work: Path, progress: Progress
    ) -> None:
        """Check that there are enough weeks.

        Raises:
            DataError: there are not.
        """
        weeks = int(shop.weeks.max()) + 1
        if weeks < plan.weeks:
            raise DataError(
                f"The data holds {weeks} weeks, {plan.weeks} are needed: {plan.base_weeks} to begin with, "
                f"{plan.windows} windows, and two to validate and measure on. Ask for fewer with `--windows` or "
                "`--base-weeks`."
            )
        self.shop, self.plan, self.config, self.work, self.progress = shop, plan, config, work, progress
        self.preprocessing = Preprocessing(max_tokens=config.max_tokens, activity_features=ACTIVITY_FEATURES)

    def run(self, say: Callable[[str], None]) -> dict[str, list[WindowResult]]:
        """Return the results by case, one a window; the first is that of the model that all begin with."""
        results: dict[str, list[WindowResult]] = {case: [] for case in CASES}
        took: dict[str, list[float]] = {case: [] for case in CASES}
        for window in range(self.plan.windows + 1):
            for case in CASES:
                known = (self._folder(case, window) / "result.json").is_file()
                began = time.monotonic()
                results[case].append(last := self.result(case, window))
                if not known:
                    took[case].append(time.monotonic() - began)
                    left = seconds_left(took, {name: self.plan.windows + 1 - len(results[name]) for name in CASES})
                    say(
                        f"window {window} of {self.plan.windows}, {case}: ndcg@10 {last.ndcg.mean():.4f}, old slice "
                        f"{last.old_ndcg.mean():.4f}, {last.seconds:.0f} s of training; about {in_words(left)} left"
                    )
        return results

    def result(self, case: str, window: int) -> WindowResult:
        """Train what has to be trained, measure it, and keep both; or read what was kept."""
        folder = self._folder(case, window)
        if not (folder / "result.json").is_file():
            numbers: dict[str, Any] = {"seconds": 0.0, "steps": 0, "rows": 0}
            if (model := self._model_folder(case, window)) == folder:
                numbers = self._train(case, window, folder)
            arrays = self._measure(model, case, window)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing_file(folder / "rows.npz") as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            write_text(folder / "result.json", json.dumps(numbers))
        numbers = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        with np.load(folder / "rows.npz", allow_pickle=False) as stored:
            return WindowResult(**numbers, **{name: stored[name] for name in stored.files})

    # Training

    def _folder(self, case: str, window: int) -> Path:
        return self.work / (case if window else "first") / f"{window:03d}"

    def _model_folder(self, case: str, window: int) -> Path:
        return self._folder(case, 0 if case == FROZEN else window)

    def _cut(self, window: int) -> int:
        """Return the week at which training ends and validation begins."""
        return self.plan.base_weeks + window

    def _baskets(self, case: str, window: int) -> tuple[np.ndarray, int]:
        """Return the baskets to train on, and how many a training from zero has."""
        cut = self._cut(window)
        whole = self._trainable(cut - self.plan.base_weeks, cut)
        if window == 0 or case == FROM_ZERO:
            return whole, len(whole)
        new = self._trainable(cut - 1, cut)
        wanted = replay_rows(len(new), self.plan.replay_share if case == INCREMENTAL else 0.0)
        return np.concatenate([reservoir(self._trainable(0, cut - 1), wanted, self.plan.seed), new]), len(whole)

    def _trainable(self, start: int, stop: int) -> np.ndarray:
        return np.setdiff1d(self.shop.in_weeks(start, stop), self._old_baskets)

    @cached_property
    def _old_baskets(self) -> np.ndarray:
        """Baskets of the first weeks, of users with a history, that are never trained on."""
        first = self.shop.in_weeks(1, self.plan.base_weeks)
        eligible = first[self.shop.known_to[first] > self.shop.known_from[first]]
        return reservoir(eligible, round(self.plan.old_share * len(first)), self.plan.seed + 1)

    def _train(self, case: str, window: int, folder: Path) -> dict[str, Any]:
        from pipelines.training.increment import incremental_config
        from pipelines.training.tower_tuning import tune_towers
        from pipelines.training.trained_model import TrainedFolder, item_inputs, load_towers_into, new_towers

        at_s = self.shop.week_start_s(self._cut(window))
        catalog, catalog_rows = self.shop.catalog(at_s), self.shop.catalog_rows(at_s)
        baskets, whole = self._baskets(case, window)
        config, known = self.config, np.flatnonzero(catalog_rows >= 0)
        text, pairs = self._text_vectors[known], self._pairs(catalog_rows)
        train = self.shop.training_rows(baskets, catalog_rows)
        validation = self.shop.training_rows(self._week(self._cut(window)), catalog_rows)
        began = time.process_time()
        towers = new_towers(catalog, text.shape[1], config, self.preprocessing)
        if window and case != FROM_ZERO:
            config = incremental_config(config, len(baskets), whole)
            source = TrainedFolder(self._folder(case, window - 1))
            load_towers_into(towers, catalog, source, self.preprocessing.activity_features)
        # Processor time: a machine that does other things beside does not count. A run that was killed counts anew.
        checkpoint = self.work / f"{case} {window}.pt"
        checkpoint.unlink(missing_ok=True)
        tuning = tune_towers(
            towers,
            item_inputs(catalog, self._tensor(text), config.gate_half_count),
            catalog.event_counts,
            train,
            validation,
            pairs,
            popularity=catalog.popularity,
            config=config,
            preprocessing=self.preprocessing,
            checkpoint=checkpoint,
            progress=self.progress,
        )
        seconds = time.process_time() - began
        checkpoint.unlink(missing_ok=True)
        self._save(folder, towers, catalog)
        return {"seconds": seconds, "steps": max(tuning.losses, default=0), "rows": len(baskets)}

    def _save(self, folder: Path, towers: Any, catalog: Any) -> None:
        from pipelines.model.towers import save_towers
        from pipelines.training.trained_model import table_names

        with replacing_folder(folder) as temporary:
            save_towers(temporary / "towers.safetensors", towers)
            (temporary / "preprocessing.json").write_text(self.preprocessing.model_dump_json(), encoding="utf-8")
            (temporary / "tables.json").write_text(json.dumps(table_names(catalog)), encoding="utf-8")

    def _week(self, week: int) -> np.ndarray:
        return self.shop.in_weeks(week, week + 1)

    # Measuring

    def _measure(self, model: Path, case: str, window: int) -> dict[str, np.ndarray]:
        """Measure a model on the week after the validation week, and on the old slice.

        Items that were sold for the first time after the training rows ended are there with their text alone.
        """
        from pipelines.training.slices import POPULARITY_SCALES

        cut = self._cut(window)
        cut_s, test_s = self.shop.week_start_s(cut), self.shop.week_start_s(cut + 1)
        learnt_s = self.shop.week_start_s(self._cut(0 if case == FROZEN else window))
        towers, items = self._opened(model, learnt_s)
        sold = self.shop.first_sold_s
        validation = self._row_metrics(towers, items, self._week(cut), cut_s, sold < test_s)
        scale = max(POPULARITY_SCALES, key=lambda one: float(validation[one][1].mean()))
        listed = sold < test_s + WEEK_S
        test = self._row_metrics(towers, items, self._week(cut + 1), test_s, listed)[scale]
        first_s = self.shop.week_start_s(self.plan.base_weeks)
        old = self._row_metrics(towers, items, self._old_baskets, first_s, sold < first_s)[1.0]
        arrived = listed & (sold >= cut_s)
        return {
            "users": self.shop.users[self._with_new(self._week(cut + 1))],
            "recall": test[0],
            "ndcg": test[1],
            "old_users": self.shop.users[self._with_new(self._old_baskets, sold < first_s)],
            "old_ndcg": old[1],
            "scale": np.array(scale),
            **self._arrived(towers, items, self._week(cut + 1), test_s, arrived, listed),
        }

    def _arrived(
        self, towers: Any, items: Any, baskets: np.ndarray, at_s: int, arrived: np.ndarray, listed: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return how well items are found that the model never saw, by their text and by popularity.

        The targets are such items only. `among all`: recall@100 in the whole catalogue. `among arrived`: recall@10
        where only such items are ranked.
        """
        from pipelines.training.slices import hit_metrics

        only = replace(self.shop, targets=[target[arrived[target]] for target in self.shop.targets])
        popularity = self.shop.popularity(at_s)
        measured = self._with_new(baskets, arrived)
        found = {"arrived_users": self.shop.users[measured]}
        for name, candidates, k in (("all", listed, 100), ("arrived", arrived, 10)):
            by_text = self._row_metrics(towers, items, measured, at_s, candidates, shop=only, k=k)[0.0]
            order = np.argsort(np.where(candidates, -popularity, np.inf), kind="stable")[: candidates.sum()]
            by_popularity = []
            for basket in measured:
                before = self.shop.bought_before(basket)
                wanted = np.setdiff1d(only.targets[basket], before)
                by_popularity.append(hit_metrics(order[~np.isin(order, before)], wanted, k)[0])
            found[f"text_among_{name}"] = by_text[0]
            found[f"popularity_among_{name}"] = np.array(by_popularity)
        return found

    def _with_new(self, baskets: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return the baskets that hold an item which is new to the user, and is one of the allowed."""
        kept = []
        for basket in baskets:
            new = np.setdiff1d(self.shop.targets[basket], self.shop.bought_before(basket))
            kept.append(len(new if allowed is None else new[allowed[new]]) > 0)
        return baskets[np.array(kept, bool)] if kept else baskets

    def _row_metrics(
        self,
        towers: Any,
        items: Any,
        baskets: np.ndarray,
        at_s: int,
        candidates: np.ndarray,
        *,
        shop: WeeklyShop | None = None,
        k: int = 10,
    ) -> Mapping[float, tuple[np.ndarray, np.ndarray]]:
        from pipelines.training.slices import row_metrics

        rows = (shop or self.shop).training_rows(baskets, np.where(candidates, np.arange(len(candidates)), -1))
        histories = self.shop.training_rows(baskets, np.arange(len(candidates))).histories
        return row_metrics(
            towers,
            items,
            replace(rows, histories=histories),
            self.preprocessing,
            popularity=self.shop.popularity(at_s),
            temperature=self.config.temperature,
            candidates=candidates,
            k=k,
        )

    def _opened(self, model: Path, learnt_s: int) -> tuple[Any, Any]:
        """Open a model over all items there will ever be; those it does not know have their text alone."""
        from pipelines.training.trained_model import TrainedFolder, item_inputs, load_towers_into, new_towers

        catalog = self.shop.catalog(learnt_s, everything=True)
        towers = new_towers(catalog, self._text_vectors.shape[1], self.config, self.preprocessing)
        load_towers_into(towers, catalog, TrainedFolder(model), self.preprocessing.activity_features)
        return towers, item_inputs(catalog, self._tensor(self._text_vectors), self.config.gate_half_count)

    # Texts

    @cached_property
    def _text_vectors(self) -> np.ndarray:
        """float32 `(n_items, dim)` by the encoder as it is, each row L2 norm 1."""
        return self._embed(self.shop.folder.items.texts, "item texts encoded")

    @cached_property
    def _queries(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of made-up queries, float32 `(q, dim)`, and their items, int64 `(q,)`."""
        from pipelines.training.catalog_queries import catalog_pairs

        catalog = self.shop.catalog(self.shop.week_start_s(self.plan.base_weeks), everything=True)
        queries, rows = catalog_pairs(catalog, self.plan.query_pairs, np.random.default_rng([self.plan.seed, 3]))
        return self._embed(queries, "queries encoded"), rows

    def _pairs(self, catalog_rows: np.ndarray) -> Any:
        from pipelines.training.tower_tuning import QueryPairs

        vectors, items = self._queries
        rows = catalog_rows[items]
        return QueryPairs(vectors[rows >= 0], rows[rows >= 0])

    def _embed(self, texts: list[str], stage: str) -> np.ndarray:
        from pipelines.model.encoder import EmbeddingCache, encode_texts, encoder_fingerprint

        encoder, tokenizer = self._encoder
        name = f"{encoder_fingerprint(encoder)}-float32-{self.config.max_tokens}"
        return EmbeddingCache(self.work.parent / "embeddings").encode(
            texts,
            name,
            encoder.dim,
            lambda missing: encode_texts(
                encoder, tokenizer, missing, max_tokens=self.config.max_tokens, progress=self.progress, stage=stage
            ),
        )

    @cached_property
    def _encoder(self) -> tuple[Any, Any]:
        from pipelines.model.encoder import load_encoder

        return load_encoder(self.config.encoder)

    @staticmethod
    def _tensor(values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values)
