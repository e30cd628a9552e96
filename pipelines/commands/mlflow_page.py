"""MLflow's web page over our tracking store, on 127.0.0.1."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.places import Places
from pipelines.ports import refuse_taken_port
from pipelines.stores.mlflow_client import MlflowBackend
from pipelines.stores.mlflow_view import runs_address
from pipelines.wiring import QUIET


def serve_mlflow(places: Places, *, port: int, environment: Mapping[str, str] = os.environ) -> int:
    """Run `mlflow server` until Ctrl-C; return the exit code.

    Raises:
        ConfigError: MLflow is not installed, there is no tracking store yet, or the port is taken.
    """
    command = Path(sys.executable).parent / "mlflow"
    if not command.exists():
        raise ConfigError(f"MLflow is not installed ({command} does not exist): run `make setup`.")
    store = environment.get("HEADRACE_MLFLOW_URI") or f"sqlite:///{places.mlflow / 'mlflow.db'}"
    if store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).exists():
        raise ConfigError(f"There is no tracking store in {places.mlflow} yet: run `headrace loop` first.")
    refuse_taken_port(port, "headrace mlflow --port")
    settings = {
        **environment,
        **QUIET,
        # The job runner is for features that we do not use; without it the server needs half the memory.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{command.parent}{os.pathsep}{environment.get('PATH', os.defpath)}",
    }
    address = runs_address(
        f"http://127.0.0.1:{port}", MlflowBackend.from_environment(places.mlflow, environment).experiment_id
    )
    sys.stdout.write(
        f"MLflow, with the training runs side by side, in about ten seconds (Ctrl-C stops it):\n{address}\n"
    )
    sys.stdout.flush()
    arguments = ["--backend-store-uri", store, "--artifacts-destination", str(places.mlflow / "artifacts")]
    process = subprocess.Popen(
        [str(command), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *arguments],
        env=settings,
        stdin=subprocess.DEVNULL,
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
