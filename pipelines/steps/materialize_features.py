"""Step: load the newest features into the online store that the service reads."""

from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from pipelines.progress import Progress
from pipelines.schemas import FeatureBuild, Materialization
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.online_features import OnlineFeatures


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
    now: datetime,
    progress: Progress,
) -> Materialization:
    """Load the features of `build`, then push again what users did since.

    Without the second part, what the service had pushed to the online store after `build.until` would be gone
    until the next run. Pushing is idempotent, so events that are still there stay as they are.

    Raises:
        StoreError: the online store does not answer.
    """
    rows = feature_store.materialize(build.until, progress)
    by_user: dict[str, list[dict[str, Any]]] = {}
    for event in event_log.read(build.until, now).to_pylist():
        by_user.setdefault(event["user_id"], []).append(event)
    for done, (user_id, events) in enumerate(by_user.items(), start=1):
        online.push_events(user_id, events)
        progress.update("push recent events", done, len(by_user))
    return Materialization(until=build.until, rows=rows)
