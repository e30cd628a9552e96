"""Training rows in memory: what was known of a user at a moment, and what the user bought next."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import DataError
from pipelines.features.activity import ACTIVITY_FEATURES, activity_vector
from pipelines.inference.preprocessing import TOWER_HISTORY
from pipelines.training.catalog import Catalog

History = tuple[np.ndarray, list[str], np.ndarray]
"""Item row numbers int64 `(t,)`, event types, event times (epoch seconds) int64 `(t,)`; oldest first."""
_HISTORY = ("history_item_ids", "history_event_types", "history_times")
_BATCH_ROWS = 8_192


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

    Items that left the catalogue are dropped from histories and targets. Of a history, the newest events are kept that
    the user tower looks at; the files are read in parts, for what they hold is several times as long.

    Raises:
        DataError: a feature is NaN or infinite. Null is fine: it means that nothing is known.
    """
    file = folder / "rows.parquet"
    columns = [name for name in pq.read_schema(file).names if name not in _HISTORY]
    table = pq.read_table(file, columns=columns, filters=[("split", "==", split)])
    _refuse_broken_numbers(table, split)
    item_ids = pa.array(catalog.item_ids)
    activity_columns = {name: table[name].to_pylist() for name in ACTIVITY_FEATURES}
    activity = [
        activity_vector({name: values[row] for name, values in activity_columns.items()})
        for row in range(table.num_rows)
    ]
    return Rows(
        user_ids=table["user_id"].to_pylist(),
        as_of_s=table["as_of"].cast(pa.int64()).to_numpy() / 1e6,
        histories=list(_histories(file, split, item_ids)),
        activity=np.stack(activity) if activity else np.zeros((0, len(ACTIVITY_FEATURES)), np.float32),
        targets=_split(table["target_item_ids"], item_ids),
        new_targets=_split(table["new_item_ids"], item_ids),
        seen=_seen(folder, table["row_id"], item_ids) if split != "train" else [np.zeros(0, np.int64)] * table.num_rows,
    )


def _histories(file: Path, split: str, item_ids: pa.Array) -> Iterator[History]:
    """Yield the newest TOWER_HISTORY known events of each row of a split, in the order of the file."""
    for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=["split", *_HISTORY]):
        part = pa.table(batch.filter(pc.equal(batch["split"], split)))
        rows, offsets, known = _known_rows(part["history_item_ids"], item_ids)
        types = _flat(part["history_event_types"]).dictionary_encode()
        names = np.asarray(types.dictionary.to_pylist(), dtype=object)[types.indices.to_numpy()[known]]
        times = _flat(part["history_times"]).to_numpy()[known]
        for start, end in pairwise(offsets):
            newest = slice(max(start, end - TOWER_HISTORY), end)
            yield rows[newest].copy(), list(names[newest]), times[newest].copy()


def learnable_rows(rows: Rows) -> np.ndarray:
    """Return the training rows that have a history and something new to predict from it, int64 `(<= n,)`.

    Raises:
        DataError: there is none; the message says what they lack.
    """
    has_history = np.array([len(history[0]) > 0 for history in rows.histories], bool)
    has_positive = np.array([len(targets) > 0 for targets in rows.new_targets], bool)
    found = np.flatnonzero(has_history & has_positive)
    if not len(found):
        raise DataError(
            f"None of the {len(rows):,} training rows can be learnt from: {int((~has_history).sum()):,} have no "
            "history, as of users with a single event or basket, and "
            f"{int((has_history & ~has_positive).sum()):,} hold no item that is new to its user. Bring more events, or "
            "raise `training_set.window_days`."
        )
    return found


def refuse_rows_without_positives(rows: Rows, split: str) -> None:
    """Stop where no row of a split has anything to find, so that nothing could be measured on it.

    Raises:
        DataError: names the split.
    """
    if not any(len(targets) for targets in rows.new_targets):
        raise DataError(
            f"None of the {len(rows):,} rows of the {split} window holds an item that is new to its user, so nothing "
            f"can be measured on it: bring more events, or raise `training_set.{split}_days`."
        )


def _refuse_broken_numbers(table: pa.Table, split: str) -> None:
    for name in ACTIVITY_FEATURES:
        values = table[name].to_numpy()
        broken = np.flatnonzero(~np.isfinite(values) & table[name].is_valid().to_numpy())
        if len(broken):
            first = ", ".join(str(row_id) for row_id in table["row_id"].take(broken[:3]).to_pylist())
            raise DataError(
                f"`{name}` is NaN or infinite in {len(broken)} {split} rows, first at row_id {first}: only numbers and "
                "null, for unknown, are features. Mend what computes it, run `headrace build_features`, then train "
                "again with `--force`."
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
