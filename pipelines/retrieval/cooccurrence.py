"""Item-to-item retrieval: what was bought together lately.

Source: item-based top-N recommendation with cosine similarity (https://doi.org/10.1145/963770.963776), baskets
weighted by age.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import DataError
from pipelines.retrieval.neighbors import NeighborTable, best_of_links, stacked

_BLOCK = 4_096
POSITIVE_TYPES = ("view", "click", "cart", "purchase", "rating")


def history_weights(event_times: Sequence[int] | np.ndarray, decay: float) -> np.ndarray:
    """Weigh events by age in baskets: float32 `(n,)`, `decay` to the power of the number of newer distinct times."""
    _, newer = np.unique(-np.asarray(event_times, np.int64), return_inverse=True)
    weights: np.ndarray = (decay**newer).astype(np.float32)
    return weights


def build_item_to_item(
    events: pa.Table | Any,
    item_ids: Sequence[str],
    *,
    neighbors: int = 50,
    half_life_days: float = 90.0,
    user_weight: float = 1.0,
    shrinkage: float = 5.0,
    max_basket: int = 200,
    max_user_items: int = 400,
) -> NeighborTable:
    """Find for each item those that share baskets, and users, with it.

        sim(i, j) = Σ_b w_b x_bi x_bj / sqrt((λ + Σ_b w_b x_bi) (λ + Σ_b w_b x_bj)),  w_b = 0.5^(age_b / half_life)

    and the same with users in place of baskets; the two are averaged. The shrinkage λ keeps coincidences of two
    rare items, whose plain cosine is 1, from filling the table: on the default data, recall@10 of new items is two
    to three times as high with it.

    A basket is a session, or a user's day where events have no session. Baskets of more than `max_basket` items
    tell little about any pair and are left out; of a user, the `max_user_items` that weigh most count.

    Args:
        events: Arrow table (or a DuckDB relation) with `user_id`, `session_id`, `item_id`, `event_type`,
            `event_timestamp`. Only events that were known when the table is built.
        item_ids: The items in row order; events of others are ignored.
        neighbors: Neighbours kept per item.
        half_life_days: Age at which a basket counts half.
        user_weight: Weight of the similarity by users, relative to the one by baskets. 0 is three times as fast.
        shrinkage: λ, in recent baskets (or users).

    Returns:
        Similarities in (0, 1]; ties are in row order.

    Raises:
        DataError: a column is missing.
    """
    baskets, items, weights, users = _basket_matrix_entries(events, item_ids, half_life_days)
    if len(items) == 0:
        return NeighborTable.empty(len(item_ids))
    by_basket = _matrix(baskets, items, weights, len(item_ids))
    by_basket = by_basket[np.diff(by_basket.indptr) <= max_basket]
    similar = [(1.0, _normalized(by_basket, shrinkage))]
    if user_weight > 0:
        by_user = _heaviest(_matrix(users, items, weights, len(item_ids)), max_user_items)
        similar.append((user_weight, _normalized(by_user, shrinkage)))
    total = sum(weight for weight, _ in similar)
    parts = []
    for start in range(0, len(item_ids), _BLOCK):
        stop = min(start + _BLOCK, len(item_ids))
        block = sum(
            (matrix[:, start:stop].T.tocsr() @ matrix) * np.float32(weight / total) for weight, matrix in similar
        )
        links = block.tocoo()
        kept = (links.row + start != links.col) & (links.data > 0)
        scores = np.minimum(links.data[kept], 1.0)
        parts.append(best_of_links(links.row[kept], links.col[kept], scores, stop - start, neighbors))
    return stacked(parts)


def _basket_matrix_entries(
    events: Any, item_ids: Sequence[str], half_life_days: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return basket, item row, weight and user of each distinct (basket, item)."""
    import duckdb

    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
    table = events if isinstance(events, pa.Table) else events.to_arrow_table()
    needed = ("user_id", "session_id", "item_id", "event_type", "event_timestamp")
    if missing := [name for name in needed if name not in table.column_names]:
        raise DataError(f"The events have no column {', '.join(missing)} (found {', '.join(table.column_names)}).")
    connection.register("events", table.select(list(needed)))
    connection.register(
        "catalogue", pa.table({"item_id": pa.array(item_ids, pa.string()), "row": np.arange(len(item_ids))})
    )
    kinds = ", ".join(f"'{kind}'" for kind in POSITIVE_TYPES)
    columns = connection.execute(
        f"""
        WITH known AS (
            SELECT user_id, coalesce(session_id, CAST(CAST(event_timestamp AS DATE) AS VARCHAR)) AS session,
                   row AS item, epoch(event_timestamp) AS moment
            FROM events JOIN catalogue USING (item_id)
            WHERE event_type IN ({kinds})
        )
        SELECT dense_rank() OVER (ORDER BY user_id, session) - 1 AS basket, item,
               pow(0.5, ((SELECT max(moment) FROM known) - max(moment)) / 86400 / {float(half_life_days)}) AS weight,
               dense_rank() OVER (ORDER BY user_id) - 1 AS user
        FROM known GROUP BY user_id, session, item ORDER BY basket, item
        """
    ).fetchnumpy()
    connection.close()
    return (
        np.asarray(columns["basket"], np.int64),
        np.asarray(columns["item"], np.int64),
        np.asarray(columns["weight"], np.float32),
        np.asarray(columns["user"], np.int64),
    )


def _matrix(groups: np.ndarray, items: np.ndarray, weights: np.ndarray, n_items: int) -> Any:
    """Return the group × item matrix of weights; those of an item that a user met in several baskets add up."""
    from scipy import sparse

    return sparse.csr_matrix((weights, (groups, items)), shape=(int(groups.max()) + 1, n_items), dtype=np.float32)


def _heaviest(matrix: Any, most: int) -> Any:
    """Keep the `most` largest entries of each row, ties in column order: the product grows with their square."""
    from scipy import sparse

    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[rank < most]
    return sparse.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)


def _normalized(matrix: Any, shrinkage: float) -> Any:
    """Return the roots of the weights, columns divided by the root of their sum of weights plus shrinkage."""
    matrix.data = np.sqrt(matrix.data)
    norms = np.sqrt(np.asarray(matrix.power(2).sum(axis=0)).ravel() + shrinkage)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0).astype(np.float32)
    return matrix.multiply(scale[None, :]).tocsc()
