"""The keys that callers of the service send: one JSON file of hashes; a key itself is shown once, when it is made."""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from pipelines.errors import ConfigError
from pipelines.schemas import Record
from pipelines.stores.files import replacing_file

KeyScope = Literal["serve", "write", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)
_PREFIX = "hr"
_ID_BYTES, _SECRET_BYTES = 6, 32


class ApiKey(Record):
    """A key, without its secret."""

    name: str
    id: str = Field(description="The second part of the key, by which it is found.")
    sha256: str = Field(description="Of the whole key. Its secret has 256 random bits: a slow hash would add nothing.")
    scopes: tuple[KeyScope, ...]
    created_at: datetime
    requests_per_second: float | None = Field(default=None, description="None means `serving.requests_per_second`.")


class KeyFile(Record):
    """What the file holds."""

    keys: tuple[ApiKey, ...] = ()


def key_hash(key: bytes) -> bytes:
    """Return what is kept of a key: 32 bytes."""
    return hashlib.sha256(key).digest()


def key_id(key: bytes) -> str:
    """Return the part of a key by which it is found; empty where it is not one of ours."""
    prefix, _, rest = key.partition(b"_")
    name, _, secret = rest.partition(b"_")
    return name.decode("latin-1") if prefix == _PREFIX.encode() and secret else ""


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys; none where the file is not there.

    Raises:
        ConfigError: the file is not a key file, or may not be read.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except (ValidationError, OSError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise ConfigError(
            f"The key file {path} cannot be used ({what}): put it right, or remove it and add the keys again with "
            "`headrace keys add`."
        ) from None


def add_key(
    path: Path,
    name: str,
    *,
    scopes: tuple[KeyScope, ...],
    now: datetime,
    requests_per_second: float | None = None,
) -> str:
    """Make a key and return it; only its hash is kept (file mode 600).

    Raises:
        ConfigError: there is a key of this name, it is no name, or the file cannot be used.
    """
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} is no name for a key: say who will use it, for example `shop`.")
    with _locked(path):
        keys = read_keys(path)
        if any(key.name == name for key in keys):
            raise ConfigError(
                f"There is a key named {name!r} already: name another one, or `headrace keys remove {name}` first."
            )
        identity = secrets.token_hex(_ID_BYTES)
        secret = f"{_PREFIX}_{identity}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(
            name=name,
            id=identity,
            sha256=key_hash(secret.encode()).hex(),
            scopes=scopes,
            created_at=now,
            requests_per_second=requests_per_second,
        )
        _write(path, (*keys, key))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Take a key back.

    Raises:
        ConfigError: there is no key of this name, or the file cannot be used.
    """
    with _locked(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"There is no key named {name!r} (there are: {known}): name one of those.")
        _write(path, left)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one command at a time change the file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    with replacing_file(path) as temporary:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(KeyFile(keys=keys).model_dump_json(indent=2))
