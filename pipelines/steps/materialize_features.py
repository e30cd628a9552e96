"""Step: load what is new in the features into the online store that the service reads."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from pipelines.progress import Progress
from pipelines.schemas import FeatureBuild, Materialization
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.online_features import USER_VIEWS, OnlineFeatures

USERS_AT_ONCE = 500
"""Users of one write: in between the service gets its turn to push."""


class RecentEvents(Protocol):
    """Where the events lie that the service accepted."""

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return events that arrived in `(since, until]`, in the EVENTS schema."""
        ...


def materialize_features(
    build: FeatureBuild,
    *,
    feature_store: FeatureStoreClient,
    online: OnlineFeatures,
    event_log: RecentEvents,
    clock: Callable[[], datetime],
    progress: Progress,
) -> Materialization:
    """Load the features of `build`, with what users did since then added.

    Only what the online store does not have yet: items with new rows; users with new rows, and users who did
    something since the last load, because what was pushed of them may have been rejected since. Everything where the
    online store is new, was emptied, or is another one than the last time. What is pushed meanwhile stays.

    Args:
        clock: The present: events are read up to the moment at which a user is written.

    Raises:
        StoreError: the online store does not answer.
    """
    feature_store.apply()
    loaded = feature_store.loaded()
    rows = feature_store.materialize_items(build.until, loaded, progress)
    recent = _Recent(event_log, min(build.until, loaded.until) if loaded else build.until, build.until, clock)
    users = {*feature_store.touched_users(loaded), *recent.users()} if loaded else None
    count = 0
    for of_users in _offline_rows(feature_store, users, recent):
        online.load(of_users, partial(recent.events, of_users))
        count += len(of_users)
        progress.update("materialize users", count, len(users) if users is not None else count)
    feature_store.finish_users(build.build, build.until)
    return Materialization(until=build.until, rows=rows | dict.fromkeys(USER_VIEWS, count), complete=loaded is None)


class _Recent:
    """Events of the log that the offline store may not know, read anew at every question."""

    def __init__(
        self, event_log: RecentEvents, since: datetime, built_until: datetime, clock: Callable[[], datetime]
    ) -> None:
        self._event_log = event_log
        self._clock = clock
        self._built_until = built_until
        self._read_until = since
        self._active: set[str] = set()
        self._by_user: dict[str, list[dict[str, Any]]] = {}
        self._read_on()

    def users(self) -> set[str]:
        """Return who did something since the last load."""
        return self._active

    def events(self, users: Iterable[str]) -> list[dict[str, Any]]:
        """Return what the users did after the offline store was built, up to the present."""
        self._read_on()
        return [event for user_id in users for event in self._by_user.get(user_id, ())]

    def _read_on(self) -> None:
        now = self._clock()
        if now <= self._read_until:
            return
        for event in self._event_log.read(self._read_until, now).to_pylist():
            self._active.add(event["user_id"])
            if event["created_timestamp"] > self._built_until:
                self._by_user.setdefault(event["user_id"], []).append(event)
        self._read_until = now


def _offline_rows(
    feature_store: FeatureStoreClient, users: set[str] | None, recent: _Recent
) -> Iterator[dict[str, dict[str, Any] | None]]:
    """Yield the newest offline rows of users, some at a time; then those of whom there is none."""
    found: set[str] = set()
    for rows in feature_store.newest_users(None if users is None else sorted(users), USERS_AT_ONCE):
        found.update(row["user_id"] for row in rows)
        yield {row["user_id"]: row for row in rows}
    unknown = sorted((recent.users() if users is None else users) - found)
    for start in range(0, len(unknown), USERS_AT_ONCE):
        yield dict.fromkeys(unknown[start : start + USERS_AT_ONCE])
