"""The training set of the toy shop, written by hand instead of joined: users walk along a row of items.

Each of the 15 baskets of a user is a row: 11 train, two validate, two test.
"""

from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.schemas import TrainingSet
from pipelines.steps.build_training_set import SEEN_ITEMS, TRAINING_ROWS
from tests.toys.catalogue import START, toy_catalogue

SPLITS = ("train",) * 11 + ("validation",) * 2 + ("test",) * 2


def toy_rows() -> list[dict[str, Any]]:
    """Return every row, in the order of time."""
    baskets: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for event in toy_catalogue().events.to_pylist():
        baskets[event["user_id"]][event["session_id"]].append(event)
    rows = []
    for user, sessions in baskets.items():
        history: list[dict[str, Any]] = []
        for visit, (session, basket) in enumerate(
            sorted(sessions.items(), key=lambda one: one[1][0]["event_timestamp"])
        ):
            bought = [event["item_id"] for event in basket]
            rows.append(
                {
                    "split": SPLITS[visit],
                    "replayed": False,
                    "user_id": user,
                    "session_id": session,
                    "as_of": basket[0]["event_timestamp"] - timedelta(seconds=1),
                    "target_item_ids": bought,
                    "new_item_ids": bought,
                    "history_item_ids": [event["item_id"] for event in history],
                    "history_event_types": ["purchase"] * len(history),
                    "history_times": [int(event["event_timestamp"].timestamp()) for event in history],
                    **dict.fromkeys(ACTIVITY_FEATURES, float(len(history))),
                }
            )
            history += basket
    rows.sort(key=lambda row: (row["as_of"], row["user_id"]))
    return [{"row_id": number, **row} for number, row in enumerate(rows)]


def write_training_set(folder: Path, rows: list[dict[str, Any]]) -> TrainingSet:
    """Write rows.parquet and seen.parquet, and return what the step would."""
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=TRAINING_ROWS), folder / "rows.parquet")
    seen = [{"row_id": row["row_id"], "item_ids": row["history_item_ids"]} for row in rows if row["split"] != "train"]
    pq.write_table(pa.Table.from_pylist(seen, schema=SEEN_ITEMS), folder / "seen.parquet")
    return TrainingSet(
        run=folder.name,
        folder=folder,
        fingerprint="0" * 64,
        champion=None,
        rows={name: sum(row["split"] == name for row in rows) for name in ("train", "validation", "test")},
        validation_start=START + timedelta(days=44),
        test_start=START + timedelta(days=52),
        test_end=START + timedelta(days=60),
    )
