"""What each running service says about itself: one small file a process, `serving/services/<host>-<pid>.json`.

A deployment reads here when the service answers from the new bundle, or why it does not: no port, no key, and as many
services as there are. The file's time is its sign of life.
"""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from pipelines.schemas import Record
from pipelines.stores.files import write_text

SILENT_S = 60.0
"""A service that has not touched its file for so long is taken for gone."""
_FORGOTTEN_S = 86_400.0


class RunningService(Record):
    """One process of the service."""

    host: str
    process_id: int
    bundle: str
    """The bundle that answers."""
    since: datetime
    """When it began to answer."""
    refused: str | None = None
    """A bundle that the pointer named and that could not be opened; cleared when the pointer moves on."""
    reason: str = ""
    """Why it could not be opened."""
    canary: str | None = None
    """The bundle that answers a share of the users."""
    shadow: str | None = None
    """The bundle that is asked beside the live one."""

    @property
    def name(self) -> str:
        """Host and process."""
        return f"{self.host}-{self.process_id}"


class StatusFile:
    """The file of this process."""

    def __init__(self, folder: Path) -> None:
        self._host, self._process_id = socket.gethostname(), os.getpid()
        self._path = folder / f"{self._host}-{self._process_id}.json"
        self._written: RunningService | None = None

    def write(self, **state: object) -> None:
        """Say what is so now; only the file's time changes where nothing else did.

        Raises:
            OSError: the disk refuses.
        """
        status = RunningService.model_validate({"host": self._host, "process_id": self._process_id, **state})
        if status == self._written and self._path.exists():
            os.utime(self._path)
            return
        write_text(self._path, status.model_dump_json(indent=2))
        if self._written is None:
            _remove_dead(self._path.parent)
        self._written = status

    def remove(self) -> None:
        """Say that this process is over."""
        self._path.unlink(missing_ok=True)


def running_services(folder: Path) -> Sequence[RunningService]:
    """Return the services that are alive, by host and process."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if (told := _read(path)) is not None and told[1] < SILENT_S and _may_live(told[0]):
            found.append(told[0])
    return found


def _read(path: Path) -> tuple[RunningService, float] | None:
    """Return what a file says, and its age in seconds; None where it was removed in between, or says nothing."""
    try:
        age_s = time.time() - path.stat().st_mtime
        return RunningService.model_validate_json(path.read_text(encoding="utf-8")), age_s
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def _remove_dead(folder: Path) -> None:
    """Remove what killed services left: those of this machine that are gone, others that were silent for a day."""
    for path in folder.glob("*.json"):
        if (told := _read(path)) is None:
            continue
        status, age_s = told
        if not _may_live(status) or (status.host != socket.gethostname() and age_s > _FORGOTTEN_S):
            with suppress(OSError):
                path.unlink()


def _may_live(status: RunningService) -> bool:
    """Tell whether the process is there; one on another machine may be."""
    if status.host != socket.gethostname():
        return True
    try:
        os.kill(status.process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
