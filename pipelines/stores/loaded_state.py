"""What the online store was given last: kept beside Feast's registry, and in the online store itself."""

import uuid
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from pipelines.schemas import Record
from pipelines.stores.files import write_text
from pipelines.stores.online_reader import OnlineReader
from pipelines.stores.online_writer import OnlineWriter
from pipelines.stores.user_fold import blank_row

MARK = "headrace:loaded"
"""A user whom nobody is: the only item of that history names the load."""
_VIEW = "user_history"
_FILE = "loaded.json"


class Loaded(Record):
    """The last load that was finished."""

    store: str = Field(description="Which online store, without its secret.")
    token: str = Field(description="Also lies in the store itself: an emptied store, or another one, has none.")
    build: int = Field(description="Feature build that was loaded.")
    until: datetime = Field(description="What arrived up to then was in the features.")


def loaded_until(feast_dir: Path) -> datetime | None:
    """Return up to which arrival the last load that was finished here knew the events; None: nothing was loaded."""
    try:
        return Loaded.model_validate_json((feast_dir / _FILE).read_text(encoding="utf-8")).until
    except (FileNotFoundError, ValidationError):
        return None


class LoadedState:
    """Remembers the last load of one online store."""

    def __init__(self, feast_dir: Path, address: str | None, store: Any) -> None:
        """Look nowhere yet.

        Args:
            address: `HEADRACE_ONLINE_STORE`; None for SQLite.
            store: The `feast.FeatureStore` on it.
        """
        self._path = feast_dir / _FILE
        parts = urlsplit(address or "")
        self._name = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}" if address else "sqlite"
        self._store = store

    def find(self) -> Loaded | None:
        """Return the last load; None where this store does not hold it (any more), and everything has to be loaded."""
        try:
            loaded = Loaded.model_validate_json(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None
        return loaded if loaded.store == self._name and self._token() == loaded.token else None

    def finish(self, build: int, until: datetime) -> None:
        """Remember that everything up to `build` is in the store."""
        token = uuid.uuid4().hex
        row = {**blank_row(MARK), "item_ids": [token]}
        writer = OnlineWriter(self._store, [_VIEW])
        with writer.turn():
            writer.write([row])
        loaded = Loaded(store=self._name, token=token, build=build, until=until)
        write_text(self._path, loaded.model_dump_json(indent=2))

    def _token(self) -> str | None:
        try:
            [row] = OnlineReader(self._store, [f"{_VIEW}:item_ids"]).read([{"user_id": MARK}])
        except ValueError:  # Feast reads no view before its first materialization
            return None
        found = row.values["item_ids"]
        return str(found[0]) if found else None
