"""(query, item) pairs: from the search log where there is one, filled up from the catalogue."""

from datetime import datetime

import duckdb
import numpy as np

from pipelines.training.catalog import Catalog
from pipelines.training.catalog_queries import catalog_pairs
from pipelines.training.encoder_tuning import PairSource

MIN_LOGGED_PAIRS = 200
"""Fewer logged pairs than this say too little to train on."""
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


def pair_source(catalog: Catalog, logged_queries: list[str], logged_rows: np.ndarray) -> PairSource:
    """Return a source of pairs: half logged and half made up where the log is long enough, else all made up."""

    def draw(n: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        from_log = n // 2 if len(logged_rows) >= MIN_LOGGED_PAIRS else 0
        queries, rows = catalog_pairs(catalog, n - from_log, rng)
        if from_log:
            chosen = rng.integers(0, len(logged_rows), from_log)
            queries = [*queries, *(logged_queries[place] for place in chosen)]
            rows = np.concatenate([rows, logged_rows[chosen]])
        return queries, rows

    return draw
