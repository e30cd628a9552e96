"""Reads entities from Feast's online store as a point-in-time join would have answered at that moment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.stores.feast_settings import do_not_wait_to_retry
from pipelines.stores.feast_values import proto_field

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass
class OnlineRow:
    """What the online store knows of one entity."""

    values: dict[str, Any]
    """Feature name -> value, expired or not; null, and an empty list for lists, where there is none."""
    written_us: dict[str, int]
    """View name -> event timestamp of its row, microseconds since 1970 UTC; 0 where there is none."""
    problem: str | None = None
    """Why the values cannot be used, if they cannot."""


class OnlineReader:
    """Some features of a `feast.FeatureStore`.

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
        self._views: dict[str, tuple[Any, dict[str, str]]] = {}
        for feature in features:
            view_name, name = feature.split(":")
            view = store.get_feature_view(view_name)
            kinds = {field.name: field.dtype for field in view.features}
            ttl_us = (view.ttl or timedelta(0)) // _MICROSECOND
            self._plan[name] = (view_name, ttl_us, isinstance(kinds[name], Array))
            self._views.setdefault(view_name, (view, {}))[1][name] = proto_field(kinds[name])
        self._may_be_served = False
        if store.config.online_store.type == "redis":
            do_not_wait_to_retry(store._get_provider(), store.config)

    def read(self, entities: Sequence[Mapping[str, str]]) -> list[OnlineRow]:
        """Return what is there of each entity, expired or not, in the order given.

        Feast's `get_online_features` is asked once, because it refuses views that are not loaded; then its provider
        is, which that calls in the end and which takes a quarter of the time.

        Raises:
            ValueError: Feast does not serve the features.
        """
        if not entities:
            return []
        if not self._may_be_served:
            self._read_feast(entities[:1])
            self._may_be_served = True
        return self._read_provider(entities)

    def _read_feast(self, entities: Sequence[Mapping[str, str]]) -> list[OnlineRow]:
        from feast.type_map import feast_value_type_to_python_type

        answer = self._store.get_online_features(features=self._features, entity_rows=list(entities)).proto
        rows = [OnlineRow({}, {}) for _ in entities]
        for name, vector in zip(answer.metadata.feature_names.val, answer.results, strict=True):
            if name not in self._plan:
                continue  # the join key
            view, _, is_list = self._plan[name]
            for row, proto, stamp in zip(rows, vector.values, vector.event_timestamps, strict=True):
                row.values[name] = known_value(feast_value_type_to_python_type(proto), is_list=is_list)
                row.written_us[view] = stamp.ToMicroseconds()
        return rows

    def _read_provider(self, entities: Sequence[Mapping[str, str]]) -> list[OnlineRow]:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        keys = [
            EntityKey(join_keys=list(entity), entity_values=[Value(string_val=value) for value in entity.values()])
            for entity in entities
        ]
        rows = [OnlineRow({}, {}) for _ in entities]
        provider, config = self._store._get_provider(), self._store.config
        for view_name, (view, kinds) in self._views.items():
            for row, (written, found) in zip(rows, provider.online_read(config, view, keys, list(kinds)), strict=True):
                row.written_us[view_name] = _microseconds(written) if written else 0
                for name, kind in kinds.items():
                    value, problem = _plain(name, found.get(name) if found else None, kind)
                    row.values[name] = known_value(value, is_list=self._plan[name][2])
                    row.problem = row.problem or problem
        return rows

    def known_at(self, row: OnlineRow, now: datetime) -> dict[str, Any]:
        """Return the values that count at `now` (aware): null, or an empty list, where the time to live is over."""
        now_us = _microseconds(now)
        known = {}
        for name, (view, ttl_us, is_list) in self._plan.items():
            expired = ttl_us and now_us - row.written_us[view] > ttl_us
            known[name] = known_value(None, is_list=is_list) if expired else row.values[name]
        return known

    def counts_until_us(self, row: OnlineRow, now: datetime) -> int | None:
        """Return the last moment (microseconds since 1970 UTC) at which `known_at` gives what it gives at `now`.

        None: what counts at `now` always does.
        """
        now_us = _microseconds(now)
        ends = [row.written_us[view] + ttl_us for view, ttl_us, _ in self._plan.values() if ttl_us]
        return min((end for end in ends if end >= now_us), default=None)


def _plain(name: str, proto: Any, kind: str) -> tuple[Any, str | None]:
    """Return the value of a feature; null, and why, where it is of another type."""
    found = proto.WhichOneof("val") if proto is not None else None
    if found is None or found == "null_val":
        return None, None
    if found != kind:
        return None, f"`{name}` is a {found} instead of a {kind}"
    value = getattr(proto, kind)
    return (value.val if kind.endswith("_list_val") else value), None


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def known_value(value: Any, *, is_list: bool) -> Any:
    """Bring a value into its one form: NaN becomes null, a missing list an empty one."""
    if is_list:
        return [] if value is None else list(value)
    return None if isinstance(value, float) and math.isnan(value) else value
