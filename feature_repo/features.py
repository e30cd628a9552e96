"""Feast definitions: entities, sources, feature views and the feature service `recommender`.

Feast executes every Python file of this folder, so nothing else belongs here. The columns are built by
`headrace build_features` (pipelines/features holds the SQL).
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Array, Float64, Int64, String

from pipelines.places import Places
from pipelines.stores.offline_engine import feature_source

_NEVER_TOO_OLD = timedelta(0)
_HISTORY = [
    Field(name="item_ids", dtype=Array(String), description="Items of the last `features.history_length` events."),
    Field(name="event_types", dtype=Array(String), description="Their types."),
    Field(name="event_times", dtype=Array(Int64), description="Their times, seconds since 1970 UTC."),
]


def _int(name: str, description: str) -> Field:
    return Field(name=name, dtype=Int64, description=description)


def _float(name: str, description: str) -> Field:
    return Field(name=name, dtype=Float64, description=description)


def define(folder: Path, offline_store: str = "duckdb") -> dict[str, object]:
    """Return all definitions by name, over the day files below `folder`, as the engine `offline_store` reads them."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A pseudonym.")
    item = Entity(
        name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="An item of the catalogue."
    )
    moment = Entity(
        name="moment",
        join_keys=["moment_id"],
        value_type=ValueType.STRING,
        description="One row of a user's history: the user and how many events there were by then.",
    )
    user_key = Field(name="user_id", dtype=String, description="The user's pseudonym.")
    item_key = Field(name="item_id", dtype=String, description="The item's id in the catalogue.")

    def source(name: str) -> Any:
        return feature_source(offline_store, f"{name}_files", folder / name)

    users = source("users")
    user_activity = FeatureView(
        name="user_activity",
        entities=[user],
        ttl=timedelta(days=28),
        schema=[
            user_key,
            _int("views", "Views of items so far."),
            _int("clicks", "Clicks so far."),
            _int("carts", "Items put into the cart so far."),
            _int("purchases", "Items bought so far."),
            _int("ratings", "Ratings so far."),
            _float("events_1d_decayed", "Events, each halved per day of age at the user's last event."),
            _float("events_7d_decayed", "The same, halved per 7 days."),
            _float("events_28d_decayed", "The same, halved per 28 days."),
            _float("spend_28d_decayed", "Sum of the purchases' values, each halved per 28 days of age."),
            _float("valued_28d_decayed", "Number of the purchases behind that sum, halved in the same way."),
            _float("mean_value_28d_decayed", "Mean value of a purchase: sum by number; null without a valued one."),
            _float("mean_gap_days", "Mean days between arrivals of events; null with one arrival."),
            _float("days_since_first", "Days from the first event to the last."),
        ],
        source=users,
        description="How much a user did, of what and how lately.",
    )
    user_history = FeatureView(
        name="user_history",
        entities=[user],
        ttl=_NEVER_TOO_OLD,
        schema=[
            user_key,
            *_HISTORY,
            _int("n_events", "Events so far."),
            _int("n_moments", "Arrivals of events so far."),
            _int("first_at_us", "Time of the first event, microseconds since 1970 UTC."),
            _int("arrived_at_us", "Arrival of the last event, microseconds since 1970 UTC."),
        ],
        source=users,
        description="The last events of a user, and what a push needs to go on from there.",
    )
    # A point-in-time join compares each training row with every earlier row of its user, and with three lists
    # in each that takes minutes. So training joins twice: to the light `user_moment`, then by its id, one to one,
    # to the lists of that very row. Both stand on the files of `user_history` and obey the same cut-offs.
    user_moment = FeatureView(
        name="user_moment",
        entities=[user],
        ttl=_NEVER_TOO_OLD,
        online=False,
        schema=[user_key, Field(name="moment_id", dtype=String, description="Names the row of `moment_history`.")],
        source=users,
        description="Which row of a user's history was the newest: the first half of the join for training.",
    )
    moment_history = FeatureView(
        name="moment_history",
        entities=[moment],
        ttl=_NEVER_TOO_OLD,
        online=False,
        schema=[Field(name="moment_id", dtype=String, description="From `user_moment`."), *_HISTORY],
        source=users,
        description="The history in that row: the second half of the join for training.",
    )
    counted = {"views": "Views", "clicks": "Clicks", "carts": "Times put into a cart", "purchases": "Purchases"}
    item_statistics = FeatureView(
        name="item_statistics",
        entities=[item],
        ttl=timedelta(days=28),
        schema=[
            item_key,
            *(_int(name, f"{what} up to the end of the day.") for name, what in counted.items()),
            *(
                _float(f"{name}_{days}d_decayed", f"{what}, each halved per {days} day(s) of age.")
                for name, what in counted.items()
                for days in (1, 7, 28)
            ),
            _float("popularity", "Purchases, each halved per half-life of `features.popularity_half_life_days`."),
            _float("trend", "Rate of events over a half-life of 7 days by that over 28 days; 1 is steady."),
            _float("conversion", "Purchases by views, 28 days, smoothed; null for an item that was never viewed."),
        ],
        source=source("item_statistics"),
        description="What happened to an item up to the end of a day.",
    )
    item_prices = FeatureView(
        name="item_prices",
        entities=[item],
        ttl=_NEVER_TOO_OLD,
        schema=[
            item_key,
            _float("price", "The item's price, in its currency."),
            _float("price_position", "Where it stands in its category: 0 is the cheapest, 1 the dearest."),
        ],
        source=source("item_prices"),
        description="What an item costs, absolutely and for its category.",
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
        "item_statistics": item_statistics,
        "item_prices": item_prices,
        "recommender": recommender,
    }


globals().update(define(Places.from_environment().features))  # Feast's own commands look at module level
