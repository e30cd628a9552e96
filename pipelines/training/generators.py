"""What recommendations are retrieved from: item-to-item tables and the trends of popularity, as known at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import RankerConfig
from pipelines.inference.bundle import ITEM_TO_ITEM
from pipelines.progress import Progress
from pipelines.retrieval.cooccurrence import POSITIVE_TYPES, build_item_to_item
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.retrieval.sequence_neighbors import build_successors
from pipelines.retrieval.text_neighbors import build_lexical_neighbors
from pipelines.retrieval.trends import ItemTrends, build_trends

SUCCESSORS, LEXICAL = "successors", "lexical"
_DAY_S = 86_400


@dataclass(frozen=True)
class Generators:
    """Tables by name, and popularity by day."""

    neighbors: dict[str, NeighborTable]
    trends: ItemTrends


def build_text_tables(texts: Sequence[str], config: RankerConfig, progress: Progress) -> dict[str, NeighborTable]:
    """Build the tables that depend on texts alone."""
    progress.update("text tables", 0, 1)
    lexical = build_lexical_neighbors(texts, neighbors=config.neighbors)
    progress.update("text tables", 1, 1)
    return {LEXICAL: lexical}


def build_behavior_tables(
    events: pa.Table, item_ids: Sequence[str], config: RankerConfig, progress: Progress, *, neighbors: int = 50
) -> Generators:
    """Build the tables of behavior, and the trends.

    Args:
        events: `user_id`, `session_id`, `item_id`, `event_type`, `event_timestamp`; rows of one moment in their order.
            Only events that were known when the tables are used.
        neighbors: Kept per item in the table that `goes with` answers from.
    """
    stage = "item-to-item tables"
    progress.update(stage, 0, 3)
    recent = build_item_to_item(events, item_ids, neighbors=neighbors)
    progress.update(stage, 1, 3)
    users, items, times = _numbers(events, item_ids)
    successors = build_successors(users, items, len(item_ids), neighbors=config.neighbors)
    progress.update(stage, 2, 3)
    newest = float(times.max(initial=0))
    since = None if config.trend_days is None else newest - config.trend_days * _DAY_S
    trends = build_trends(items, times, len(item_ids), users=users, since_s=since)
    progress.update(stage, 3, 3)
    return Generators({ITEM_TO_ITEM: recent, SUCCESSORS: successors}, trends)


def _numbers(events: pa.Table, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return user numbers, item rows and epoch seconds of the events that count, in the order of time."""
    events = events.filter(pc.is_in(events["event_type"], value_set=pa.array(POSITIVE_TYPES)))
    rows = pc.fill_null(pc.index_in(events["item_id"], value_set=pa.array(item_ids, pa.string())), -1)
    items = rows.to_numpy().astype(np.int64)
    users = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    times = pc.cast(events["event_timestamp"], pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // 1_000_000
    known = items >= 0
    order = np.argsort(times[known], kind="stable")
    return users[known][order], items[known][order], times[known][order]
