"""A clock that jumps, for one service alone: a small library in front of the system's, made with the C compiler.

All code of the service sees it, Python and libraries alike: the time of day (`clock_gettime` with CLOCK_REALTIME,
`gettimeofday`, `time`) is off by the nanoseconds in a file that all its processes map. Clocks that only measure spans
(CLOCK_MONOTONIC) go on, as they do when an administrator sets a machine's clock.

Source: the way of libfaketime (LD_PRELOAD).
"""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

from pipelines.errors import StoreError

_FILE_VARIABLE = "HEADRACE_BENCH_CLOCK"
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const long long nothing = 0;
static volatile const long long *offset_ns = &nothing;
static int (*system_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("HEADRACE_BENCH_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    system_clock = dlsym(RTLD_NEXT, "clock_gettime");
    if (file < 0) return;
    void *map = mmap(0, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) offset_ns = map;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!system_clock) system_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = system_clock(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        long long all = now->tv_sec * 1000000000LL + now->tv_nsec + *offset_ns;
        now->tv_sec = all / 1000000000LL;
        now->tv_nsec = all % 1000000000LL;
    }
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


def compiler() -> str | None:
    """Return where the C compiler is; None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


class FakedClock:
    """How far the clock of a service is off; right until it is told otherwise."""

    def __init__(self, compiler_path: str, folder: Path) -> None:
        """Make the library.

        Raises:
            StoreError: the compiler failed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._library, self._file = folder / "clock.so", folder / "clock.offset"
        source = folder / "clock.c"
        source.write_text(_SOURCE, encoding="ascii")
        command = [compiler_path, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StoreError(f"The C compiler {compiler_path} failed: {done.stderr.strip()[:300]}")
        self._file.write_bytes(bytes(8))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to see this clock."""
        return {"LD_PRELOAD": str(self._library), _FILE_VARIABLE: str(self._file)}

    def jump_to(self, offset_s: float) -> None:
        """Be off by so many seconds from now on."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            shared[:] = struct.pack("q", round(offset_s * 1e9))
