"""The numbers and the newest picture of the data in MLflow: one long run named `data`, a step a window."""

import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import StoreError
from pipelines.stores.experiment_tracker import ExperimentTracker

RUN = "data"
_NOTE = "No training: a point for each window of data that was accepted, and the newest picture of the data."
_WAIT_S = 1.0


def log_window(
    tracker: ExperimentTracker, *, number: int, metrics: Mapping[str, float], files: tuple[Path, ...]
) -> str | None:
    """Log what a window looked like; return why that failed, None where it did not.

    Validation does not depend on MLflow: a server that does not answer costs a second and gives a sentence.

    Args:
        number: The window's place among the accepted ones, from 1; the step of its metrics.
        files: Copied to the artifacts `data/`; the newest replace those before.
    """
    try:
        _require_answer(tracker.uri)
        log = tracker.parent(RUN)
        for name, value in metrics.items():
            log.points(name, {number: value})
        for file in files:
            log.artifact(file, "data")
        log.note(_NOTE)
        log.finish()
    except (StoreError, OSError) as error:
        return f"The numbers of this window are not in MLflow: {error}"
    return None


def _require_answer(uri: str) -> None:
    """Ask a server whether it is there: MLflow's own client tries again for minutes.

    Raises:
        StoreError: nobody listens.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_WAIT_S).close()
    except OSError as error:
        raise StoreError(f"{uri} does not answer ({error}).") from None
