"""(query, item) pairs: from the search log and from judgements where there are any, filled up from the catalogue."""

from datetime import datetime

import duckdb
import numpy as np

from pipelines.progress import Progress
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.encoder_tuning import PairSource
from pipelines.training.judged_queries import JudgedQueries, mine_rivals
from pipelines.training.rivals import RivalSource

MIN_LOGGED_PAIRS = 200
"""Fewer logged pairs than this say too little to train on."""
MIN_JUDGED_QUERIES = 100
"""Fewer judged queries with an answer than this say too little to train on."""
_ENOUGH_JUDGED_QUERIES = 1_000
"""From here on no query is made up: people's queries are better, and there is no lack of them."""
_MAX_LOGGED_PAIRS = 500_000


def logged_pairs(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, until: datetime
) -> tuple[list[str], np.ndarray]:
    """Return what users typed and then chose, before `until`, the newest half million.

    Returns:
        The queries, and the row numbers of their items, int64 `(n,)`.
    """
    table = connection.sql(
        f"""
        SELECT lower(trim(query)) AS query, item_id FROM events
        WHERE query IS NOT NULL AND trim(query) <> '' AND item_id IS NOT NULL AND event_type <> 'impression'
          AND event_timestamp < $until AND created_timestamp <= $until
        ORDER BY event_timestamp DESC, event_id LIMIT {_MAX_LOGGED_PAIRS}
        """,
        params={"until": until},
    ).to_arrow_table()
    numbers = catalog.row_numbers()
    rows = np.array([numbers.get(item_id, -1) for item_id in table["item_id"].to_pylist()], np.int64)
    queries = table["query"].to_pylist()
    known = np.flatnonzero(rows >= 0)
    return [queries[place] for place in known], rows[known]


def pair_source(
    catalog: Catalog, logged_queries: list[str], logged_rows: np.ndarray, judged: JudgedQueries | None = None
) -> PairSource:
    """Return a source of pairs: made up ones, half of them where people's queries are known, none where many are.

    Logged and judged pairs share their part evenly.
    """

    def logged(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        chosen = rng.integers(0, len(logged_rows), n)
        return [logged_queries[place] for place in chosen], logged_rows[chosen]

    known: list[PairSource] = [logged] if len(logged_rows) >= MIN_LOGGED_PAIRS else []
    n_judged = len(judged.answered) if judged is not None else 0
    if judged is not None and n_judged >= MIN_JUDGED_QUERIES:
        known.append(judged.pairs)

    def draw(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        made_up = 0 if n_judged >= _ENOUGH_JUDGED_QUERIES else n - n // 2 if known else n
        queries, rows = catalog_pairs(catalog, made_up, rng)
        for place, source in enumerate(known):
            part = (n - made_up) * (place + 1) // len(known) - (n - made_up) * place // len(known)
            more_queries, more_rows = source(part, rng)
            queries, rows = [*queries, *more_queries], np.concatenate([rows, more_rows])
        return queries, rows

    return draw


def rival_source(catalog: Catalog, judged: JudgedQueries, per_query: int, progress: Progress) -> RivalSource | None:
    """Return a source of hard negatives for judged queries; None where there are too few, or none are wanted."""
    if per_query == 0 or len(judged.answered) < MIN_JUDGED_QUERIES:
        return None
    return mine_rivals(judged, LexicalIndex.build(catalog.texts), per_query, progress)
