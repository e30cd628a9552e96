"""Both tasks over one catalogue: users' next items, and items of queries."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.benchmarks.folder import (
    JUDGEMENTS,
    ItemTable,
    SearchFolder,
    read_recommend_folder,
    read_search_folder,
    smaller_recommend_folder,
)
from pipelines.benchmarks.protocols import RecommendTask, SearchTask, recommend_task, search_split
from pipelines.benchmarks.task_training import task_catalog
from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs

_QUERY_SEED = 13
"""The questions are the same whatever the seed of the training."""


@dataclass(frozen=True)
class JointTasks:
    """What one folder asks of a model."""

    recommend: RecommendTask
    search: SearchTask
    catalog: Catalog
    """With counts of what is known before validation."""
    made_up: bool
    """Whether the queries are made from the catalogue, because the folder has no judgements."""


def joint_tasks(folder: Path, *, drawn: int, quick: bool) -> JointTasks:
    """Read a folder for `bench recommend`; `judgements.parquet` in it gives the queries.

    Args:
        drawn: Queries drawn from the catalogue where there are no judgements.
        quick: Take a sample of users and items.

    Raises:
        DataError: the folder cannot be used, or too few queries are left to train, validate and test with.
    """
    read = read_recommend_folder(folder)
    task = recommend_task(smaller_recommend_folder(read) if quick else read)
    catalog = task_catalog(task, task.known_before_validation)
    judged = (folder / JUDGEMENTS).is_file()
    queries = (
        judgements_of(read_search_folder(folder), task.items)
        if judged
        else made_up_judgements(task.data, task.items, catalog, drawn)
    )
    return JointTasks(task, search_split(queries), catalog, made_up=not judged)


def judgements_of(folder: SearchFolder, items: ItemTable) -> SearchFolder:
    """Return the judgements of these items; a query without any is left out."""
    numbers = {item_id: row for row, item_id in enumerate(items.item_ids)}
    rows = np.asarray([numbers.get(item_id, -1) for item_id in folder.items.item_ids], np.int64)[folder.rows]
    kept = np.flatnonzero(rows >= 0)
    left, query_numbers = np.unique(folder.query_numbers[kept], return_inverse=True)
    return SearchFolder(
        name=folder.name,
        items=items,
        queries=[folder.queries[number] for number in left],
        query_numbers=query_numbers.ravel().astype(np.int64),
        rows=rows[kept],
        grades=folder.grades[kept],
    )


def made_up_judgements(name: str, items: ItemTable, catalog: Catalog, n: int) -> SearchFolder:
    """Draw `n` (query, item) pairs from the catalogue; a query drawn for several items asks for all of them."""
    queries, rows = catalog_pairs(catalog, n, np.random.default_rng(_QUERY_SEED))
    names = sorted(set(queries))
    numbers = {query: number for number, query in enumerate(names)}
    pairs = np.unique([[numbers[query] for query in queries], rows], axis=1)
    return SearchFolder(name, items, names, pairs[0], pairs[1], np.ones(pairs.shape[1]))
