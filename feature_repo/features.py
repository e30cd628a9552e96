"""Feast definitions: entities, sources, feature views and the feature service `recommender`.

Feast executes every Python file of this folder, so nothing else belongs here. The columns are built by
`headrace build_features` (pipelines/features holds the SQL).
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

from pipelines.places import Places


def define(folder: Path) -> dict[str, object]:
    """Return all definitions by name, over the Parquet files below `folder`.

    The paths are absolute: Feast's DuckDB store resolves relative ones against the current folder.
    """
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A pseudonym.")
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    moment = Entity(
        name="moment",
        join_keys=["moment_id"],
        value_type=ValueType.STRING,
        description="One row of a user's history: the user and how many events there were by then.",
    )

    def source(name: str) -> FileSource:
        return FileSource(
            name=f"{name}_file",
            path=str(folder.resolve() / f"{name}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )

    history_file = source("user_history")
    user_activity = FeatureView(
        name="user_activity",
        entities=[user],
        ttl=timedelta(days=28),
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="events_1d", dtype=Int64, description="Events in the day up to the user's last event."),
            Field(name="events_7d", dtype=Int64, description="The same, 7 days."),
            Field(name="events_28d", dtype=Int64, description="The same, 28 days."),
            Field(name="spend_28d", dtype=Float32, description="Sum of the purchase values of those 28 days."),
            Field(name="mean_value_28d", dtype=Float32, description="Their mean; null without a valued purchase."),
            Field(name="days_since_first", dtype=Float32, description="Days from the first event to the last."),
        ],
        source=source("user_activity"),
    )
    user_history = FeatureView(
        name="user_history",
        entities=[user],
        ttl=timedelta(0),  # never too old
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_ids", dtype=Array(String), description="Last 50 events' items, oldest first."),
            Field(name="event_types", dtype=Array(String), description="Their types."),
            Field(name="event_times", dtype=Array(Int64), description="Their times, seconds since 1970 UTC."),
        ],
        source=history_file,
    )
    # A point-in-time join compares each training row with every earlier row of its user, and with three lists
    # in each that takes minutes. So training joins twice: to the light `user_moment`, then by its id, one to one,
    # to the lists of that very row. Both stand on the file of `user_history` and obey the same cut-offs.
    user_moment = FeatureView(
        name="user_moment",
        entities=[user],
        ttl=timedelta(0),
        online=False,
        schema=[Field(name="user_id", dtype=String), Field(name="moment_id", dtype=String)],
        source=history_file,
    )
    moment_history = FeatureView(
        name="moment_history",
        entities=[moment],
        ttl=timedelta(0),
        online=False,
        schema=[
            Field(name="moment_id", dtype=String),
            Field(name="item_ids", dtype=Array(String)),
            Field(name="event_types", dtype=Array(String)),
            Field(name="event_times", dtype=Array(Int64)),
        ],
        source=history_file,
    )
    item_popularity = FeatureView(
        name="item_popularity",
        entities=[item],
        ttl=timedelta(days=28),
        schema=[
            Field(name="item_id", dtype=String),
            Field(name="purchases_1d", dtype=Int64, description="Purchases on the day that ended at the timestamp."),
            Field(name="purchases_7d", dtype=Int64, description="Purchases in the 7 days up to then."),
            Field(name="purchases_28d", dtype=Int64, description="Purchases in the 28 days up to then."),
            Field(name="popularity", dtype=Float32, description="Purchases, each halved per half-life of age."),
        ],
        source=source("item_popularity"),
    )
    recommender = FeatureService(
        name="recommender",
        features=[user_activity, user_history],
        description="What the recommender knows of a user, in training and in serving.",
    )
    return {
        "user": user,
        "item": item,
        "moment": moment,
        "user_activity": user_activity,
        "user_history": user_history,
        "user_moment": user_moment,
        "moment_history": moment_history,
        "item_popularity": item_popularity,
        "recommender": recommender,
    }


globals().update(define(Places.from_environment().features))  # Feast's own commands look at module level
