"""Writes that are whole or not there: a temporary name in the same folder, then a rename."""

import fcntl
import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ABANDONED_NS = 3_600 * 10**9
"""A temporary file that nobody has written to for so long is that of a killed process."""


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Give a temporary path; when the block ends well it takes the place of `target` in one rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def keep_newest(folder: Path, suffix: str, count: int) -> None:
    """Remove all files of a suffix but the newest, and what a killed `replacing_file` left an hour ago or earlier.

    Other processes may do the same at the same time.
    """
    newest_first = sorted(folder.glob(f"*{suffix}"), key=_changed_ns, reverse=True)
    before = time.time_ns() - _ABANDONED_NS
    abandoned = [path for path in folder.glob(".*.tmp") if _changed_ns(path) < before]
    for path in (*newest_first[count:], *abandoned):
        path.unlink(missing_ok=True)


def _changed_ns(path: Path) -> int:
    """Return when a file was written, ns since 1970; 0 where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder; when the block ends well it takes the place of `target`.

    A folder cannot be swapped for a non-empty one in one call: readers must tolerate a moment without it. What a killed
    process left of the same target is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary, lock = _locked_folder(target)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _locked_folder(target: Path) -> tuple[Path, int]:
    """Make a temporary folder that is locked for as long as this process lives; return it and the lock."""
    while True:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks: what is left there stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # else another process took it for abandoned before it was locked
            return temporary, lock
        os.close(lock)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(OSError):  # it is being written, or it has gone
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written to a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def text_sha256(*parts: str) -> str:
    """Return the SHA-256 of texts, in this order, as hex digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
