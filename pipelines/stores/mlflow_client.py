"""One way to MLflow, shared by the experiment tracker and the model registry.

It speaks to MLflow through its client and never through the module-level functions, so that nothing of ours depends on
a global "current run". A training run of ours is one MLflow run (the parent); each of its steps is a child.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.errors import StoreError
from pipelines.stores.files import replacing_file
from pipelines.stores.mlflow_view import EXPERIMENT_TAGS

MLFLOW_VARIABLE = "HEADRACE_MLFLOW_URI"
EXPERIMENT = "headrace"
RUN_TAG = "headrace.run"
STEP_TAG = "headrace.step"
_PARENT_TAG = "mlflow.parentRunId"


def _settle() -> None:
    """Set what has to be set before MLflow is imported: no telemetry, no progress bars, no needless warnings."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # no warning where git is not installed
    # MLflow 3.17 on SQLAlchemy 2.1 says so once, when its tables are mapped; nothing we can change.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)


@contextmanager
def mlflow_errors(doing: str) -> Iterator[None]:
    """Turn what MLflow raises into a `StoreError` that says what was being done."""
    _settle()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StoreError(
            f"MLflow did not {doing}: {reason}. Check that its database or server ({MLFLOW_VARIABLE}) is reachable, "
            "then run the same command again."
        ) from error


@dataclass(frozen=True)
class MlflowBackend:
    """Where MLflow keeps its things.

    Args:
        folder: Holds `mlflow.db` and `artifacts/` when there is no server.
        uri: A tracking server or database; None means SQLite in `folder`.
    """

    folder: Path
    uri: str | None = None

    @classmethod
    def from_environment(cls, folder: Path, environment: Mapping[str, str] = os.environ) -> "MlflowBackend":
        """Read `HEADRACE_MLFLOW_URI`; without it, SQLite and files in `folder`."""
        return cls(folder, environment.get(MLFLOW_VARIABLE) or None)

    @property
    def tracking_uri(self) -> str:
        """What `mlflow ui --backend-store-uri` takes."""
        return self.uri or f"sqlite:///{self.folder / 'mlflow.db'}"

    @cached_property
    def client(self) -> Any:
        """The MLflow client; the first one on an empty folder creates the tables, about 5 s.

        Raises:
            StoreError: the database or the server does not answer.
        """
        _settle()
        from mlflow import MlflowClient

        with mlflow_errors(f"open {self.tracking_uri}"):
            if self.uri is None:
                self._create_database()
            client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
            client.search_experiments(max_results=1)
        return client

    def _create_database(self) -> None:
        """Create the SQLite database where there is none: under another name first, as MLflow cannot go on with one
        whose creation was interrupted.
        """
        database = self.folder / "mlflow.db"
        if database.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with replacing_file(database) as temporary:
            store = SqlAlchemyStore(f"sqlite:///{temporary}", (self.folder / "artifacts").resolve().as_uri())
            store.engine.dispose()

    @cached_property
    def experiment_id(self) -> str:
        """The experiment all runs belong to, created when it is missing, with what its page shows."""
        with mlflow_errors(f"open the experiment {EXPERIMENT}"):
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                artifacts = None if self.uri else (self.folder / "artifacts").resolve().as_uri()
                return str(self.client.create_experiment(EXPERIMENT, artifacts, dict(EXPERIMENT_TAGS)))
            for name, value in EXPERIMENT_TAGS.items():
                if name not in found.tags:
                    self.client.set_experiment_tag(found.experiment_id, name, value)
            return str(found.experiment_id)

    def find_run(self, run: str, step: str | None = None) -> str | None:
        """Return the MLflow id of a training run (`step` None) or of one of its steps, None where there is none."""
        condition = f"tags.`{RUN_TAG}` = '{run}' and tags.`{STEP_TAG}` = '{step or 'parent'}'"
        with mlflow_errors(f"look up run {run}"):
            found = self.client.search_runs([self.experiment_id], filter_string=condition, max_results=1)
        return str(found[0].info.run_id) if found else None

    def open_run(self, run: str, step: str | None = None) -> str:
        """Return the MLflow id of a training run or of one of its steps, created when it is missing."""
        if found := self.find_run(run, step):
            return found
        tags = {RUN_TAG: run, STEP_TAG: step or "parent"}
        if step:
            tags[_PARENT_TAG] = self.open_run(run)
        with mlflow_errors(f"create run {run}"):
            created = self.client.create_run(
                self.experiment_id, run_name=f"{step} {run[:6]}" if step else run, tags=tags
            )
        return str(created.info.run_id)
