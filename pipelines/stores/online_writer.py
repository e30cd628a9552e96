"""Writes rows of feature views to Feast's online store, many at a time."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.stores.feast_settings import do_not_wait_to_retry
from pipelines.stores.feast_values import proto_field, proto_value
from pipelines.stores.files import sync_file
from pipelines.stores.sqlite_rows import SqliteRows, ViewTable


class OnlineWriter:
    """Rows of some views of a `feast.FeatureStore`, written through a connection of its own.

    Feast's `write_to_online_store` goes through pandas and takes a millisecond a call; its provider, which that calls
    in the end, takes a twentieth. Where the store is SQLite, `SqliteRows` writes what the provider would. What is
    written does not go through the connection that reads: threads that share one see each other's half-written rows.
    """

    def __init__(self, store: Any, views: Iterable[str]) -> None:
        self._config = store.config
        self._views = {name: store.get_feature_view(name) for name in views}
        self._kinds = {
            name: {field.name: proto_field(field.dtype) for field in view.features}
            for name, view in self._views.items()
        }
        online_store = self._config.online_store
        self._sqlite_file = Path(online_store.path) if online_store.type == "sqlite" else None
        self._sqlite = None if self._sqlite_file is None else SqliteRows(self._sqlite_file, self._tables())
        if self._sqlite is None:
            from feast.infra.provider import get_provider

            self._provider = get_provider(store.config)
            do_not_wait_to_retry(self._provider, self._config)

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

    @contextmanager
    def turn(self, *, waits: bool = True) -> Iterator[None]:
        """Keep other writers out until `write` is done, where the store can.

        Raises:
            BlockingIOError: another one writes, and `waits` is false.
        """
        if self._sqlite is None:
            yield
            return
        with self._sqlite.turn(waits=waits):
            yield

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows to all views in a turn, all of them or none where the store has transactions.

        What was there before is replaced.

        Args:
            rows: The join key, the features of all views, `event_timestamp` and `created_timestamp` (aware); other
                values are passed over.
        """
        rows = list(rows)
        if self._sqlite is not None:
            self._sqlite.write(rows)
            return
        for name in self._views:
            self._write_provider(name, rows)

    # Inside

    def _tables(self) -> Iterator[ViewTable]:
        from feast.infra.online_stores.helpers import compute_table_id

        versioned = self._config.registry.enable_online_feature_view_versioning
        for name, view in self._views.items():
            [key] = view.entity_columns
            table = compute_table_id(self._config.project, view, versioned)
            yield ViewTable(name=table, join_key=key.name, kinds=self._kinds[name])

    def _write_provider(self, view_name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        view = self._views[view_name]
        keys = [column.name for column in view.entity_columns]
        kinds = self._kinds[view_name]
        data = []
        for row in rows:
            key = EntityKey(join_keys=keys, entity_values=[Value(string_val=row[name]) for name in keys])
            values = {name: proto_value(row[name], kind) for name, kind in kinds.items()}
            data.append((key, values, row["event_timestamp"], row["created_timestamp"]))
        if data:
            self._provider.online_write_batch(self._config, view, data, None)
