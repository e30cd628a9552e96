"""Writes rows of a feature view to Feast's online store, many at a time."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.stores.feast_settings import do_not_wait_to_retry
from pipelines.stores.files import sync_file


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
        self._kinds = {
            name: {field.name: proto_field(field.dtype) for field in view.features}
            for name, view in self._views.items()
        }
        online_store = self._config.online_store
        self._sqlite_file = Path(online_store.path) if online_store.type == "sqlite" else None
        if self._sqlite_file is None:
            do_not_wait_to_retry(self._provider, self._config)
        else:  # otherwise each write waits for the disk; what a power cut takes away is in the event log
            self._provider.online_store._get_conn(self._config).execute("PRAGMA synchronous = NORMAL")

    def sync(self) -> None:
        """Wait until the disk has what was written, as far as that is ours to see to.

        Raises:
            OSError: it cannot be told.
        """
        if self._sqlite_file is None:
            return
        for file in (self._sqlite_file, self._sqlite_file.with_name(f"{self._sqlite_file.name}-wal")):
            if file.exists():
                sync_file(file)

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
        kinds = self._kinds[view_name]
        data = []
        for row in rows:
            key = EntityKey(join_keys=keys, entity_values=[Value(string_val=row[name]) for name in keys])
            values = {name: _proto(row[name], kind) for name, kind in kinds.items()}
            data.append((key, values, row["event_timestamp"], row["created_timestamp"]))
        if data:
            self._provider.online_write_batch(self._config, view, data, None)


def proto_field(dtype: Any) -> str:
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
