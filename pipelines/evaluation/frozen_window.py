"""The frozen window that bundles are compared on: rows, queries with their answers, and one catalogue for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import EvaluationConfig
from pipelines.evaluation.interactions import POPULARITY_DAYS, Interactions, read_interactions
from pipelines.evaluation.rows import EvaluationRows, read_rows
from pipelines.evaluation.search_cases import JudgedQueries, same_text_targets
from pipelines.evaluation.slices import category_slices, script_slices
from pipelines.inference.bundle import Bundle
from pipelines.promotion.cases import CHALLENGER_CASE, CHAMPION_CASE
from pipelines.schemas import TrainingSet
from pipelines.training.catalog import Catalog, load_catalog
from pipelines.training.catalog_queries import catalog_pairs

if TYPE_CHECKING:
    import duckdb

_QUERY_STREAM = 97
"""Keeps the made-up test queries apart from those that training draws with the same seed."""
_VALIDATION_ROWS = 1_000
"""Validation rows at most: the gain on the test window is compared with that on them."""

TextEncoder = Callable[[Sequence[str]], np.ndarray]
"""Texts -> float32 `(n, dim)`, each row L2 norm 1."""


@dataclass(frozen=True)
class RankedCatalog:
    """The catalogue that everything is ranked in: what every row number means."""

    ids: list[str]
    titles: list[str]
    categories: list[str | None]

    @classmethod
    def of(cls, bundles: "MeasuredBundles") -> "RankedCatalog":
        """Return the challenger's items, then those that the champion has beside them.

        A challenger that left items out must miss them.
        """
        own = bundles.own
        ids, titles, categories = list(own.item_ids), list(own.titles), _categories(own)
        if bundles.live:
            live = bundles.live
            for item_id, title, category in zip(live.item_ids, live.titles, _categories(live), strict=True):
                if own.row_of(item_id) is None:
                    ids.append(item_id)
                    titles.append(title)
                    categories.append(category)
        return cls(ids, titles, categories)


@dataclass(frozen=True)
class FrozenWindow:
    """What all cases share."""

    item_ids: list[str]
    title_vectors: np.ndarray
    """float32 `(n_items, dim)` by the untouched encoder, each row L2 norm 1."""
    rows: EvaluationRows
    validation: EvaluationRows | None
    """Rows of the validation window; None where the training set has none."""
    interactions: Interactions
    judged: JudgedQueries
    item_slices: Mapping[str, np.ndarray]
    """Categories and scripts of titles, bool `(n_items,)` each."""

    @cached_property
    def popularity(self) -> np.ndarray:
        """float32 `(n_items,)`, recent events of each item."""
        return self.interactions.newest(POPULARITY_DAYS).counts()


def _categories(bundle: Bundle) -> list[str | None]:
    names: list[str | None] = bundle.items["category"].to_pylist()
    return names


@dataclass(frozen=True)
class MeasuredBundles:
    """The challenger, and the champion where one can be measured."""

    own: Bundle
    live: Bundle | None = None
    champion: str | None = None
    """Id of the champion, whether it can be measured or not; none: there is none yet."""
    left_out: tuple[str, ...] = ()
    """Why the champion is not measured."""

    @property
    def by_case(self) -> dict[str, Bundle]:
        """Case -> bundle."""
        return {CHALLENGER_CASE: self.own, **({CHAMPION_CASE: self.live} if self.live else {})}


def read_window(
    connection: "duckdb.DuckDBPyConnection",
    training_set: TrainingSet,
    ranked: RankedCatalog,
    config: EvaluationConfig,
    encode_items: TextEncoder,
) -> FrozenWindow:
    """Read what all cases are measured on.

    Args:
        connection: Has the views of the data contract.
        encode_items: The untouched encoder.

    Raises:
        DataError: there are no test rows.
    """
    from pipelines.training.search_pairs import MIN_LOGGED_PAIRS, logged_pairs  # imports torch

    catalog = load_catalog(connection, training_set.test_start)
    interactions = read_interactions(connection, ranked.ids, training_set.test_start)
    earlier = logged_pairs(connection, catalog, training_set.test_start)
    logged = logged_pairs(connection, catalog, training_set.test_end)
    # Items may have come or gone since the bundles were made: their catalogue is the one that counts.
    text_of = dict(zip(catalog.item_ids, catalog.texts, strict=True))
    texts = [text_of.get(item_id, title) for item_id, title in zip(ranked.ids, ranked.titles, strict=True)]
    typed = len(logged[0]) - len(earlier[0])  # newest first, so that many are of the test window
    fresh = (logged[0][:typed], logged[1][:typed]) if typed >= MIN_LOGGED_PAIRS else None
    rows = read_rows(training_set.folder, "test", ranked.ids)
    wanted = np.concatenate([*rows.new_targets, np.empty(0, np.int64)]).astype(np.int64)
    return FrozenWindow(
        item_ids=ranked.ids,
        title_vectors=encode_items(texts),
        rows=rows,
        validation=(
            read_rows(training_set.folder, "validation", ranked.ids).part(0, _VALIDATION_ROWS)
            if training_set.rows.get("validation")
            else None
        ),
        interactions=interactions,
        judged=_judged_queries(fresh, catalog, ranked.ids, texts, config),
        item_slices={
            **category_slices(ranked.categories, wanted, config.categories),
            **script_slices(ranked.titles),
        },
    )


def _judged_queries(
    fresh: tuple[list[str], np.ndarray] | None,
    catalog: Catalog,
    item_ids: Sequence[str],
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
    row_of = {item_id: row for row, item_id in enumerate(item_ids)}
    rows = np.asarray([row_of.get(catalog.item_ids[row], -1) for row in wanted], np.int64)
    kept = np.flatnonzero(rows >= 0)[: config.search_queries]
    return JudgedQueries([queries[place] for place in kept], same_text_targets(rows[kept], texts), origin)
