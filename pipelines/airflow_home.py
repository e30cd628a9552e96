"""Airflow on one machine: its settings in one place, its database, and its four processes on 127.0.0.1."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from pipelines.errors import ConfigError, StoreError
from pipelines.places import HOME_VARIABLE, Places
from pipelines.ports import refuse_taken_port
from pipelines.stores.files import write_text
from pipelines.wiring import PROJECT, QUIET

DAGS = PROJECT / "dags"
STOP_TIMEOUT_S = 20.0


def airflow_environment(
    places: Places, environment: Mapping[str, str] = os.environ, *, port: int = 8080
) -> dict[str, str]:
    """Return the environment in which every Airflow process of this machine runs.

    Our settings win over what the environment says: another Airflow's `AIRFLOW_HOME` must not receive our runs.
    """
    binaries = str(Path(sys.executable).parent)
    settings = {
        "AIRFLOW_HOME": str(places.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # A training run fills the machine: two tasks at once are enough for everything else to go on.
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        # Workers find the execution API through this address: with another port alone, every task would fail.
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{places.airflow / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    }
    return {
        **environment,
        **settings,
        **QUIET,
        HOME_VARIABLE: str(places.home),
        # Airflow starts its own parts as `airflow …`.
        "PATH": f"{binaries}{os.pathsep}{environment.get('PATH', os.defpath)}",
    }


def prepare_airflow(places: Places, environment: Mapping[str, str], log: IO[str]) -> None:
    """Create or migrate Airflow's database; does nothing where this version of Airflow has done so already.

    Raises:
        StoreError: the migration failed.
    """
    stamp = places.airflow / "migrated"
    wanted = f"{version('apache-airflow-core')} {environment['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN']}"
    embedded = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite")
    database_exists = not embedded or (places.airflow / "airflow.db").exists()
    if database_exists and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    places.airflow.mkdir(parents=True, exist_ok=True)
    if embedded and not stamp.exists():
        # Its creation was interrupted: it holds no run yet, and Airflow cannot go on with half of its tables.
        (places.airflow / "airflow.db").unlink(missing_ok=True)
    log.flush()
    done = subprocess.run(
        ["airflow", "db", "migrate"],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise StoreError(
            f"`airflow db migrate` ended with exit code {done.returncode}: its last lines in {log.name} say why. "
            f"If the database in {places.airflow} is damaged, delete that folder (it holds Airflow's history only)."
        )
    write_text(stamp, wanted)


def serve_airflow(places: Places, *, port: int, environment: Mapping[str, str] = os.environ) -> int:
    """Run Airflow's web server, scheduler, DAG processor and triggerer until Ctrl-C; return the exit code.

    These are the parts that `airflow standalone` starts. They are started here because standalone's log servers
    listen on every network interface; on one machine nobody needs them, as all parts read the same log files.

    Raises:
        ConfigError: the port is taken.
        StoreError: the database could not be migrated.
    """
    refuse_taken_port(port, "headrace airflow --port")
    settings = airflow_environment(places, environment, port=port)
    places.airflow.mkdir(parents=True, exist_ok=True)
    with (places.airflow / "migrate.log").open("a", encoding="utf-8") as log:
        prepare_airflow(places, settings, log)
    parts = {
        "api-server": ["airflow", "api-server"],
        "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
        "dag-processor": ["airflow", "dag-processor"],
        "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    }
    sys.stdout.write(
        f"Airflow on http://127.0.0.1:{port} in about half a minute (Ctrl-C stops it). "
        "feature_pipeline, training_pipeline and monitoring are paused until you switch them on. "
        f"Logs: {places.airflow}/*.log\n"
    )
    sys.stdout.flush()
    return run_together(parts, settings, places.airflow)


def run_together(parts: Mapping[str, Sequence[str]], environment: Mapping[str, str], log_folder: Path) -> int:
    """Run processes side by side, each with a log file, until one ends or a signal comes; then stop all.

    Returns:
        0 after Ctrl-C or a termination signal.

    Raises:
        StoreError: one of them ended by itself.
    """
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in parts.items():
            with (log_folder / f"{name}.log").open("ab") as log:
                running[name] = subprocess.Popen(
                    list(command),
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        while not stop.wait(0.5):
            for name, process in running.items():
                if process.poll() is not None:
                    raise StoreError(
                        f"Airflow's {name} ended with exit code {process.returncode}: "
                        f"the last lines of {log_folder / name}.log say why."
                    )
        return 0
    finally:
        stop_groups(running.values())
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_groups(processes: Iterable["subprocess.Popen[bytes]"], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End processes that were started with their own session, and everything they started.

    Args:
        timeout_s: How long they may take to end by themselves.
    """
    group = list(processes)
    for process in group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    for process in group:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def airflow_installed() -> None:
    """Check that the `airflow` command lies beside this Python.

    Raises:
        ConfigError: it does not.
    """
    command = Path(sys.executable).parent / "airflow"
    if not command.exists():
        raise ConfigError(f"Airflow is not installed ({command} does not exist): run `make setup`.")
