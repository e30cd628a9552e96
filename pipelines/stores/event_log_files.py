"""The files of the embedded event log: segments of lines, each with a checksum.

    <day>.jsonl, <day>.00001.jsonl, <day>.00002.jsonl, …

A segment is appended to until the day (UTC) is over or it is large enough; only the newest one changes. One line is
one accepted call: the CRC-32 of the rest as eight hex digits, a space, and the events as a JSON list.
"""

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipelines.stores.event_rows import Event, from_json

_NAME = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{5,}))?\.jsonl")
_START_OF_RECORD = re.compile(rb'[0-9a-f]{8} \[\{"')
"""Never part of a text inside of a record: JSON writes a quotation mark there as \\"."""
_BLOCK = 1 << 16


@dataclass(frozen=True, order=True)
class Segment:
    """A file of the log; segments sort in the order in which they were written."""

    day: str
    """UTC, such as 2026-03-01: nothing in the segment arrived later."""
    number: int
    """0 for the first of a day."""

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.day}.{self.number:05d}.jsonl" if self.number else f"{self.day}.jsonl"


@dataclass(frozen=True)
class LogRecord:
    """One line of a segment."""

    start: int
    end: int
    """Bytes from the segment's start; the next record begins here."""
    events: list[Event] | None
    """None for a line that fails its checksum."""


def segments(folder: Path) -> list[Segment]:
    """Return the segments of a log, oldest first; files of other names are none."""
    with os.scandir(folder) as entries:
        return sorted(found for entry in entries if (found := _parsed(entry.name)) is not None)


@lru_cache(maxsize=10_000)
def _parsed(name: str) -> Segment | None:
    match = _NAME.fullmatch(name)
    return Segment(match[1], int(match[2] or 0)) if match else None


def encoded(body: bytes) -> bytes:
    """Return the line of one record."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def append_durably(path: Path, data: bytes) -> None:
    """Append whole lines and wait for the disk; after an error the file is as it was.

    What a crash tore is closed with a line end first: its checksum tells readers to skip it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)  # a full disk must not leave half of a refused call
            raise
    finally:
        os.close(descriptor)


def complete_size(descriptor: int) -> int:
    """Return the bytes up to the end of the last whole line."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        block_end = start + os.pread(descriptor, min(end - start, _BLOCK), start).rfind(b"\n") + 1
        if block_end > start:
            return block_end
        end = start
    return 0


def records(path: Path, start: int, end: int) -> Iterator[LogRecord]:
    """Yield the records between two offsets, damaged ones without events."""
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            line = file.readline(end - start)
            if not line:
                return
            for length, events in _records_of(line):
                yield LogRecord(start, start + length, events)
                start += length


def _records_of(line: bytes) -> Iterator[tuple[int, list[Event] | None]]:
    """Yield length and events of a line.

    Where the end of a line was overwritten, it is two records or more: those that are whole are found again.
    """
    events = _decoded(line)
    if events is None:
        for match in _START_OF_RECORD.finditer(line, 1):
            rest = _decoded(line[match.start() :])
            if rest is not None:
                yield from _records_of(line[: match.start()])
                yield len(line) - match.start(), rest
                return
        yield len(line), _decoded(line[:-1])  # the last byte stands where the line end was
        return
    yield len(line), events


def _decoded(line: bytes) -> list[Event] | None:
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    return from_json(body) if checksum == b"%08x" % zlib.crc32(body) else None


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of files is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
