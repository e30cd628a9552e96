"""What was known before the test window: the events that the behavior baselines are made of."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.features.history import IS_REMEMBERED_SQL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

POPULARITY_DAYS = 28
"""Days before the test window that the popularity baseline counts."""
KNN_DAYS = 90
"""Days before the test window that item-KNN learns from. Both were the strongest on validation rows."""


@dataclass(frozen=True)
class Interactions:
    """`n` events with an item of the catalogue."""

    users: np.ndarray
    """int64 `(n,)` user numbers from 0."""
    items: np.ndarray
    """int64 `(n,)` row numbers of the catalogue."""
    age_days: np.ndarray
    """float64 `(n,)` age of each event when the test window begins, above 0."""
    n_items: int

    def newest(self, days: float) -> "Interactions":
        """Return the events of the newest `days`, or all of them where none is so new."""
        kept = self.age_days <= days
        if not kept.any():
            return self
        return Interactions(self.users[kept], self.items[kept], self.age_days[kept], self.n_items)

    def counts(self) -> np.ndarray:
        """Return how many events each item has, float32 `(n_items,)`."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.float32)


def read_interactions(
    connection: "duckdb.DuckDBPyConnection", item_ids: "Sequence[str]", until: datetime
) -> Interactions:
    """Read the events that happened before `until` and were known then.

    Args:
        connection: Has the view `events` of the data contract.
        item_ids: The catalogue, in the order that row numbers mean; events of other items are left out.
    """
    table = connection.sql(
        f"""
        SELECT user_id, item_id, (epoch($until) - epoch(event_timestamp)) / 86400 AS age_days FROM events
        WHERE {IS_REMEMBERED_SQL}
          AND event_timestamp < $until AND created_timestamp <= $until
        """,
        params={"until": until},
    ).to_arrow_table()
    catalog = pa.array(item_ids, pa.string())
    rows = pc.fill_null(pc.index_in(table["item_id"], value_set=catalog), -1).to_numpy().astype(np.int64)
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    known = rows >= 0
    return Interactions(users[known], rows[known], table["age_days"].to_numpy()[known], len(item_ids))
