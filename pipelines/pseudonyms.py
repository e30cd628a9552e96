"""Pseudonyms: no raw user id is ever written, logged or sent to a store."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from pipelines.errors import ConfigError

KEY_VARIABLE = "HEADRACE_PSEUDONYM_KEY"
MIN_KEY_BYTES = 16
_FINGERPRINT_TEXT = b"headrace: fingerprint of the pseudonym key"
"""Longer than 16 digits of it are never kept, and no user id reads like this."""


class Pseudonymizer:
    """Turns raw user ids into stable pseudonyms with a keyed hash."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ConfigError(
                f"The pseudonym key has {len(key)} bytes, at least {MIN_KEY_BYTES} are needed: "
                f"set {KEY_VARIABLE} to a longer secret, for example from `openssl rand -hex 32`."
            )
        self._key = key

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell one key from another and do not give it away."""
        return hmac.new(self._key, _FINGERPRINT_TEXT, hashlib.sha256).hexdigest()[:16]

    def derived_key(self, purpose: str) -> bytes:
        """Return 32 secret bytes for another purpose, the same wherever the key is the same.

        No pseudonym gives them away: it is cut to half of them.
        """
        return hmac.new(self._key, b"headrace: key for " + purpose.encode(), hashlib.sha256).digest()

    def require_key_of(self, tables: str | None, where: Path) -> None:
        """Refuse another key than that of the tables: every known user would become a stranger.

        Args:
            tables: Fingerprint of the key that the tables were written with; None where it is not known.
            where: The tables' folder.

        Raises:
            ConfigError: the keys differ.
        """
        if tables is not None and tables != self.fingerprint:
            raise ConfigError(
                f"The pseudonym key has the fingerprint {self.fingerprint}, but the tables in {where} were written "
                f"with the key of fingerprint {tables}: set {KEY_VARIABLE} to that key or put its file back."
            )

    def pseudonym(self, raw_user_id: str) -> str:
        """Return 32 hex digits that stand for the user.

        Source: HMAC-SHA256 (RFC 2104), cut to 128 bits.
        """
        return hmac.new(self._key, raw_user_id.encode(), hashlib.sha256).hexdigest()[:32]


def require_key_of_tables(pseudonymizer: Pseudonymizer, tables: Path) -> None:
    """Refuse another key than that of the tables, where there are tables; a service may run without them.

    Args:
        tables: The tables' folder. Only its manifest is read, and without DuckDB.

    Raises:
        ConfigError: the keys differ.
    """
    try:
        manifest = json.loads((tables / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a broken manifest is for the steps to complain about
        return
    pseudonymizer.require_key_of(manifest.get("pseudonym_key"), tables)


def load_pseudonym_key(key_file: Path, *, create: bool, environment: Mapping[str, str] = os.environ) -> bytes:
    """Read the key from `HEADRACE_PSEUDONYM_KEY`, else from `key_file`.

    Args:
        create: Make a random key (file mode 600) where there is none. Only right while no table
            exists: with another key, every known user would become a stranger.

    Raises:
        ConfigError: there is no key and `create` is false, or the key is too short.
    """
    if value := environment.get(KEY_VARIABLE):
        return value.encode()
    if key_file.exists():
        return key_file.read_bytes().strip()
    if not create:
        raise ConfigError(
            f"The pseudonym key is missing: {KEY_VARIABLE} is not set and {key_file} does not exist. "
            f"The tables here were written with a key: set {KEY_VARIABLE} to it or put the file back."
        )
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = secrets.token_hex(32).encode()
    try:
        handle = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was first
        return key_file.read_bytes().strip()
    with os.fdopen(handle, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key
