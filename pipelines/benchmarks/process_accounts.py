"""What the system says of a process: which ones are below it, its processor time, its memory, its cores."""

import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import StoreError


@dataclass(frozen=True)
class Memory:
    """Memory of one process, MiB."""

    rss: float
    """All of its pages."""
    pss: float
    """Pages that it shares are divided among those who share them."""
    uss: float
    """Pages that only it has: what one more such process costs."""


def descendants(process_id: int) -> list[int]:
    """Return the process and all below it; only itself where there is no /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in between
        parents[int(path.parent.name)] = int(fields[1])
    found = [process_id]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def cpu_s(process_ids: Sequence[int]) -> float | None:
    """Return the processor time of the processes so far, in seconds, to the nanosecond; ended threads count.

    Read from the processes' own CPU-time clocks: the ticks of `/proc/PID/stat` are 10 ms long, and
    `/proc/PID/schedstat` is of the main thread alone.

    Returns:
        None where the system does not tell.
    """
    library = ctypes.CDLL(None)
    total = 0
    for process_id in process_ids:
        clock = ctypes.c_int()
        try:
            if library.clock_getcpuclockid(process_id, ctypes.byref(clock)):
                return None
            total += time.clock_gettime_ns(clock.value)
        except (AttributeError, OSError):
            return None
    return total / 1e9


def memory(process_id: int) -> Memory:
    """Return the memory of a process.

    Raises:
        StoreError: the system does not tell.
    """
    try:
        lines = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        raise StoreError(
            f"This system does not say how much memory process {process_id} holds ({error.strerror or error}): run "
            "this on Linux."
        ) from None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return Memory(
        rss=kib["Rss"] / 1024, pss=kib["Pss"] / 1024, uss=(kib["Private_Clean"] + kib["Private_Dirty"]) / 1024
    )


def open_files(process_id: int) -> int:
    """Return how many files and connections a process has open; 0 where the system does not tell."""
    try:
        return len(list(Path(f"/proc/{process_id}/fd").iterdir()))
    except OSError:
        return 0


def workers(process_id: int) -> list[int]:
    """Return the processes of a service that answer: those below the first whose command serves, largest first.

    BentoML's first process starts and watches them, and answers nothing itself.
    """
    found = []
    for one in descendants(process_id)[1:]:
        try:
            command = Path(f"/proc/{one}/cmdline").read_bytes()
            resident = int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
        if b"bentoml" in command:
            found.append((resident, one))
    return [one for _, one in sorted(found, reverse=True)]


@contextmanager
def on_cores(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on some cores; None leaves it where it is."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
