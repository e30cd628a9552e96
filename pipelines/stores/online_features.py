"""What the service knows of a user, read from and pushed to Feast's online store. Feast is imported at first use."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.errors import StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.history import HISTORY_EVENT_TYPES, HistoryEntry, merge_history
from pipelines.stores.feast_settings import (
    import_feast,
    online_store_from_environment,
    open_feature_store,
    store_errors,
)

_NEXT = "run `headrace materialize_features` first"
_HISTORY = ("item_ids", "event_types", "event_times")
_FEATURES = [f"user_history:{name}" for name in _HISTORY] + [f"user_activity:{name}" for name in ACTIVITY_FEATURES]


def utc_now() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class UserFeatures:
    """What is known of one user; all empty for a stranger."""

    item_ids: list[str] = field(default_factory=list)
    """Items of the last events, oldest first."""
    event_types: list[str] = field(default_factory=list)
    """Their types."""
    event_times: list[int] = field(default_factory=list)
    """Their times, seconds since 1970 UTC."""
    activity: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(ACTIVITY_FEATURES))
    """Activity by name; null for a stranger and for a user whose activity is too old to say anything."""


class OnlineFeatures:
    """Reads and updates the features of one user; safe for many threads and processes of one machine."""

    def __init__(
        self,
        feast_dir: Path,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Nothing is opened yet.

        Args:
            feast_dir: `Places.feast`: the registry, and the online store where it is SQLite.
            environment: `HEADRACE_ONLINE_STORE` names a Redis instead.
            clock: The present, for the time to live of the activity.
        """
        self._feast_dir = feast_dir
        self._online_store = online_store_from_environment(environment)
        self._clock = clock
        self._opening = threading.Lock()
        self._opened: Any = None
        # Feast has one SQLite connection a store, and threads that share one see each other's half-written rows:
        # what is written goes through a store of its own, so that a reader has a history whole or not yet.
        self._opened_to_write: Any = None
        self._activity_ttl = timedelta(0)

    def open(self) -> None:
        """Import Feast and read its registry now rather than with the first request (seconds).

        Raises:
            StoreError: nothing was materialized yet.
        """
        self._store()

    def read_user(self, user_id: str) -> UserFeatures:
        """Return what is known of the user.

        The time to live of the activity is enforced here, because Feast does not do it online.

        Raises:
            StoreError: nothing was materialized yet, or the online store does not answer.
        """
        values = self._read(user_id)
        read_at = self._clock().timestamp()
        activity: dict[str, float | None] = {}
        for name in ACTIVITY_FEATURES:
            value, written_at = values[name][0], values[f"{name}__ts"][0]
            fresh = value is not None and read_at - written_at <= self._activity_ttl.total_seconds()
            activity[name] = float(value) if fresh else None
        return UserFeatures(
            item_ids=values["item_ids"][0] or [],
            event_types=values["event_types"][0] or [],
            event_times=values["event_times"][0] or [],
            activity=activity,
        )

    def push_events(self, user_id: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Add events to the user's history: the next `read_user` has them.

        Events without an item, and of types that are no part of a history, are passed over. The same item, type
        and second is the same event, so a repeated push changes nothing.

        Args:
            events: With `item_id`, `event_type` and `event_timestamp` (aware `datetime`), as in the contract.

        Raises:
            StoreError: nothing was materialized yet, or the online store does not answer.
        """
        fresh: list[HistoryEntry] = [
            (event["item_id"], event["event_type"], int(event["event_timestamp"].timestamp()))
            for event in events
            if event.get("item_id") and event["event_type"] in HISTORY_EVENT_TYPES
        ]
        if not fresh:
            return
        with self._locked():
            values = self._read(user_id)
            known = list(zip(*(values[name][0] or [] for name in _HISTORY), strict=True))
            merged = merge_history(known, fresh)
            if merged == known:
                return
            # Redis takes no row that is not newer than the one it has; a late event makes a row of the same age.
            stamp = max(merged[-1][2], values["item_ids__ts"][0] + 1 if known else 0)
            self._write(user_id, merged, datetime.fromtimestamp(stamp, UTC))

    # Inside

    def _store(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _writing_store(self) -> Any:
        with self._opening:
            if self._opened_to_write is None:
                self._opened_to_write = open_feature_store(self._feast_dir, self._online_store, serving=True)
            return self._opened_to_write

    def _open(self) -> Any:
        missing = StoreError(f"Feast has nothing for the service in {self._feast_dir}: {_NEXT}.")
        if not (self._feast_dir / "registry.db").is_file():
            raise missing
        import_feast()
        from feast.errors import FeastObjectNotFoundException
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        try:
            store = open_feature_store(self._feast_dir, self._online_store, serving=True)
            self._activity_ttl = store.get_feature_view("user_activity").ttl
        except (FeastObjectNotFoundException, DecodeError) as error:  # not applied yet, or just being written
            raise missing from error
        return store

    def _read(self, user_id: str) -> dict[str, list[Any]]:
        store = self._store()
        try:
            values: dict[str, list[Any]] = store.get_online_features(
                features=_FEATURES, entity_rows=[{"user_id": user_id}]
            ).to_dict(include_event_timestamps=True)
        except store_errors() as error:
            raise StoreError(f"The online store does not answer ({error}): the request can be repeated.") from error
        except ValueError as error:  # Feast serves no view before its first materialization
            self._opened = None
            raise StoreError(f"The online features cannot be served ({error}): {_NEXT}.") from error
        return values

    def _write(self, user_id: str, history: Sequence[HistoryEntry], stamp: datetime) -> None:
        import pandas as pd

        store = self._writing_store()
        columns = {name: [list(column)] for name, column in zip(_HISTORY, zip(*history, strict=True), strict=True)}
        row = pd.DataFrame(
            {"user_id": [user_id], "event_timestamp": [stamp], "created_timestamp": [self._clock()], **columns}
        )
        try:
            store.write_to_online_store("user_history", df=row)
        except store_errors() as error:
            raise StoreError(
                f"The history of a user could not be updated ({error}): push the same events again."
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one push at a time read, change and write."""
        with (self._feast_dir / ".push.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
