"""Where Headrace keeps its files: one folder, `HEADRACE_HOME`, with a fixed layout."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "HEADRACE_HOME"


@dataclass(frozen=True)
class Places:
    """The layout below the home folder. Nothing is created by looking at it."""

    home: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Places":
        """Read `HEADRACE_HOME`; without it, `.headrace` below the current folder."""
        return cls(Path(environment.get(HOME_VARIABLE) or ".headrace").resolve())

    @property
    def pseudonym_key(self) -> Path:
        """The key behind the user pseudonyms, file mode 600."""
        return self.home / "secrets" / "pseudonym.key"

    @property
    def api_keys(self) -> Path:
        """Hashes of the keys that callers of the service send (JSON), file mode 600."""
        return self.home / "secrets" / "api_keys.json"

    @property
    def feature_pipeline_lock(self) -> Path:
        """Held by the step of the feature pipeline that runs."""
        return self.home / "feature_pipeline.lock"

    @property
    def ingested(self) -> Path:
        """Windows as the source gave them, in contract form, not validated yet."""
        return self.home / "ingested"

    @property
    def tables(self) -> Path:
        """Validated tables: what everything downstream reads."""
        return self.home / "tables"

    @property
    def quarantine(self) -> Path:
        """Rejected rows with their reasons."""
        return self.home / "quarantine"

    @property
    def great_expectations(self) -> Path:
        """The Great Expectations project: suites, results and Data Docs."""
        return self.home / "great_expectations"

    @property
    def event_log(self) -> Path:
        """Events that the service acknowledged, append-only."""
        return self.home / "event_log"

    @property
    def item_log(self) -> Path:
        """Items that the service was told of, and those taken back, append-only."""
        return self.home / "item_log"

    @property
    def features(self) -> Path:
        """Parquet files behind the Feast offline store."""
        return self.home / "features"

    @property
    def feast(self) -> Path:
        """Feast registry and online store (SQLite)."""
        return self.home / "feast"

    @property
    def served_features(self) -> Path:
        """A sample of the feature values that the service used, one folder a day."""
        return self.home / "served_features"

    @property
    def skew_audits(self) -> Path:
        """Reports of what was served against the offline store, one folder an audit."""
        return self.home / "skew_audits"

    @property
    def training(self) -> Path:
        """One folder a training run: rows, checkpoints, trained weights."""
        return self.home / "training"

    @property
    def bundles(self) -> Path:
        """One folder a bundle, named by its id."""
        return self.home / "bundles"

    @property
    def mlflow(self) -> Path:
        """Tracking database and artifacts."""
        return self.home / "mlflow"

    @property
    def bentoml(self) -> Path:
        """BentoML's model and Bento stores."""
        return self.home / "bentoml"

    @property
    def airflow(self) -> Path:
        """Airflow's home: its database, logs and settings."""
        return self.home / "airflow"

    @property
    def records(self) -> Path:
        """What each step of each run returned, as JSON."""
        return self.home / "records"

    @property
    def current_bundle(self) -> Path:
        """The pointer to the bundle that the service answers from (JSON)."""
        return self.home / "serving" / "current.json"

    @property
    def new_items(self) -> Path:
        """Items that arrived since the live bundle was made, embedded for the service."""
        return self.home / "serving" / "new_items"

    @property
    def rollout(self) -> Path:
        """Which bundles are tried beside the live one, as the registry says (JSON)."""
        return self.home / "serving" / "rollout.json"

    @property
    def canary_stops(self) -> Path:
        """Canaries that the guard of a service stopped, one JSON file each, with the reason."""
        return self.home / "serving" / "canary_stops"

    @property
    def services(self) -> Path:
        """What each running service says about itself (JSON)."""
        return self.home / "serving" / "services"

    @property
    def workers(self) -> Path:
        """Sockets over which the service's processes on this machine ask each other."""
        return self.home / "serving" / "workers"

    @property
    def served_requests(self) -> Path:
        """A sample of the requests that were answered, without user ids, one folder a day."""
        return self.home / "served_requests"

    @property
    def shadow_answers(self) -> Path:
        """What the shadow bundle would have answered, beside what was answered, one folder a day."""
        return self.home / "shadow_answers"

    @property
    def shown_lists(self) -> Path:
        """What was shown to whom, with propensities, users under pseudonyms, one folder a day."""
        return self.home / "shown_lists"

    @property
    def embedding_cache(self) -> Path:
        """Text embeddings by hash of encoder and text."""
        return self.home / "cache" / "embeddings"

    @property
    def benchmarks(self) -> Path:
        """Work of the quality benches, one folder a split."""
        return self.home / "benchmarks"
