"""A real Redis server for benches, that is stopped, started and made to hang; its data stay over a restart."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

from pipelines.errors import StoreError
from pipelines.ports import free_port

_START_S = 10.0
_STOP_S = 10.0


def redis_executable() -> str | None:
    """Return where `redis-server` is; None where it is not installed."""
    return shutil.which("redis-server")


class RedisProcess:
    """One server on a free port of this machine; it ends with the block."""

    def __init__(self, executable: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [executable, "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> "RedisProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """As `HEADRACE_ONLINE_STORE` takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            StoreError: it does not.
        """
        import redis

        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_S
        with redis.Redis(port=self.port) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    client.ping()
                    return
                except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
                    time.sleep(0.02)
        self.stop()
        raise StoreError(f"`redis-server` did not answer on port {self.port} within {_START_S:g} s.")

    def stop(self) -> None:
        """End it; what it holds is on its disk."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def hang(self) -> None:
        """Keep its connections open and answer nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `hang`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        self._process.send_signal(number)
