"""What was known before the test window: the events that the behavior baselines are made of."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.features.history import HISTORY_EVENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

POPULARITY_DAYS = 28
"""Days before the test window that the popularity baseline counts."""


@dataclass(frozen=True)
class Interactions:
    """`n` events with an item of the catalogue."""

    users: np.ndarray
    """int64 `(n,)` user numbers from 0."""
    items: np.ndarray
    """int64 `(n,)` row numbers of the catalogue."""
    recent: np.ndarray
    """bool `(n,)` true for the newest `POPULARITY_DAYS` days."""
    n_items: int

    def popularity(self) -> np.ndarray:
        """Return how many recent events each item has, float32 `(n_items,)`; where nothing is recent, of all events."""
        items = self.items[self.recent] if self.recent.any() else self.items
        return np.bincount(items, minlength=self.n_items).astype(np.float32)


def read_interactions(
    connection: "duckdb.DuckDBPyConnection", item_ids: "Sequence[str]", until: datetime
) -> Interactions:
    """Read the events that happened before `until` and were known then.

    Args:
        connection: Has the view `events` of the data contract.
        item_ids: The catalogue, in the order that row numbers mean; events of other items are left out.
    """
    types = ", ".join(f"'{name}'" for name in HISTORY_EVENT_TYPES)
    table = connection.sql(
        f"""
        SELECT user_id, item_id, event_timestamp >= $recent AS recent FROM events
        WHERE item_id IS NOT NULL AND event_type IN ({types})
          AND event_timestamp < $until AND created_timestamp <= $until
        """,
        params={"until": until, "recent": until - timedelta(days=POPULARITY_DAYS)},
    ).to_arrow_table()
    catalog = pa.array(item_ids, pa.string())
    rows = pc.fill_null(pc.index_in(table["item_id"], value_set=catalog), -1).to_numpy().astype(np.int64)
    users = table["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    known = rows >= 0
    return Interactions(users[known], rows[known], table["recent"].to_numpy()[known], len(item_ids))
