"""Starts the processes of a training on this machine, and worries about how they end.

What torchrun does, in the small: it lets no process outlive the one that asked for it, even where that one was killed
without a word, and says what went wrong in one of our errors instead of a traceback.
"""

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines import errors
from pipelines.errors import HeadraceError, StoreError
from pipelines.progress import SilentProgress, progress_from_environment

_POLL_S = 0.1
_GRACE_S = 5.0
"""How long the others may take to end by themselves after one has failed."""


def run_processes(count: int, function: str, job: str) -> None:
    """Call `function(job, group=…, progress=…)` in `count` processes, and wait for all of them.

    Args:
        function: `package.module:name`.
        job: Anything as text; every process gets the same.

    Raises:
        HeadraceError: what one of them raised.
        StoreError: one of them was killed from outside.
        RuntimeError: one of them failed with a bug; its traceback was printed.
    """
    with TemporaryDirectory(prefix="headrace-training-") as folder:
        (Path(folder) / "job").write_text(job, encoding="utf-8")
        workers = [_start(rank, count, function, Path(folder)) for rank in range(count)]
        try:
            codes = _wait(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
                if worker.stdin:
                    worker.stdin.close()
        _raise_failure(codes, Path(folder))


def _start(rank: int, count: int, function: str, folder: Path) -> "subprocess.Popen[bytes]":
    from pipelines.training.distributed import RENDEZVOUS_VARIABLE

    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        RENDEZVOUS_VARIABLE: (folder / "rendezvous").as_uri(),
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
    }
    # Each holds the reading end of a pipe whose other end closes when this process ends, however it ends.
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.training.processes", function, str(folder)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def _wait(workers: "list[subprocess.Popen[bytes]]") -> list[int]:
    """Return the exit codes when all have ended well, or soon after one has not: 0 for those that still run then."""
    while not any(worker.poll() for worker in workers):
        if all(worker.poll() == 0 for worker in workers):
            break
        time.sleep(_POLL_S)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
        time.sleep(_POLL_S)
    return [worker.poll() or 0 for worker in workers]


def _raise_failure(codes: list[int], folder: Path) -> None:
    if not any(codes):
        return
    for path in sorted(folder.glob("error-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        kind: type[HeadraceError] = getattr(errors, found["kind"])
        raise kind(found["message"])
    if min(codes) < 0:
        raise StoreError(
            f"{sum(code < 0 for code in codes)} of {len(codes)} training processes died of signal {-min(codes)}, as "
            "happens when memory runs out: run it again, and it goes on from its checkpoint; if that happens again, "
            "lower `training.processes` or the batch."
        )
    raise RuntimeError("A training process failed; its traceback is printed above.")


def main() -> None:
    """Be one of the processes: `python -m pipelines.training.processes package.module:name FOLDER`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from pipelines.training.distributed import training_group  # seconds: a process must be able to end before them

    function, folder = sys.argv[1], Path(sys.argv[2])
    module, name = function.split(":")
    try:
        with training_group() as group:
            work = getattr(importlib.import_module(module), name)
            progress = progress_from_environment() if group.is_main else SilentProgress()
            work((folder / "job").read_text(encoding="utf-8"), group=group, progress=progress)
    except HeadraceError as error:
        found = {"kind": type(error).__name__, "message": str(error)}
        (folder / f"error-{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")
        sys.exit(1)


def _end_with_parent() -> None:
    while os.read(0, 1):  # nothing is ever written: it returns when the pipe is closed
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
