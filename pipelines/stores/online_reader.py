"""Reads one entity from Feast's online store as a point-in-time join would have answered at that moment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class OnlineRow:
    """What the online store knows of one entity."""

    values: dict[str, Any]
    """Feature name -> value; null, and an empty list for lists, where nothing is known or it is too old."""
    written_us: dict[str, int]
    """View name -> event timestamp of its row, microseconds since 1970 UTC; 0 where there is none."""


class OnlineReader:
    """Some features of a `feast.FeatureStore`, read one entity at a time.

    Feast 0.67 serves values beyond their time to live, and another null than its offline join gives. Here a value
    counts as long as it does offline: its age is at most the time to live of its view, to the microsecond.
    """

    def __init__(self, store: Any, features: Sequence[str]) -> None:
        """Look up the time to live and the kind of each feature.

        Args:
            features: `view:feature`; each feature name once.
        """
        from feast.types import Array

        self._store = store
        self._features = list(features)
        self._plan: dict[str, tuple[str, int, bool]] = {}
        for feature in features:
            view_name, name = feature.split(":")
            view = store.get_feature_view(view_name)
            kinds = {field.name: field.dtype for field in view.features}
            ttl_us = (view.ttl or timedelta(0)) // timedelta(microseconds=1)
            self._plan[name] = (view_name, ttl_us, isinstance(kinds[name], Array))

    def read(self, entity: Mapping[str, str], now: datetime) -> OnlineRow:
        """Return what is known of the entity at `now` (aware)."""
        return self.read_many([entity], now)[0]

    def read_many(self, entities: Sequence[Mapping[str, str]], now: datetime) -> list[OnlineRow]:
        """Return what is known of each entity at `now` (aware), in the order given; one round trip a view."""
        from feast.type_map import feast_value_type_to_python_type

        if not entities:
            return []
        answer = self._store.get_online_features(features=self._features, entity_rows=list(entities)).proto
        now_us = round(now.timestamp() * 1e6)
        rows = [OnlineRow({}, {}) for _ in entities]
        for name, vector in zip(answer.metadata.feature_names.val, answer.results, strict=True):
            if name not in self._plan:
                continue  # the join key
            view, ttl_us, is_list = self._plan[name]
            for row, proto, stamp in zip(rows, vector.values, vector.event_timestamps, strict=True):
                written_us = stamp.ToMicroseconds()
                value = feast_value_type_to_python_type(proto)
                if ttl_us and now_us - written_us > ttl_us:
                    value = None
                row.values[name] = known_value(value, is_list=is_list)
                row.written_us[view] = written_us
        return rows


def known_value(value: Any, *, is_list: bool) -> Any:
    """Bring a value into its one form: NaN becomes null, a missing list an empty one."""
    if is_list:
        return [] if value is None else list(value)
    return None if isinstance(value, float) and math.isnan(value) else value
