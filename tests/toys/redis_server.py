"""A real Redis server on a free port, started and stopped by the tests themselves."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

EXECUTABLE = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    EXECUTABLE is None, reason="there is no `redis-server` on PATH: Debian's package is redis-server"
)
_PATIENCE_S = 10


class RedisServer:
    """Keeps its data below one folder, so that a restart finds them again."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def address(self) -> str:
        secret = f":{quote(self._password)}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", str(self._folder)]
        if self._password:
            settings += ["--requirepass", self._password]
        self._process = subprocess.Popen(
            [str(EXECUTABLE), *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        import redis

        until = time.monotonic() + _PATIENCE_S
        with redis.Redis(port=self.port, password=self._password) as client:
            while True:
                try:
                    client.ping()
                    return self
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > until or self._process.poll() is not None:
                        self.stop()
                        raise
                    time.sleep(0.02)

    def empty(self) -> None:
        """Forget everything."""
        import redis

        with redis.Redis(port=self.port, password=self._password) as client:
            client.flushall()

    def pause(self) -> None:
        """Let the server hang: it takes connections and does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, if it hangs."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End the server as a crash would, but for what it has written already."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None
