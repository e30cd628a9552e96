"""A shop with all its stores below one folder, and a clock that is turned by hand."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.config import FeatureConfig
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import FeatureBuild, Materialization
from pipelines.steps.build_features import build_features
from pipelines.steps.materialize_features import materialize_features
from pipelines.stores.event_log import EventLog
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.online_features import OnlineFeatures
from tests.toys.event_tables import tables_with


class LiveShop:
    """Events arrive, are pushed, and sooner or later ingested, built and materialized."""

    def __init__(
        self, home: Path, events: list[dict[str, Any]], *, until: datetime, environment: Mapping[str, str] | None = None
    ) -> None:
        """Ingest the events and build their features; nothing is online yet."""
        self.places = Places(home)
        self.now = until
        self._environment = environment or {}
        self.restart()
        self.event_log = EventLog(self.places.event_log, clock=lambda: self.now)
        self.ingest(events)

    def restart(self) -> None:
        """Open Feast anew, as other processes do."""
        self.feature_store = FeatureStoreClient(places=self.places, environment=self._environment)
        self.online = self.another_service()

    def empty_online_store(self) -> None:
        """Lose what SQLite holds."""
        for file in self.places.feast.glob("online.db*"):
            file.unlink()
        self.restart()

    def another_service(self) -> OnlineFeatures:
        """Return the online features as one more process has them."""
        return OnlineFeatures(self.places.feast, environment=self._environment, clock=lambda: self.now)

    def accept(self, *events: dict[str, Any], pushed: bool = True) -> None:
        """Take events as the service does: into the log, then online (unless that failed). The clock follows them."""
        self.now = max(self.now, *(event["created_timestamp"] for event in events))
        stored = self.event_log.append(events)
        if pushed:
            self.online.push_events(stored)

    def ingest(self, events: list[dict[str, Any]]) -> FeatureBuild:
        """Accept events into the tables, as a window that ends now, and build their features."""
        self.tables = tables_with(self.places.home, events, until=self.now)
        self.build = build_features(
            tables=self.tables,
            features_dir=self.places.features,
            config=FeatureConfig(),
            until=self.now,
            progress=SilentProgress(),
        )
        return self.build

    def materialize(self) -> Materialization:
        return materialize_features(
            self.build,
            feature_store=self.feature_store,
            online=self.online,
            event_log=self.event_log,
            clock=lambda: self.now,
            progress=SilentProgress(),
        )
