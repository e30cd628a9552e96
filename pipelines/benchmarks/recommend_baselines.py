"""Baselines of `bench recommend`: what a model has to beat, each with the choices that served it best on validation.

popularity               events of each item
item_knn                 cosine of items over users, recency 0.7^age
directed_cooccurrence    what came within five steps after an item, recency 0.7^age
tfidf                    words of the titles against those of the history, recency 0.7^age
untouched_encoder        the pre-trained encoder's vectors of the same texts
own_history              what the user took before; where users take things again
hybrid_knn_tfidf         item_knn + weight · tfidf
hybrid_untrained         item_knn, directed co-occurrence, tfidf and encoder⁴, weights chosen on validation
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipelines.benchmarks.case_store import CHOICES, CaseStore
from pipelines.benchmarks.protocols import EventArrays, RecommendTask, TaskRows
from pipelines.evaluation.baselines import (
    DirectedCooccurrence,
    ItemKnn,
    OwnHistory,
    Popularity,
    TextProfile,
    TfIdf,
)
from pipelines.evaluation.fusion_weights import candidate_table, choose_weights, joined_tables, relative
from pipelines.evaluation.ranked import joined_rows, rank_rows, row_metrics, row_numbers
from pipelines.progress import Progress

BLOCK_SCORES = 4_000_000
"""Scores that one block of rows holds at most."""
VALIDATION_ROWS, VALIDATION_SCORES = 4_000, 100_000_000
"""Rows that choices are made on at most, and scores that one of them takes at most."""
_DAYS = (None, 91, 28)
"""Windows that popularity, item-KNN and directed co-occurrence may learn from where the split is by time."""
_DECAYS = (1.0, 0.98, 0.95, 0.9, 0.8)
_DAY_S = 86_400
_ENCODER_POWER = 4
_TEST = "test"
_SINGLE = ("popularity", "item_knn", "directed_cooccurrence", "tfidf", "untouched_encoder")
_HYBRIDS = {
    "hybrid_knn_tfidf": ("item_knn", "tfidf"),
    "hybrid_untrained": ("item_knn", "directed_cooccurrence", "tfidf", "untouched_encoder", "popularity"),
}
_REPURCHASE = "hybrid_repurchase"
_REPURCHASE_PARTS = ("own_history", "directed_cooccurrence", "item_knn", "popularity")
Scorer = Callable[[TaskRows], np.ndarray]


class RecommendBaselines:
    """Makes the scorers of the baselines for the test window, when they are asked for.

    Args:
        vectors: Returns the untouched encoder's vectors of the items' texts, float32 `(n_items, dim)`.
        store: Keeps what was chosen on validation.
    """

    def __init__(
        self,
        task: RecommendTask,
        vectors: Callable[[], np.ndarray],
        store: CaseStore,
        progress: Progress,
    ) -> None:
        self._task = task
        self._vectors = vectors
        self._store = store
        self._progress = progress
        self._rows = sampled_rows(task.validation, min(VALIDATION_ROWS, max(VALIDATION_SCORES // task.n_items, 1)))
        self._made: dict[str, Scorer] = {}
        self._tfidf: TfIdf | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The cases, in the order of the table."""
        return (*_SINGLE, *_HYBRIDS, *(("own_history", _REPURCHASE) if self._task.repeats else ()))

    def scorer(self, name: str) -> Scorer:
        """Return the scorer of one case, which knows what is known before the test."""
        choice = self._choice(name)
        self._made = {key: made for key, made in self._made.items() if key.endswith(_TEST)}  # frees what only chose
        if name.startswith("hybrid"):
            return self._hybrid({part: float(weight) for part, weight in choice.items() if weight})
        return self._single(name, choice, test=True)

    def describe(self, name: str) -> str:
        """Return what was chosen for a case, in words; "" where there was nothing to choose."""
        choice = self._choice(name)
        if name.startswith("hybrid"):
            return f"{name} = " + " + ".join(f"{weight:g} · {part}" for part, weight in choice.items())
        if "days" in choice:
            days = choice["days"]
            return f"{name}: {'everything known' if days is None else f'the newest {days:g} days'}"
        return f"{name}: decay {choice['decay']:g}" if "decay" in choice else ""

    def _choice(self, name: str) -> Mapping[str, float | None]:
        """Return what was chosen on validation, choosing it first where that was not done yet."""
        kept = dict(self._store.note(CHOICES) or {})
        if name not in kept:
            kept[name] = self._choose(name)
            self._store.write_note(CHOICES, kept)
        found: Mapping[str, float | None] = kept[name]  # type: ignore[assignment]  # what _choose wrote
        return found

    def _choose(self, name: str) -> Mapping[str, float | None]:
        if name.startswith("hybrid"):
            whole_basket = name == _REPURCHASE
            return self._choose_weights(
                _REPURCHASE_PARTS if whole_basket else _HYBRIDS[name], whole_basket=whole_basket
            )
        if name == "own_history":
            return self._best(name, [{"decay": decay} for decay in _DECAYS], whole_basket=True)
        if name in ("popularity", "item_knn", "directed_cooccurrence") and self._task.protocol == "next_basket":
            return self._best(name, [{"days": days} for days in _DAYS])
        return {}

    def _best(
        self, name: str, choices: Sequence[Mapping[str, float | None]], *, whole_basket: bool = False
    ) -> Mapping[str, float | None]:
        """Return the choice with the best NDCG@10 on validation; the first one wins a tie."""
        found = []
        for place, choice in enumerate(choices):
            found.append(self._validation_ndcg(self._single(name, choice, test=False), whole_basket))
            self._progress.update(f"{name}, choosing on validation", place + 1, len(choices))
        return choices[int(np.argmax(found))]

    def _validation_ndcg(self, score: Scorer, whole_basket: bool) -> float:
        rows = self._rows
        ranked = joined_rows([rank_rows(block, score(block)) for block in blocks(rows, self._task.n_items)])
        ranks, targets = (ranked.every, rows.targets) if whole_basket else (ranked.new, rows.new_targets)
        values = row_metrics(ranks, row_numbers(targets), len(rows))["ndcg@10"]
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    def _choose_weights(self, parts: Sequence[str], *, whole_basket: bool) -> Mapping[str, float]:
        scorers = [self._part(part, test=False) for part in parts]
        tables, done = [], 0
        for block in blocks(self._rows, self._task.n_items):
            wanted = block.targets if whole_basket else block.new_targets
            left_out = [np.empty(0, np.int64)] * len(block) if whole_basket else block.seen
            gains = [np.ones(len(targets)) for targets in wanted]
            tables.append(candidate_table([score(block) for score in scorers], wanted, gains, left_out))
            done += len(block)
            self._progress.update("hybrid, choosing weights on validation", done, len(self._rows))
        return choose_weights(joined_tables(tables), parts)

    def _hybrid(self, weights: Mapping[str, float]) -> Scorer:
        scorers = {part: self._part(part, test=True) for part in weights}

        def score(rows: TaskRows) -> np.ndarray:
            total = np.zeros((len(rows), self._task.n_items), np.float32)
            for part, scorer in scorers.items():
                total += np.float32(weights[part]) * scorer(rows)
            return total

        return score

    def _part(self, name: str, *, test: bool) -> Scorer:
        """Return a part of a hybrid: relative to the best item of each row, in [0, 1]."""
        single = self._single(name, self._choice(name), test=test)
        if name == "untouched_encoder":
            return lambda rows: relative(single(rows)) ** _ENCODER_POWER
        return lambda rows: relative(single(rows))

    def _single(self, name: str, choice: Mapping[str, float | None], *, test: bool) -> Scorer:
        key = f"{name} {sorted(choice.items())} {_TEST if test else 'validation'}"
        if key not in self._made:
            self._made[key] = self._make(name, choice, test=test)
        return self._made[key]

    def _make(self, name: str, choice: Mapping[str, float | None], *, test: bool) -> Scorer:
        task = self._task
        known = newest(task.known_before_test if test else task.known_before_validation, choice.get("days"))
        match name:
            case "popularity":
                return Popularity(known.counts()).scores
            case "item_knn":
                return ItemKnn(known.users, known.items, known.n_items).scores
            case "directed_cooccurrence":
                return DirectedCooccurrence(known.users, known.items, known.orders, known.n_items).scores
            case "tfidf":
                self._tfidf = self._tfidf or TfIdf(task.texts)
                return self._tfidf.scores
            case "untouched_encoder":
                return TextProfile(self._vectors()).scores
            case "own_history":
                return OwnHistory(task.n_items, choice.get("decay") or 1.0).scores
        raise AssertionError(name)


def newest(events: EventArrays, days: float | None) -> EventArrays:
    """Return the events of the newest `days`, all of them for None."""
    return events if days is None else events.where(events.times > events.times.max(initial=0) - days * _DAY_S)


def sampled_rows(rows: TaskRows, most: int) -> TaskRows:
    """Return `most` rows at even distances, or all of them."""
    if len(rows) <= most:
        return rows
    return rows.at(np.linspace(0, len(rows) - 1, most).astype(np.int64))


def blocks(rows: TaskRows, n_items: int) -> list[TaskRows]:
    """Return the rows in blocks whose scores stay within memory."""
    size = int(np.clip(BLOCK_SCORES // max(n_items, 1), 8, 256))
    return [rows.part(start, start + size) for start in range(0, len(rows), size)]
