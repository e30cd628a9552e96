"""Towers of `bench joint`: trained for one task or for both over the same frozen text vectors, then asked both."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.benchmarks.joint_tasks import JointTasks
from pipelines.benchmarks.parameter_budget import learning_parameters
from pipelines.benchmarks.protocols import GradedQueries
from pipelines.benchmarks.task_training import asked_rows, spread_evenly, training_rows
from pipelines.config import HeadraceConfig, TrainingConfig
from pipelines.evaluation.ranks import put_broken_last, target_ranks
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.item_tower import ItemInputs
from pipelines.model.towers import Towers
from pipelines.progress import Progress
from pipelines.training.judged_queries import JudgedQueries
from pipelines.training.objectives import Objective, tasks_of_step
from pipelines.training.rows import Rows
from pipelines.training.schedule import training_device
from pipelines.training.tower_tuning import QueryPairs, item_vectors, tune_towers, user_vectors, validation_recall
from pipelines.training.trained_model import item_inputs, new_towers

Arrays = dict[str, np.ndarray]
_VALIDATION_QUERIES = 1_500
_LOWEST_START = 0.01
"""Of a recall that gains are relative to: below, a single hit would be a gain of any size."""
_BLOCK = 128


@dataclass(frozen=True)
class Part:
    """Towers to train."""

    objective: Objective
    width: int
    """`behavior_dim`."""

    @property
    def name(self) -> str:
        """Name of its results."""
        return f"{self.objective}, behavior {self.width} wide"

    def steps(self, of_each_task: int) -> int:
        """Return the steps in which every task has `of_each_task`: twice as many where tasks take turns."""
        turns = self.objective == "alternating"
        return of_each_task * (2 if turns else 1)


@dataclass(frozen=True)
class Laboratory:
    """What all parts share: the questions, and what the frozen encoder makes of every text."""

    tasks: JointTasks
    config: HeadraceConfig
    item_texts: np.ndarray
    """float32 `(n_items, dim)`, each row L2 norm 1."""
    embed: Callable[[Sequence[str]], np.ndarray]
    """Query texts -> float32 `(n, dim)`, each row L2 norm 1."""
    progress: Progress

    def train(self, part: Part, seed: int, work: Path) -> Arrays:
        """Train one part and return what `measure` does, with `parameters` that learnt and the `best_step`.

        A killed training goes on from its checkpoint below `work`.
        """
        training = self._settings(part, seed)
        towers = self._new_towers(training)
        folder = work / part.name.replace(", ", "-").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        judged = _judged(self.tasks.search.train)
        queries, rows = judged.pairs(self._n_pairs(judged), np.random.default_rng([seed, 3]))
        result = tune_towers(
            towers,
            self._items,
            self.tasks.catalog.event_counts,
            self._train_rows,
            self._validation_rows,
            QueryPairs(self.embed(queries), rows),
            popularity=self.tasks.catalog.popularity,
            config=training,
            preprocessing=self._preprocessing,
            checkpoint=folder / "towers.pt",
            progress=self.progress,
            quality=self._quality(towers, part.objective),
        )
        measured = self.measure(towers)
        shutil.rmtree(folder)
        return {
            **measured,
            "parameters": np.asarray(learning_parameters(towers.item, towers.user, part.objective)),
            "best_step": np.asarray(result.best_step),
        }

    def untrained(self) -> Arrays:
        """Return what `measure` does of towers that have learnt nothing: text vectors, and their mean for a user."""
        return self.measure(self._new_towers(self.config.training))

    def measure(self, towers: Towers) -> Arrays:
        """Rank all items for every test user and test query.

        Returns:
            `recommend`: int64 `(n_new_targets,)`, ranks of the users' new items, what they have seen left out;
            `search`: int64 `(n_judged,)`, ranks of the queries' judged items.
        """
        vectors = item_vectors(towers, self._items)
        return {"recommend": self._user_ranks(towers, vectors), "search": self._query_ranks(vectors)}

    def _user_ranks(self, towers: Towers, vectors: Tensor) -> np.ndarray:
        rows, ranks = asked_rows(self.tasks.recommend, self.tasks.recommend.test), []
        for start in range(0, len(rows), _BLOCK):
            chosen = np.arange(start, min(start + _BLOCK, len(rows)))
            with torch.inference_mode():
                scores = (user_vectors(towers, rows, chosen, vectors, self._preprocessing) @ vectors.T).cpu().numpy()
            put_broken_last(scores)
            ranks += [
                target_ranks(scores[place], rows.new_targets[row], rows.seen[row])[1]
                for place, row in enumerate(chosen)
            ]
            self.progress.update("users ranked", int(chosen[-1]) + 1, len(rows))
        return np.concatenate(ranks)

    def _query_ranks(self, vectors: Tensor) -> np.ndarray:
        test = self.tasks.search.test
        return np.concatenate(query_ranks(self.embed(test.queries), vectors.cpu().numpy(), test.items))

    def _quality(self, towers: Towers, objective: Objective) -> Callable[[], float]:
        """Return what decides when the training stops: the recall@10 of its own task on validation rows.

        Of both tasks: the mean of what each has become relative to the start.
        """
        measures = {"recommend": self._recommend_quality, "search": self._search_quality}
        own = [measures[task] for task in ("recommend", "search") if task in _tasks_of(objective)]
        if len(own) == 1:
            return lambda: own[0](towers)
        start = [measure(self._new_towers(self.config.training)) for measure in own]
        return lambda: relative_mean([measure(towers) for measure in own], start)

    def _recommend_quality(self, towers: Towers) -> float:
        return validation_recall(towers, self._items, self._validation_rows, self._preprocessing)

    def _search_quality(self, towers: Towers) -> float:
        queries = self._validation_queries
        found = query_ranks(self._validation_vectors, item_vectors(towers, self._items).cpu().numpy(), queries.relevant)
        towers.train()
        return float(np.mean([np.mean(ranks <= 10) for ranks in found]))

    def _settings(self, part: Part, seed: int) -> TrainingConfig:
        """Return the settings of a part; validations come at the same number of steps of each task."""
        training = self.config.training
        changes = {
            "objective": part.objective,
            "behavior_dim": part.width,
            "seed": seed,
            "tower_steps": part.steps(training.tower_steps),
            "validate_every": part.steps(min(training.validate_every, training.tower_steps)),
        }
        return training.model_copy(update=changes)

    def _n_pairs(self, judged: JudgedQueries) -> int:
        """Return how many (query, item) pairs are drawn: made-up queries once each, judged ones as in the loop."""
        wanted = self.config.training.query_pairs
        return min(wanted, len(judged.answered)) if self.tasks.made_up else wanted

    def _new_towers(self, training: TrainingConfig) -> Towers:
        return new_towers(self.tasks.catalog, self.item_texts.shape[1], training, self._preprocessing).to(
            training_device()
        )

    @property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing(max_tokens=self.config.training.max_tokens)

    @cached_property
    def _items(self) -> ItemInputs:
        half_count = self.config.training.gate_half_count
        return item_inputs(self.tasks.catalog, torch.from_numpy(self.item_texts), half_count).to(training_device())

    @cached_property
    def _train_rows(self) -> Rows:
        task = self.tasks.recommend
        return training_rows(task, task.known_before_validation, self.config.training_set.max_train_rows)

    @cached_property
    def _validation_rows(self) -> Rows:
        return asked_rows(self.tasks.recommend, self.tasks.recommend.validation)

    @cached_property
    def _validation_queries(self) -> GradedQueries:
        every = self.tasks.search.validation
        answered = np.flatnonzero([len(relevant) > 0 for relevant in every.relevant])
        return every.at(spread_evenly(answered, _VALIDATION_QUERIES).tolist())

    @cached_property
    def _validation_vectors(self) -> np.ndarray:
        return self.embed(self._validation_queries.queries)


def query_ranks(queries: np.ndarray, vectors: np.ndarray, items: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rank all items by q · v, and return the ranks of each query's items, int64; 1 is the best.

    Args:
        queries: float32 `(n, dim)`, each row L2 norm 1.
        vectors: float32 `(n_items, dim)`, each row L2 norm 1.
        items: int64 item rows of each query.
    """
    ranks = []
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ vectors.T
        put_broken_last(scores)
        ranks += [
            target_ranks(row, wanted)[0] for row, wanted in zip(scores, items[start : start + _BLOCK], strict=True)
        ]
    return ranks


def relative_mean(values: Sequence[float], start: Sequence[float]) -> float:
    """Return the mean of values relative to those at the start, so that no task counts more because it is easier."""
    return float(np.mean([value / max(first, _LOWEST_START) for value, first in zip(values, start, strict=True)]))


def _tasks_of(objective: Objective) -> set[str]:
    return {task for step in range(2) for task in tasks_of_step(objective, step)}


def _judged(queries: GradedQueries) -> JudgedQueries:
    return JudgedQueries(queries.queries, queries.items, queries.gains)
