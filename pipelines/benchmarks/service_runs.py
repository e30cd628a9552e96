"""The service as benches run it: beside them, on a free port, on the cores they say, and killed at will."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pipelines.airflow_home import stop_groups
from pipelines.benchmarks.process_accounts import cpu_s, descendants, on_cores, workers
from pipelines.errors import StoreError
from pipelines.places import HOME_VARIABLE, Places
from pipelines.ports import free_port
from pipelines.wiring import QUIET

READY_TIMEOUT_S = 120.0
_POLL_S = 0.02
_SETTLE_S, _LOOK_S = 10.0, 0.1
_IDLE_SHARE = 0.1
"""Of a core: below it a service does nothing but look around."""
_WORKERS_VARIABLE = "BENTOML_CONFIG_OVERRIDES"


class ServiceRun:
    """`headrace serve` as a process that can be started again and again; it ends with the block."""

    def __init__(
        self,
        places: Places,
        environment: Mapping[str, str],
        *,
        cores: Sequence[int] | None = None,
        worker_count: int = 1,
    ) -> None:
        """Take where it runs; nothing is started yet.

        Args:
            places: The home that it serves.
            environment: Of the process; `HEADRACE_HOME` is set to the home.
            cores: Where it and all its threads stay; None leaves that to the system.
            worker_count: Processes that answer.
        """
        self.port = free_port()
        self.places = places
        self._cores = cores
        self._worker_count = worker_count
        self._environment = {**environment, **QUIET, HOME_VARIABLE: str(places.home)}
        if worker_count > 1:
            self._environment[_WORKERS_VARIABLE] = json.dumps({"services": {"headrace": {"workers": worker_count}}})
        self._process: subprocess.Popen[bytes] | None = None
        self.log = places.home / "serving" / "bench-service.log"

    def __enter__(self) -> "ServiceRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> float:
        """Start it and wait until it is ready; return the seconds that took.

        Raises:
            StoreError: it ended, or was not ready within two minutes.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with self.log.open("ab") as log, on_cores(self._cores):
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "headrace"), "serve", "--port", str(self.port)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.await_ready()
        return time.perf_counter() - began

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until `/readyz` says so, from every worker where there are several.

        Raises:
            StoreError: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise StoreError(f"The service ended by itself: {_last_line(self.log)} (log: {self.log})")
            if self.is_ready() and self._has_all_workers():
                return
            time.sleep(_POLL_S)
        raise StoreError(f"The service was not ready within {timeout_s:.0f} s: the last lines of {self.log} say why.")

    def is_ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def settle(self) -> None:
        """Wait until it does nothing any more, as what it does after an answer belongs to that; ten seconds at most."""
        deadline = time.monotonic() + _SETTLE_S
        before = cpu_s(self.process_ids)
        while time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            after = cpu_s(self.process_ids)
            if before is None or after is None or after - before < _IDLE_SHARE * _LOOK_S:
                return
            before = after

    @property
    def process_ids(self) -> list[int]:
        """The first process and all below it."""
        return descendants(self._process.pid) if self._process is not None else []

    @property
    def workers(self) -> list[int]:
        """The processes that answer, the largest first."""
        return workers(self._process.pid) if self._process is not None else []

    def kill(self) -> None:
        """Kill all its processes at once, as `kill -9` does."""
        for process_id in self.process_ids:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """End it, gently first."""
        if self._process is None:
            return
        everything = self.process_ids
        if self._process.poll() is None:
            stop_groups([self._process])
        for process_id in everything[1:]:  # what a killed parent left behind
            with suppress(OSError):
                if b"bentoml" in Path(f"/proc/{process_id}/cmdline").read_bytes():
                    os.kill(process_id, signal.SIGKILL)
        self._process = None

    def _has_all_workers(self) -> bool:
        if self._worker_count == 1:
            return True
        told = [one for one in self.workers if any(self.places.services.glob(f"*-{one}.json"))]
        return len(told) >= self._worker_count


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
