"""Queries whose answers people judged: pairs to learn from, and items that are easily mistaken for an answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import duckdb
import numpy as np

from pipelines.errors import DataError
from pipelines.progress import Progress
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.training.catalog import Catalog
from pipelines.training.rivals import Rivals

_MAX_GAIN = 8.0
"""Largest gain: what an item is worth is 2^gain − 1."""
_RIVALS = 50
"""Best items by words that rivals are drawn from."""


@dataclass(frozen=True)
class JudgedQueries:
    """`n` distinct queries, and what is known of some items of each."""

    queries: list[str]
    items: list[np.ndarray]
    """int64, row numbers of the judged items of each query."""
    gains: list[np.ndarray]
    """float64 in [0, 8]: how much more than "not relevant" each is."""

    def __post_init__(self) -> None:
        broken = [place for place, gains in enumerate(self.gains) if not ((gains >= 0) & (gains <= _MAX_GAIN)).all()]
        if broken:
            raise DataError(
                f"{len(broken):,} of {len(self.queries):,} queries have a grade that is no number, or one more than "
                f"{_MAX_GAIN:g} above the lowest, first {self.queries[broken[0]]!r}: mend the judgements, or divide "
                "the grades."
            )

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def at(self, places: Sequence[int] | np.ndarray) -> "JudgedQueries":
        """Return some of the queries."""
        return JudgedQueries(
            [self.queries[place] for place in places],
            [self.items[place] for place in places],
            [self.gains[place] for place in places],
        )

    def divided(self, share: float, name: str = "held out") -> tuple["JudgedQueries", "JudgedQueries"]:
        """Return most of the queries, and `share` of them, which the first part does not have.

        A query's text decides where it goes, so a query that was held out once stays held out.

        Args:
            name: Divisions of different names have nothing to do with each other.
        """
        held_out = np.array([_chance(f"{name}:{query}") < share for query in self.queries], bool)
        return self.at(np.flatnonzero(~held_out)), self.at(np.flatnonzero(held_out))

    @cached_property
    def answered(self) -> np.ndarray:
        """Queries with an item above the lowest grade, int64."""
        return np.array([place for place, gains in enumerate(self.gains) if (gains > 0).any()], np.int64)

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """Items above the lowest grade by query, int64 each."""
        return {
            query: items[gains > 0] for query, items, gains in zip(self.queries, self.items, self.gains, strict=True)
        }

    def pairs(self, n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Draw `n` (query, item) pairs: distinct queries while there are enough, of each an item by its worth.

        Returns:
            The queries, and the row numbers of their items, int64 `(n,)`.
        """
        places = rng.choice(self.answered, n, replace=n > len(self.answered))
        rows = np.empty(n, np.int64)
        for row, place in enumerate(places):
            worth = np.exp2(self.gains[place]) - 1
            rows[row] = rng.choice(self.items[place], p=worth / worth.sum())
        return [self.queries[place] for place in places], rows


@dataclass(frozen=True)
class LexicalRivals:
    """Draws items that share words with a query, and that nobody judged to answer it."""

    judged: JudgedQueries
    table: dict[str, np.ndarray]
    """Rivals of each query, int64, none for queries without any."""
    per_query: int = 1

    def __call__(self, queries: Sequence[str], rows: np.ndarray, rng: np.random.Generator) -> Rivals:
        """Return rivals for a batch of pairs, and which items of the batch answer which query."""
        nothing = np.empty(0, np.int64)
        drawn = [
            rng.choice(found, min(self.per_query, len(found)), replace=False)
            for query in queries
            if len(found := self.table.get(query, nothing))
        ]
        hard = np.setdiff1d(np.concatenate(drawn), rows) if drawn else nothing
        every = np.concatenate([rows, hard])
        known = self.judged.answers
        return Rivals(hard, np.stack([np.isin(every, known.get(query, nothing)) for query in queries]))


def mine_rivals(judged: JudgedQueries, lexical: LexicalIndex, per_query: int, progress: Progress) -> LexicalRivals:
    """Find the rivals of each query: its best items by words, and those of the lowest grade."""
    table = {}
    for done, (query, items, gains) in enumerate(zip(judged.queries, judged.items, judged.gains, strict=True), start=1):
        scores = lexical.scores(query)
        best = top_rows(scores, _RIVALS, scores > 0)
        table[query] = np.union1d(np.setdiff1d(best, items[gains > 0]), items[gains == 0])
        progress.update("hard negatives mined", done, len(judged))
    return LexicalRivals(judged, table, per_query)


def judged_queries(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> JudgedQueries:
    """Read the judgements; those of unknown items and of blank queries are left out.

    The lowest grade of the table says "not relevant"; where all grades are equal, every judged item answers.

    Raises:
        DataError: a grade is no number, or they span too much.
    """
    table = connection.sql(
        "SELECT lower(trim(query)) AS query, item_id, max(grade)::DOUBLE AS grade FROM judgements "
        "WHERE trim(query) <> '' GROUP BY ALL ORDER BY query, item_id"
    ).to_arrow_table()
    numbers = catalog.row_numbers()
    grades = table["grade"].to_numpy()
    gains = grades - grades.min() if len(grades) and grades.min() != grades.max() else np.ones(len(grades))
    found: dict[str, list[tuple[int, float]]] = {}
    for query, item_id, gain in zip(table["query"].to_pylist(), table["item_id"].to_pylist(), gains, strict=True):
        if item_id in numbers:
            found.setdefault(query, []).append((numbers[item_id], float(gain)))
    return JudgedQueries(
        list(found),
        [np.array([row for row, _ in known], np.int64) for known in found.values()],
        [np.array([gain for _, gain in known], np.float64) for known in found.values()],
    )


def _chance(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
