"""Step: load the newest features into the online store that the service reads."""

from datetime import datetime
from typing import Protocol

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
    progress: Progress,
    event_log: RecentEvents | None = None,
    online: OnlineFeatures | None = None,
    now: datetime | None = None,
) -> Materialization:
    """Load the features of `build`, then push again what users did since.

    Without the second part, what the service had pushed to the online store after `build.until` would be gone
    until the next run. Pushing is idempotent, so events that are still there stay as they are.

    Args:
        event_log, online, now: All three, or none where no service writes to this online store.

    Raises:
        StoreError: the online store does not answer.
    """
    rows = feature_store.materialize(build.until, progress)
    if event_log is not None and online is not None and now is not None:
        fresh = event_log.read(build.until, now).to_pylist()
        users = {event["user_id"]: None for event in fresh}
        for done, user_id in enumerate(users, start=1):
            online.push_events(user_id, [event for event in fresh if event["user_id"] == user_id])
            progress.update("push recent events", done, len(users))
    return Materialization(until=build.until, rows=rows)
