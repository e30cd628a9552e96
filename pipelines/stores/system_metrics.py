"""What the machine did while a step ran, beside the step's own metrics: processor, memory, disk, network, GPU."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SYSTEM_METRICS_VARIABLE = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own switch; with us it is on unless it says `false`."""


def are_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether system metrics can be read here (by psutil), and nobody switched them off."""
    off = environment.get(SYSTEM_METRICS_VARIABLE, "true").lower() in ("false", "0")
    return not off and importlib.util.find_spec("psutil") is not None


@contextmanager
def watched_system(run_id: str, tracking_uri: str) -> Iterator[None]:
    """Log the machine's state to a run every ten seconds; a shorter step logs nothing. A run goes on where it was."""
    if not are_wanted():
        yield
        return
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # it tells that it starts and that it stops
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
