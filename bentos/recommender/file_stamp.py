"""How a worker notices that another process has replaced a file."""

from pathlib import Path


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever the file is replaced; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
