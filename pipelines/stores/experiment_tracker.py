"""What each step of each training run did, kept in MLflow: parameters, metrics, pictures and the data's fingerprint."""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.schemas import Metric
from pipelines.stores.mlflow_client import MlflowBackend, mlflow_errors
from pipelines.stores.system_metrics import watched_system

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PARAM_CHARACTERS = 6_000
_MAX_NAME_CHARACTERS = 240
_DIGEST_CHARACTERS = 36
_POINTS_PER_CALL = 1_000


def metric_key(name: str) -> str:
    """Return `name` in the characters that MLflow allows: `recall@10` becomes `recall_at_10`.

    A slash would be a folder to MLflow, and names such as `Food // Drinks` are none.
    """
    return re.sub(r"[^\w\-. ]", "_", name.replace("@", "_at_"))[:_MAX_NAME_CHARACTERS]


def _as_params(values: Mapping[str, Any]) -> dict[str, str]:
    return {metric_key(name): str(value)[:_MAX_PARAM_CHARACTERS] for name, value in values.items()}


class StepLog:
    """One MLflow run that is open for writing. Writing the same thing twice leaves one."""

    def __init__(self, backend: MlflowBackend, run: str, step: str | None) -> None:
        self._backend = backend
        self._run = run
        self._step = step
        self._points: dict[str, set[tuple[int, float]]] = {}
        self.run_id = backend.open_run(run, step)
        with mlflow_errors(f"read {run}"):
            self._logged_before = set(backend.client.get_run(self.run_id).data.metrics)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings. A setting that changed since this step last ran starts its MLflow run afresh.

        MLflow's parameters cannot be overwritten, and metrics of two different settings must not mix.
        """
        wanted = _as_params(values)
        with mlflow_errors(f"log the parameters of {self._run}"):
            known = self._backend.client.get_run(self.run_id).data.params
        if any(known.get(name, value) != value for name, value in wanted.items()):
            with mlflow_errors(f"start {self._run} afresh"):
                self._start_afresh()
        self.facts(values)

    def facts(self, values: Mapping[str, Any]) -> None:
        """Log as parameters what holds for the run as a whole; what is there already stays as it is.

        For the parent run, which holds all steps and the model's files, and so is never started afresh.
        """
        from mlflow.entities import Param

        with mlflow_errors(f"log the parameters of {self._run}"):
            known = self._backend.client.get_run(self.run_id).data.params
            new = [Param(name, value) for name, value in _as_params(values).items() if name not in known]
            for start in range(0, len(new), 100):
                self._backend.client.log_batch(self.run_id, params=new[start : start + 100])

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Log one number, about 12 ms; `step` counts training steps. The same point is logged once."""
        self.points(name, {step or 0: value})

    def points(self, name: str, values: Mapping[int, float]) -> None:
        """Log a curve in one call: training step -> value."""
        self._log({metric_key(name): dict(values)})

    def metrics(self, values: Mapping[str, Metric | float], prefix: str = "") -> None:
        """Log many numbers in one call; the interval of a `Metric` goes to `<name>.low` and `<name>.high`."""
        flat: dict[str, dict[int, float]] = {}
        for name, metric in values.items():
            key = metric_key(prefix + name)
            if not isinstance(metric, Metric):
                flat[key] = {0: float(metric)}
                continue
            flat[key] = {0: metric.value}
            if metric.low is not None and metric.high is not None:
                flat[f"{key}.low"] = {0: metric.low}
                flat[f"{key}.high"] = {0: metric.high}
        self._log(flat)

    def figure(self, figure: "Figure", name: str) -> None:
        """Log a matplotlib figure as `plots/<name>`, such as `loss_curve.png`."""
        with mlflow_errors(f"log the figure {name}"):
            self._backend.client.log_figure(self.run_id, figure, f"plots/{name}")

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a folder to the run's artifacts."""
        with mlflow_errors(f"log {path}"):
            if path.is_dir():
                self._backend.client.log_artifacts(self.run_id, str(path), folder or path.name)
            else:
                self._backend.client.log_artifact(self.run_id, str(path), folder)

    def text(self, text: str, name: str) -> None:
        """Log a text as an artifact, such as `report/summary.md`."""
        with mlflow_errors(f"log {name}"):
            self._backend.client.log_text(self.run_id, text, name)

    def dataset(self, name: str, fingerprint: str, rows: int, source: str, context: str = "training") -> None:
        """Log what was read: MLflow shows the first 36 characters of the fingerprint, a tag keeps all of it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name,
            digest=fingerprint[:_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"num_rows": rows}),
        )
        with mlflow_errors(f"log the data set {name}"):
            self._backend.client.log_inputs(
                self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
            )
        self.tags({f"dataset.{name}.fingerprint": fingerprint})

    def note(self, text: str) -> None:
        """Describe the run, in Markdown."""
        self.tags({"mlflow.note.content": text})

    def finish(self) -> None:
        """Show the run as finished; for one that no step keeps open."""
        with mlflow_errors(f"end {self._run}"):
            self._backend.client.set_terminated(self.run_id)

    def rename(self, name: str) -> None:
        """Show the run under this name."""
        with mlflow_errors(f"name {self._run}"):
            self._backend.client.update_run(self.run_id, name=name)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; the last value wins."""
        from mlflow.entities import RunTag

        with mlflow_errors(f"tag {self._run}"):
            self._backend.client.log_batch(
                self.run_id, tags=[RunTag(metric_key(name), str(value)[:5_000]) for name, value in values.items()]
            )

    def _log(self, series: Mapping[str, Mapping[int, float]]) -> None:
        from mlflow.entities import Metric as MlflowMetric

        now_ms = int(time.time() * 1000)  # the moment of logging, which MLflow wants; nothing is decided by it
        new = []
        with mlflow_errors(f"log metrics of {self._run}"):
            for key, values in series.items():
                known = self._known_points(key)
                for step, value in values.items():
                    point = (int(step), float(value))
                    if point in known or (math.isnan(point[1]) and any(s == point[0] for s, _ in known)):
                        continue
                    known.add(point)
                    new.append(MlflowMetric(key, point[1], now_ms, point[0]))
            for start in range(0, len(new), _POINTS_PER_CALL):
                self._backend.client.log_batch(self.run_id, metrics=new[start : start + _POINTS_PER_CALL])

    def _known_points(self, key: str) -> set[tuple[int, float]]:
        if key not in self._points and key not in self._logged_before:
            self._points[key] = set()
        if key not in self._points:
            history = self._backend.client.get_metric_history(self.run_id, key)
            self._points[key] = {(int(point.step), float(point.value)) for point in history}
        return self._points[key]

    def _start_afresh(self) -> None:
        self._backend.client.delete_run(self.run_id)  # MLflow keeps it, marked as deleted
        self._points.clear()
        self._logged_before.clear()
        self.run_id = self._backend.open_run(self._run, self._step)


class ExperimentTracker:
    """Experiment tracking in MLflow: one parent run a training run, one child run a step.

    Args:
        folder: Holds the SQLite database and the artifacts where there is no server.
        uri: A tracking server or database instead of SQLite in `folder`.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self._backend = MlflowBackend(folder, uri)

    @classmethod
    def from_environment(cls, folder: Path, environment: Mapping[str, str] = os.environ) -> "ExperimentTracker":
        """Read `HEADRACE_MLFLOW_URI`; without it, SQLite and files in `folder`."""
        return cls(folder, MlflowBackend.from_environment(folder, environment).uri)

    @property
    def uri(self) -> str:
        """What `mlflow ui --backend-store-uri` takes."""
        return self._backend.tracking_uri

    @contextmanager
    def step(self, run: str, step: str) -> Iterator[StepLog]:
        """Open the child run of one step; a step that runs again goes on in the same one.

        The child and its parent end as FINISHED, as FAILED after an error, or as KILLED after an interruption.
        """
        log = StepLog(self._backend, run, step)
        parent = self._backend.open_run(run)
        self._set_status("RUNNING", log.run_id, parent)
        try:
            with watched_system(log.run_id, self._backend.tracking_uri):
                yield log
        except Exception:
            self._set_status("FAILED", log.run_id, parent)
            raise
        except BaseException:
            self._set_status("KILLED", log.run_id, parent)
            raise
        self._set_status("FINISHED", log.run_id, parent)

    def parent(self, run: str) -> StepLog:
        """Open the parent run, for what belongs to the training run as a whole, such as the headline metrics."""
        return StepLog(self._backend, run, None)

    def _set_status(self, status: str, *run_ids: str) -> None:
        with mlflow_errors(f"mark the run as {status}"):
            for run_id in run_ids:
                if status == "RUNNING":
                    self._backend.client.update_run(run_id, status)
                else:
                    self._backend.client.set_terminated(run_id, status)
