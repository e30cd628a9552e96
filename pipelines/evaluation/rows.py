"""The frozen rows that every case is measured on: one row a basket, with what was known just before it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import DataError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.retrieval.cooccurrence import history_weights


@dataclass(frozen=True)
class KnownUser:
    """What the feature store knew about a user at one moment; histories are oldest first."""

    item_ids: Sequence[str]
    event_types: Sequence[str]
    event_times: Sequence[int]
    """Epoch seconds."""
    activity: Mapping[str, float | None]


@dataclass(frozen=True)
class EvaluationRows:
    """`n` rows; item lists are int64 row numbers of the catalogue, −1 for items that it does not have."""

    user_ids: np.ndarray
    """str `(n,)`."""
    as_of: Sequence[datetime]
    """When each row's prediction is made, just before the basket."""
    features: Sequence[KnownUser]
    histories: Sequence[np.ndarray]
    """Item of each event of the history, oldest first, aligned with `features[i].event_times`."""
    targets: Sequence[np.ndarray]
    """Distinct items of the basket."""
    new_targets: Sequence[np.ndarray]
    """Those of them that the user had never bought."""
    seen: Sequence[np.ndarray]
    """Distinct items of the catalogue with an earlier event of the user."""
    clicked: Sequence[np.ndarray]
    """Distinct items that the user clicked, viewed or put into the cart next; of validation rows alone."""
    fingerprint: str
    """SHA-1 of users, moments and targets: two reports with the same digits are about the same rows."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.as_of)

    @cached_property
    def now_s(self) -> np.ndarray:
        """float64 `(n,)` the moment of each prediction, epoch seconds."""
        return np.asarray([moment.timestamp() for moment in self.as_of], np.float64)

    @cached_property
    def cold(self) -> np.ndarray:
        """bool `(n,)` true where no item of the history is in the catalogue."""
        return np.asarray([not (history >= 0).any() for history in self.histories], bool)

    def recency_weights(self, decay: float) -> list[np.ndarray]:
        """Return `decay` to the power of the age in baskets of each event, float32, aligned with `histories`."""
        return [history_weights(user.event_times, decay) for user in self.features]

    def part(self, start: int, stop: int) -> "EvaluationRows":
        """Return rows `start` to `stop`."""
        return EvaluationRows(
            user_ids=self.user_ids[start:stop],
            as_of=self.as_of[start:stop],
            features=self.features[start:stop],
            histories=self.histories[start:stop],
            targets=self.targets[start:stop],
            new_targets=self.new_targets[start:stop],
            seen=self.seen[start:stop],
            clicked=self.clicked[start:stop],
            fingerprint=self.fingerprint,
        )


def read_rows(training_set: Path, split: str, item_ids: Sequence[str]) -> EvaluationRows:
    """Read one split of a training set.

    Args:
        training_set: The folder with `rows.parquet` and `seen.parquet`.
        split: `validation` or `test`.
        item_ids: The catalogue, in the order that row numbers mean.

    Raises:
        DataError: the split has no rows, or a row lacks what the user had seen.
    """
    rows_of = {item_id: row for row, item_id in enumerate(item_ids)}

    def numbers(ids: Sequence[str] | None) -> np.ndarray:
        return np.fromiter((rows_of.get(item_id, -1) for item_id in ids or ()), np.int64, len(ids or ()))

    table = pq.read_table(training_set / "rows.parquet")
    table = table.filter(pc.equal(table["split"], split)).sort_by("row_id")
    if table.num_rows == 0:
        raise DataError(
            f"The training set {training_set.name} has no {split} rows, so nothing can be measured: give it a longer "
            f"time span (`training_set.{split}_days`) or more data, then run `headrace build_training_set` again."
        )
    seen_table = pq.read_table(training_set / "seen.parquet")
    seen_ids = dict(zip(seen_table["row_id"].to_pylist(), seen_table["item_ids"].to_pylist(), strict=True))
    records: list[dict[str, Any]] = table.to_pylist()
    if lacking := [record["row_id"] for record in records if record["row_id"] not in seen_ids]:
        raise DataError(
            f"seen.parquet of the training set {training_set.name} lacks {len(lacking)} of {len(records)} {split} "
            f"rows, first at row_id {', '.join(map(str, lacking[:3]))}: delete that folder and run "
            "`headrace build_training_set` again."
        )
    activity = [name for name in ACTIVITY_FEATURES if name in table.column_names]
    digest = hashlib.sha1(usedforsecurity=False)
    for record in records:
        digest.update(f"{record['user_id']} {record['as_of']} {' '.join(record['target_item_ids'])}\n".encode())
    return EvaluationRows(
        user_ids=np.asarray([record["user_id"] for record in records], dtype=np.str_),
        as_of=[record["as_of"] for record in records],
        features=[
            KnownUser(
                item_ids=record["history_item_ids"] or [],
                event_types=record["history_event_types"] or [],
                event_times=record["history_times"] or [],
                activity={name: record[name] for name in activity},
            )
            for record in records
        ],
        histories=[numbers(record["history_item_ids"]) for record in records],
        targets=[numbers(record["target_item_ids"]) for record in records],
        new_targets=[numbers(record["new_item_ids"]) for record in records],
        seen=[_known(numbers(seen_ids[record["row_id"]])) for record in records],
        clicked=[numbers(record["clicked_item_ids"]) for record in records],
        fingerprint=digest.hexdigest(),
    )


def _known(numbers: np.ndarray) -> np.ndarray:
    distinct: np.ndarray = np.unique(numbers[numbers >= 0])
    return distinct
