"""Training rows in memory: what was known of a user at a moment, and what the user bought next."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.features.activity import ACTIVITY_FEATURES, activity_vector
from pipelines.training.catalog import Catalog

History = tuple[np.ndarray, list[str], np.ndarray]
"""Item row numbers int64 `(t,)`, event types, event times (epoch seconds) int64 `(t,)`; oldest first."""


@dataclass(frozen=True)
class Rows:
    """`n` rows of one split."""

    user_ids: list[str]
    as_of_s: np.ndarray
    """float64 `(n,)`, epoch seconds."""
    histories: list[History]
    activity: np.ndarray
    """float32 `(n, len(ACTIVITY_FEATURES))`."""
    targets: list[np.ndarray]
    """Row numbers of the items of the next basket, int64."""
    new_targets: list[np.ndarray]
    """Those the user had never touched before."""
    seen: list[np.ndarray]
    """Row numbers of all items the user had touched before; empty for training rows."""

    def __len__(self) -> int:
        return len(self.user_ids)


def load_rows(folder: Path, split: str, catalog: Catalog) -> Rows:
    """Read the rows of one split (`train`, `validation` or `test`) of a training set.

    Items that left the catalogue are dropped from histories and targets.
    """
    table = pq.read_table(folder / "rows.parquet", filters=[("split", "==", split)]).sort_by("row_id")
    item_ids = pa.array(catalog.item_ids)
    rows, history_offsets, known = _known_rows(table["history_item_ids"], item_ids)
    types = np.asarray(_flat(table["history_event_types"]).to_pylist(), dtype=object)[known]
    times = _flat(table["history_times"]).to_numpy()[known]
    histories = [
        (rows[start:end], list(types[start:end]), times[start:end]) for start, end in pairwise(history_offsets)
    ]
    activity_columns = {name: table[name].to_pylist() for name in ACTIVITY_FEATURES}
    activity = [
        activity_vector({name: values[row] for name, values in activity_columns.items()})
        for row in range(table.num_rows)
    ]
    return Rows(
        user_ids=table["user_id"].to_pylist(),
        as_of_s=table["as_of"].cast(pa.int64()).to_numpy() / 1e6,
        histories=histories,
        activity=np.stack(activity) if activity else np.zeros((0, len(ACTIVITY_FEATURES)), np.float32),
        targets=_split(table["target_item_ids"], item_ids),
        new_targets=_split(table["new_item_ids"], item_ids),
        seen=_seen(folder, table["row_id"], item_ids) if split != "train" else [np.zeros(0, np.int64)] * table.num_rows,
    )


def _seen(folder: Path, row_ids: pa.ChunkedArray, item_ids: pa.Array) -> list[np.ndarray]:
    table = pq.read_table(folder / "seen.parquet")
    found = dict(zip(table["row_id"].to_pylist(), _split(table["item_ids"], item_ids), strict=True))
    nothing = np.zeros(0, np.int64)
    return [found.get(row_id, nothing) for row_id in row_ids.to_pylist()]


def _split(lists: pa.ChunkedArray, item_ids: pa.Array) -> list[np.ndarray]:
    rows, offsets, _ = _known_rows(lists, item_ids)
    return [rows[start:end] for start, end in pairwise(offsets)]


def _known_rows(lists: pa.ChunkedArray, item_ids: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row numbers of all known items in one array, offsets `(n + 1,)` into it, and which were known."""
    rows = pc.fill_null(pc.index_in(_flat(lists), value_set=item_ids), -1).to_numpy().astype(np.int64)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    known = rows >= 0
    owners = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(owners[known], minlength=len(lengths))
    return rows[known], np.concatenate([[0], np.cumsum(counts)]), known


def _flat(lists: pa.ChunkedArray) -> pa.Array:
    flat = pc.list_flatten(lists)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
