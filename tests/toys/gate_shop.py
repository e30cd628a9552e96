"""A shop for the gate: 240 items, 240 users, 60 days; what comes next follows from what was bought, but not always.

A quarter of the users is new.

Items stand in six categories of 40. After an item a user mostly takes one of the next three of its category, else any
item, popular ones more often. So a model that learned has something to lose, there is a tail, and nobody is perfect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import (
    CompressionConfig,
    EvaluationConfig,
    HeadraceConfig,
    PromotionConfig,
    RankerConfig,
    ServingConfig,
    TrainingConfig,
)
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import (
    EVENTS,
    ITEMS,
    CompressedBundle,
    EvaluationReport,
    IngestedWindow,
    PromotionDecision,
    TrainingSet,
)
from pipelines.steps.build_training_set import SEEN_ITEMS, TRAINING_ROWS
from pipelines.steps.compress_model import compress_model
from pipelines.steps.evaluate_model import evaluate_model
from pipelines.steps.finetune_model import finetune_model
from pipelines.steps.promote_challenger import promote_challenger
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.files import write_text
from pipelines.stores.model_registry import ModelRegistry
from pipelines.stores.table_store import IngestedManifest, TableStore, window_id
from tests.toys.bad_challengers import Change, change_bundle

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, N_USERS, N_CATEGORIES, PER_CATEGORY = 60, 240, 6, 40
N_ITEMS = N_CATEGORIES * PER_CATEGORY
VISITS, BASKET = 15, 3
OLD_USERS, NEW_SINCE = 180, 12
"""The other users begin with their thirteenth visit, in the newest window."""
_SYLLABLES = ["ba", "ko", "mi", "tu", "re", "sa", "ni", "po", "lu", "fe"]
MADE_AT = datetime(2026, 3, 2, tzinfo=UTC)


def _title(item: int) -> str:
    """Return a title of two made-up words: that of the category, and one of the item's own."""
    own = _SYLLABLES[item % 10] + _SYLLABLES[item // 10 % 10] + _SYLLABLES[(item // 100 + item) % 10] + "xz"[item % 2]
    return f"{own} {_SYLLABLES[item // PER_CATEGORY]}{_SYLLABLES[item // PER_CATEGORY + 3]}"


def items() -> list[dict[str, Any]]:
    """Return the catalogue in contract form."""
    return [
        {
            "item_id": f"item-{item:03d}",
            "title": _title(item),
            "category": f"Aisle {item // PER_CATEGORY}",
            "brand": ("Mill", "House")[item % 2],
            "price": 1.0 + item % 7,
            "currency": "EUR",
            "available": True,
            "updated_at": START,
        }
        for item in range(N_ITEMS)
    ]


def baskets() -> list[tuple[str, datetime, list[str]]]:
    """Return user, moment and items of every basket, in the order of time."""
    rng = np.random.default_rng(5)
    popularity = 1 / (1 + np.arange(PER_CATEGORY))
    popularity /= popularity.sum()
    found = []
    for user in range(N_USERS):
        category = user % N_CATEGORIES
        item = category * PER_CATEGORY + int(rng.choice(PER_CATEGORY, p=popularity))
        for visit in range(0 if user < OLD_USERS else NEW_SINCE, VISITS):
            at = START + timedelta(days=4 * visit + user % 4, hours=8 + user % 12, minutes=user % 60)
            bought: list[int] = []
            while len(bought) < BASKET:
                if rng.random() < 0.75:
                    item = item // PER_CATEGORY * PER_CATEGORY + (item + int(rng.integers(1, 4))) % PER_CATEGORY
                else:
                    home = category if rng.random() < 0.6 else int(rng.integers(N_CATEGORIES))
                    item = home * PER_CATEGORY + int(rng.choice(PER_CATEGORY, p=popularity))
                if item not in bought:
                    bought.append(item)
            found.append((f"user-{user:03d}", at, [f"item-{one:03d}" for one in bought]))
    return sorted(found, key=lambda basket: (basket[1], basket[0]))


def shop_tables(home: Path) -> TableStore:
    """Return tables below `home` that hold the shop."""
    events = [
        {
            "event_id": f"{user}-{at.isoformat()}-{place}",
            "user_id": user,
            "session_id": f"{user}-{at.isoformat()}",
            "event_type": "purchase",
            "item_id": item,
            "event_timestamp": at,
            "created_timestamp": at,
        }
        for user, at, bought in baskets()
        for place, item in enumerate(bought)
    ]
    tables = TableStore(folder=home / "tables", quarantine=home / "quarantine", ingested=home / "ingested")
    window = IngestedWindow(
        window=window_id(MADE_AT),
        since=None,
        until=MADE_AT,
        source="hand",
        folder=home / "ingested" / window_id(MADE_AT),
        rows={"items": N_ITEMS, "events": len(events)},
    )
    window.folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(events, schema=EVENTS), window.folder / "events.parquet")
    pq.write_table(pa.Table.from_pylist(items(), schema=ITEMS), window.folder / "items.parquet")
    write_text(window.folder / "window.json", IngestedManifest(window=window, source_state={}).model_dump_json())
    tables.accept(window, rejections={})
    return tables


@dataclass(frozen=True)
class Cuts:
    """Days since START at which validation, test and the end begin; what is older than validation is trained on."""

    validation: int
    test: int
    end: int


EARLIER, LATER = Cuts(40, 44, 52), Cuts(48, 52, 60)


def rows_until(cuts: Cuts, *, leaked: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a training set.

    Args:
        leaked: How often each test row is among the training rows too.
    """
    history: dict[str, list[tuple[str, datetime]]] = {}
    rows: list[dict[str, Any]] = []
    for user, at, bought in baskets():
        known = history.setdefault(user, [])
        day = (at - START).days
        seen = {item for item, _ in known}
        row = {
            "replayed": False,
            "user_id": user,
            "session_id": f"{user}-{at.isoformat()}",
            "as_of": at - timedelta(seconds=1),
            "target_item_ids": bought,
            "new_item_ids": [item for item in bought if item not in seen],
            "history_item_ids": [item for item, _ in known],
            "history_event_types": ["purchase"] * len(known),
            "history_times": [int(moment.timestamp()) for _, moment in known],
            **dict.fromkeys(ACTIVITY_FEATURES, float(len(known))),
        }
        split = "train" if day < cuts.validation else "validation" if day < cuts.test else "test"
        if day < cuts.end:
            rows.append({"split": split, **row})
            rows += [{"split": "train", **row}] * (leaked if split == "test" else 0)
        known += [(item, at) for item in bought]
    return [{"row_id": number, **row} for number, row in enumerate(rows)]


def write_training_set(folder: Path, rows: Sequence[dict[str, Any]], cuts: Cuts) -> TrainingSet:
    """Write rows.parquet and seen.parquet, and return what the step would."""
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=TRAINING_ROWS), folder / "rows.parquet")
    seen = [{"row_id": row["row_id"], "item_ids": row["history_item_ids"]} for row in rows if row["split"] != "train"]
    pq.write_table(pa.Table.from_pylist(seen, schema=SEEN_ITEMS), folder / "seen.parquet")
    moments = [START + timedelta(days=day) for day in (cuts.validation, cuts.test, cuts.end)]
    return TrainingSet(
        run=folder.name,
        folder=folder,
        fingerprint=folder.name.ljust(64, "0"),
        champion=None,
        rows={name: sum(row["split"] == name for row in rows) for name in ("train", "validation", "test")},
        since=START,
        validation_start=moments[0],
        test_start=moments[1],
        test_end=moments[2],
    )


class GateShop:
    """Trains, packs, evaluates and judges with the real steps, in one home."""

    def __init__(self, home: Path, encoder: Path) -> None:
        self.places = Places(home)
        self.tables = shop_tables(home)
        self.tracker, self.registry = ExperimentTracker(self.places.mlflow), ModelRegistry(self.places.mlflow)
        self.config = HeadraceConfig(
            training=TrainingConfig(
                encoder=str(encoder),
                encoder_steps=150,
                encoder_batch=32,
                frozen_layers=0,
                tower_steps=200,
                tower_batch=64,
                negatives=64,
                query_pairs=2_048,
                validate_every=50,
                max_tokens=16,
                behavior_dim=16,
            ),
            compression=CompressionConfig(min_cosine=0.5, item_text_tower="encoder"),
            ranker=RankerConfig(min_rows=20, epochs=10, min_steps=0, batch=16, width=16),
            evaluation=EvaluationConfig(bootstrap_samples=300, latency_requests=60, memory_requests=20, examples=3),
            promotion=PromotionConfig(min_slice_rows=30),
        )

    def train(self, run: str, cuts: Cuts, *, leaked: int = 0) -> TrainingSet:
        rows = rows_until(cuts, leaked=leaked)
        training_set = write_training_set(self.places.training / run, rows, cuts)
        self.trained = finetune_model(
            training_set,
            tables=self.tables,
            training_dir=self.places.training,
            tracker=self.tracker,
            config=self.config.training,
            cache_dir=self.places.embedding_cache,
            progress=SilentProgress(),
        )
        return training_set

    def pack(self, training_set: TrainingSet) -> CompressedBundle:
        return compress_model(
            training_set,
            self.trained,
            tables=self.tables,
            bundles_dir=self.places.bundles,
            registry=self.registry,
            tracker=self.tracker,
            config=self.config,
            cache_dir=self.places.embedding_cache,
            progress=SilentProgress(),
            now=MADE_AT,
        )

    def evaluate(self, training_set: TrainingSet, compressed: CompressedBundle) -> EvaluationReport:
        return evaluate_model(
            training_set.model_copy(update={"run": compressed.run}),
            compressed,
            tables=self.tables,
            bundles_dir=self.places.bundles,
            registry=self.registry,
            tracker=self.tracker,
            config=self.config.evaluation,
            serving=ServingConfig(),
            shadow_answers=self.places.shadow_answers,
            cache_dir=self.places.embedding_cache,
            progress=SilentProgress(),
        )

    def promote(self, training_set: TrainingSet, compressed: CompressedBundle) -> PromotionDecision:
        """Evaluate the bundle, and let the gate decide."""
        return promote_challenger(
            self.evaluate(training_set, compressed),
            compressed,
            registry=self.registry,
            tracker=self.tracker,
            policy=self.config.promotion,
        )

    def changed(self, good: CompressedBundle, name: str, change: Change) -> CompressedBundle:
        """Return a good bundle after a change of its files, registered as a challenger of its own."""
        folder = change_bundle(good.folder, self.places.bundles / name, change)
        version = self.registry.register(name, name, folder)
        return good.model_copy(update={"run": name, "bundle": name, "folder": folder, "version": version})
