"""Writes rows of a feature view to Feast's online store, many at a time."""

from collections.abc import Iterable, Mapping
from typing import Any


class OnlineWriter:
    """Rows of some views of a `feast.FeatureStore`, written through a connection of its own.

    Feast's `write_to_online_store` goes through pandas and takes a millisecond a call; its provider, which that calls
    in the end, takes a twentieth. Feast has one SQLite connection a provider, and threads that share one see each
    other's half-written rows: so what is written does not go through the provider that reads.
    """

    def __init__(self, store: Any, views: Iterable[str]) -> None:
        from feast.infra.provider import get_provider

        self._config = store.config
        self._provider = get_provider(store.config)
        self._views = {name: store.get_feature_view(name) for name in views}

    def write(self, view_name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, all of them or none where the store has transactions; what was there before is replaced.

        Args:
            rows: The join key, the view's features, `event_timestamp` and `created_timestamp` (aware); other values
                are passed over.
        """
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        view = self._views[view_name]
        keys = [column.name for column in view.entity_columns]
        kinds = {field.name: _proto_field(field.dtype) for field in view.features}
        data = []
        for row in rows:
            key = EntityKey(join_keys=keys, entity_values=[Value(string_val=row[name]) for name in keys])
            values = {name: _proto(row[name], kind) for name, kind in kinds.items()}
            data.append((key, values, row["event_timestamp"], row["created_timestamp"]))
        if data:
            self._provider.online_write_batch(self._config, view, data, None)


def _proto_field(dtype: Any) -> str:
    """Return the field of Feast's `Value` that holds a type, such as `double_list_val`."""
    from feast.value_type import ValueType

    kind = dtype.to_value_type()
    return f"{ValueType(kind).name.lower()}_val"


def _proto(value: Any, field: str) -> Any:
    """Return Feast's form of a value; null has no field set."""
    from feast.protos.feast.types.Value_pb2 import Value

    if value is None:
        return Value()
    if field.endswith("_list_val"):
        proto = Value()
        getattr(proto, field).val.extend(value)
        getattr(proto, field).SetInParent()  # an empty list is not null
        return proto
    return Value(**{field: value})
