"""Feast as the steps use it: definitions, point-in-time joins for training, materialization for serving."""

import contextlib
import fcntl
import importlib.util
import io
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import FeatureStoreConfig
from pipelines.errors import StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.places import Places
from pipelines.progress import Progress
from pipelines.schemas import TIMESTAMP
from pipelines.stores.feast_settings import online_store_from_environment, open_feature_store, store_errors
from pipelines.stores.feature_files import FeatureFiles, FeatureManifest
from pipelines.stores.leak_canary import check_canary
from pipelines.stores.loaded_state import Loaded, LoadedState
from pipelines.stores.newest_users import newest_user_rows, touched_users
from pipelines.stores.offline_engine import EMBEDDED
from pipelines.stores.online_features import USER_VIEWS
from pipelines.stores.point_in_time import TIME, join_features
from pipelines.stores.sql import open_duckdb, quoted

DEFINITIONS = Path(__file__).parents[2] / "feature_repo" / "features.py"
HISTORY_FEATURES = ("item_ids", "event_types", "event_times")
USER_FEATURES = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string())),
        pa.field("event_types", pa.list_(pa.string())),
        pa.field("event_times", pa.list_(pa.int64())),
        *(pa.field(name, pa.float64()) for name in ACTIVITY_FEATURES),
    ]
)
"""What was known of a user: histories (empty for a new user), activity (null for a new or long absent one)."""
ITEM_VIEWS = ("item_statistics", "item_prices")
"""Feast's views of an item; each has the name of its folder."""
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MEMORY_LIMIT_MIB = 1_536


class FeatureStoreClient:
    """Feast on the Parquet files of `build_features` and the online store of the service."""

    def __init__(
        self,
        *,
        places: Places,
        environment: Mapping[str, str] = os.environ,
        engine: FeatureStoreConfig = EMBEDDED,
    ) -> None:
        self._places = places
        self._engine = engine
        self._online_store = online_store_from_environment(environment)
        self._files = FeatureFiles(places.features)

    def manifest(self) -> FeatureManifest:
        """Return what the offline features were made of.

        Raises:
            StoreError: there are none, or they are being replaced.
        """
        return self._files.load()

    def apply(self) -> None:
        """Bring Feast's registry and online tables in line with `feature_repo/features.py`. Safe to repeat."""
        with self._locked(), _feast_calls("Feast's definitions could not be applied"):
            self._store.apply(list(_definitions(self._places.features, self._engine).values()))
            if not self._online_store:
                # Otherwise the service could not read while a materialization writes. The mode stays in the file.
                with contextlib.closing(sqlite3.connect(self._places.feast / "online.db")) as database:
                    database.execute("PRAGMA journal_mode = WAL")

    def loaded(self) -> Loaded | None:
        """Return what the online store was given last; None where everything has to be loaded.

        Raises:
            StoreError: the online store does not answer.
        """
        with _feast_calls("The online store could not be asked what it holds"):
            return self._loaded_state.find()

    def materialize_items(self, until: datetime, loaded: Loaded | None, progress: Progress) -> dict[str, int]:
        """Load the newest features of items up to `until` into the online store.

        A row beyond its time to live is left out, because it would not count anyway.

        Args:
            loaded: Only rows that were written since then; None: all.

        Returns:
            Entities loaded per feature view.

        Raises:
            StoreError: there are no feature files, or the online store does not answer.
        """
        manifest = self.manifest()
        touched = manifest.touched_since(loaded.build if loaded else -1)
        rows = {}
        for done, view in enumerate(ITEM_VIEWS):
            progress.update("materialize items", done, len(ITEM_VIEWS), view)
            ttl = self.time_to_live(view)
            since = max(touched.get(view, until), until - ttl if ttl else _BEGINNING)
            rows[view] = self._entities(view, since, until) if view in touched and since <= until else 0
            if rows[view]:
                self._materialize(view, since, until)
        return rows

    def newest_users(self, user_ids: Sequence[str] | None, batch_rows: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the newest offline rows of users, some at a time: see `newest_user_rows`."""
        spill = self._places.feast / ".spill"
        return newest_user_rows(self._files, user_ids, batch_rows=batch_rows, spill=spill)

    def touched_users(self, loaded: Loaded) -> list[str]:
        """Return the users of whom more is known offline than was loaded."""
        return touched_users(self._files, loaded.build)

    def finish_users(self, build: int, until: datetime) -> None:
        """Declare the features of users loaded, to Feast and for the next load.

        Raises:
            StoreError: the online store does not answer.
        """
        for view in USER_VIEWS:
            self._materialize(view, _BEGINNING, _BEGINNING)  # no rows: Feast reads no view before it did this once
        with self._locked(), _feast_calls("The online store could not be marked as loaded"):
            self._loaded_state.finish(build, until)

    def user_features(self, rows: pa.Table) -> pa.Table:
        """Join to each row what was known of its user at `as_of`: a point-in-time join with the arrival cut-off.

        A feature row counts if its time and its arrival are not later than `as_of` and, for activity, not older
        than its time to live (`pipelines/stores/point_in_time.py`).

        Args:
            rows: `row_id` int64, `user_id` string, `as_of` timestamp[us, UTC].

        Returns:
            USER_FEATURES, one row for each given row, in the same order.

        Raises:
            ConfigError: the offline store cannot leave out what arrived later.
            DataError: the offline store lost or changed keys: a bug, never to be trained on.
            StoreError: there are no feature files.
        """
        self.manifest()
        self.apply()
        if not rows.num_rows:
            return USER_FEATURES.empty_table()
        asked = pa.table({"user_id": rows["user_id"], TIME: rows["as_of"].cast(TIMESTAMP)})
        known = self.joined(asked, [*(f"user_activity:{name}" for name in ACTIVITY_FEATURES), "user_moment:moment_id"])
        histories = self.joined(
            known.select(["moment_id", TIME]), [f"moment_history:{name}" for name in HISTORY_FEATURES]
        )
        columns = {name: histories[name] for name in HISTORY_FEATURES}
        columns |= {name: known[name].cast(pa.float64()) for name in ACTIVITY_FEATURES}
        return pa.table({"row_id": rows["row_id"], **columns}, schema=USER_FEATURES)

    def requests_behind(self, requests: pa.Table) -> int:
        """Count the requests by whose time more of the user had arrived than the row that answered held.

        Args:
            requests: `user_id`, `requested_at` timestamp[us, UTC], `arrived_at_us` int64, null for a stranger.
        """
        with open_duckdb() as connection:
            connection.register("requests", requests)
            found = connection.execute(
                "SELECT count(*) FROM requests WHERE EXISTS (FROM "
                f"read_parquet({quoted(self._files.glob('users'))}) AS rows WHERE rows.user_id = requests.user_id "
                "AND rows.arrived_at_us > coalesce(requests.arrived_at_us, -1) "
                "AND rows.arrived_at_us <= epoch_us(requested_at))"
            ).fetchone()
        return int(found[0]) if found else 0

    def time_to_live(self, view: str) -> timedelta:
        """Return how old a row of the view may be to count; zero: as old as it likes."""
        ttl: timedelta = self._store.get_feature_view(view).ttl
        return ttl

    def joined(self, entities: pa.Table, features: Sequence[str]) -> pa.Table:
        """Add features to entities as of `event_timestamp`: see `join_features`."""
        with self._locked(), _feast_calls("The point-in-time join failed"):
            self._limit_memory()
            return join_features(self._store, entities, features)

    def check_canary(self, moments: pa.Array, labels: pa.Array) -> int:
        """Plant copies of the label and join them as features are joined: see `leak_canary.check_canary`."""
        with self._locked(), _feast_calls("The leak canary could not be joined"):
            self._limit_memory()
            return check_canary(moments, labels, folder=self._places.feast, join=join_features, engine=self._engine)

    # Inside

    @cached_property
    def _store(self) -> Any:
        return open_feature_store(self._places.feast, self._online_store, engine=self._engine)

    @cached_property
    def _loaded_state(self) -> LoadedState:
        return LoadedState(self._places.feast, self._online_store, self._store)

    def _materialize(self, view: str, since: datetime, until: datetime) -> None:
        with self._locked(), _feast_calls(f"{view} could not be materialized"):
            self._limit_memory()
            self._store.materialize(since, until, feature_views=[view])

    def _entities(self, view: str, since: datetime, until: datetime) -> int:
        """Count the entities that have a row in the time range."""
        key = self._store.get_feature_view(view).entity_columns[0].name
        with open_duckdb() as connection:
            row = connection.execute(
                f"SELECT count(DISTINCT {key}) FROM read_parquet({quoted(self._files.glob(view))}) "
                "WHERE event_timestamp BETWEEN ? AND ?",
                [since, until],
            ).fetchone()
        return int(row[0]) if row else 0

    def _limit_memory(self) -> None:
        """Keep Feast's DuckDB within bounds: by itself it takes 80 % of the machine."""
        import ibis  # type: ignore[import-untyped]

        spill = self._places.feast / ".spill"
        backend = ibis.get_backend()
        for setting in (
            f"memory_limit = '{_MEMORY_LIMIT_MIB}MiB'",
            f"temp_directory = {quoted(spill)}",
            "TimeZone = 'UTC'",
        ):
            backend.raw_sql(f"SET {setting}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time use the registry: one file, which Feast overwrites in place."""
        self._places.feast.mkdir(parents=True, exist_ok=True)
        with (self._places.feast / ".registry.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _definitions(features: Path, engine: FeatureStoreConfig) -> dict[str, Any]:
    """Load `feature_repo/features.py`, which is no package, and return its definitions over these files."""
    spec = importlib.util.spec_from_file_location("headrace_feature_repo", DEFINITIONS)
    if spec is None or spec.loader is None or not DEFINITIONS.is_file():
        raise StoreError(f"The feature definitions are not at {DEFINITIONS}: run Headrace from its checkout.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    definitions: dict[str, Any] = module.define(features, engine.offline_store)
    return definitions


@contextlib.contextmanager
def _feast_calls(what_failed: str) -> Iterator[None]:
    """Swallow Feast's chatter, and turn a store that does not answer into a `StoreError`."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ibis on DuckDB 2
            yield
    except store_errors() as error:
        raise StoreError(
            f"{what_failed}: {error}. Check the online store and the disk, then run the step again."
        ) from error
