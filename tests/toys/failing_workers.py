"""Processes of a distributed test that do not end well; they import little, so that they start soon."""

import os
import signal
import time
from pathlib import Path

from pipelines.errors import DataError


def fail(job: str, *, group, progress) -> None:
    """Process 1 does what `job` says, the other waits for it."""
    if group.rank == 1 and job == "bad data":
        raise DataError("`price` is NaN in 2 rows.")
    if group.rank == 1 and job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    group.wait()


def linger(job: str, *, group, progress) -> None:
    """Say who it is in the folder `job`, then do not end."""
    (Path(job) / str(os.getpid())).touch()
    time.sleep(600)
