"""A Feast repository small enough to know by heart: users with what they spent and liked, and the prices of items."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schemas import TIMESTAMP
from pipelines.stores.feast_settings import import_feast
from tests.toys.event_tables import day

TTL_DAYS = 10
NAN = float("nan")
USER_ROWS = [
    # user, happened, arrived, spend, likes
    ("ann", day(1), day(1), 1.0, ["a"]),
    ("ann", day(2), day(5), 2.0, ["a", "b"]),  # late
    ("nan", day(1), day(1), NAN, ["a"]),
    ("none", day(1), day(1), None, None),
    ("empty", day(1), day(1), 0.0, []),
]
"""`ann` spent 1 by day 1, and 2 by day 2, which was heard of on day 5 only."""
USER_FEATURES = ["taste:spend", "taste:likes"]
PRICES = {"a": 1.0, "b": 2.0, "c": 3.0}


def feast_repository(
    home: Path, *, offline: str = "duckdb", online: dict[str, Any] | None = None, arrival: bool = True
) -> Any:
    """Return a `feast.FeatureStore` with the views `taste` (of users, 10 days to live) and `shelf` (of items).

    Args:
        offline: Feast's name of the offline store.
        online: Feast's settings of the online store; SQLite below `home` without any.
        arrival: Whether the sources name their column of arrival.
    """
    feast = import_feast()
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float64, String

    home.mkdir(parents=True, exist_ok=True)
    users, happened, arrived, spend, likes = zip(*USER_ROWS, strict=True)
    taste = {
        "user_id": pa.array(users),
        "event_timestamp": pa.array(happened, TIMESTAMP),
        "created_timestamp": pa.array(arrived, TIMESTAMP),
        "spend": pa.array(spend, pa.float64()),
        "likes": pa.array(likes, pa.list_(pa.string())),
    }
    shelf = {
        "item_id": pa.array(list(PRICES)),
        "event_timestamp": pa.array([day(0)] * len(PRICES), TIMESTAMP),
        "created_timestamp": pa.array([day(0)] * len(PRICES), TIMESTAMP),
        "price": pa.array(list(PRICES.values())),
    }

    def source(name: str, columns: dict[str, pa.Array]) -> Any:
        pq.write_table(pa.table(columns), home / f"{name}.parquet")
        return FileSource(
            name=f"{name}_file",
            path=str(home / f"{name}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp" if arrival else "",
        )

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name="taste",
            entities=[user],
            ttl=timedelta(days=TTL_DAYS),
            schema=[
                Field(name="user_id", dtype=String),
                Field(name="spend", dtype=Float64),
                Field(name="likes", dtype=Array(String)),
            ],
            source=source("taste", taste),
        ),
        FeatureView(
            name="shelf",
            entities=[item],
            ttl=timedelta(0),
            schema=[Field(name="item_id", dtype=String), Field(name="price", dtype=Float64)],
            source=source("shelf", shelf),
        ),
    ]
    store = feast.FeatureStore(
        config=feast.RepoConfig(
            project="toy",
            provider="local",
            registry=str(home / "registry.db"),
            offline_store={"type": offline},
            online_store=online or {"type": "sqlite", "path": str(home / "online.db")},
            entity_key_serialization_version=3,
            repo_path=home,
        )
    )
    store.apply([user, item, *views])
    return store
