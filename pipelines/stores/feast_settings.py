"""How Feast is imported and set up: the same for the steps and for the service."""

import json
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from pipelines.config import FeatureStoreConfig
from pipelines.errors import ConfigError
from pipelines.stores.offline_engine import EMBEDDED, engine_settings

ONLINE_STORE_VARIABLE = "HEADRACE_ONLINE_STORE"
PROJECT = "headrace"
_SERVING_TIMEOUT_S = 2.0
"""Longest wait of the service for Redis: then a thread that asked one which hangs is free again."""


def import_feast() -> ModuleType:
    """Import Feast, without torch and without the instrumentation of its run-time type checks.

    Feast imports torch where it is installed (for image search, which we do not use): that would put 190 MB
    into the service. And it decorates 19 classes with `typeguard.typechecked`, which takes 5 of its 7 seconds.
    Both are switched off only while Feast is imported.
    """
    if "feast" in sys.modules:
        return sys.modules["feast"]
    import typeguard

    os.environ.setdefault("FEAST_USAGE", "False")
    blocked = "torch" not in sys.modules
    original = typeguard.typechecked

    def unchecked(target: Any = None, **_: Any) -> Any:
        return target if target is not None else unchecked

    try:
        if blocked:
            sys.modules["torch"] = None  # type: ignore[assignment]
        typeguard.typechecked = unchecked
        import feast
        import feast.infra.offline_stores.duckdb
        import feast.infra.online_stores.sqlite
    finally:
        typeguard.typechecked = original
        if blocked:
            del sys.modules["torch"]
    return feast


def online_store_settings(feast_dir: Path, address: str | None, timeout_s: float | None = None) -> dict[str, Any]:
    """Return Feast's `online_store` settings for an address such as `redis://:secret@host:6379/0`.

    Args:
        address: None or empty for SQLite below `feast_dir`; `redis://` or `rediss://` (TLS) for Redis.
        timeout_s: Longest wait for Redis, seconds; by itself Feast waits for a server that hangs until it ends.

    Raises:
        ConfigError: the address is of another kind, or its secret cannot be passed on.
    """
    if not address:
        return {"type": "sqlite", "path": str(feast_dir.resolve() / "online.db")}
    parts = urlsplit(address)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ConfigError(
            f"{ONLINE_STORE_VARIABLE} is an address with the scheme {parts.scheme!r}: write redis://host:6379/0 "
            "(or rediss:// for TLS), or leave it unset for SQLite."
        )
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if "," in username + password or _is_changed_by_feast(username) or _is_changed_by_feast(password):
        raise ConfigError(
            f"The user name or the password in {ONLINE_STORE_VARIABLE} has a comma, or reads as JSON, which Feast "
            "cannot pass on to Redis: choose another one."
        )
    settings = [f"{parts.hostname}:{parts.port or 6379}", f"db={parts.path.strip('/') or 0}"]
    if username:
        settings.append(f"username={username}")
    if password:
        settings.append(f"password={password}")
    if parts.scheme == "rediss":
        settings.append("ssl=true")
    if timeout_s is not None:
        settings += [f"socket_timeout={timeout_s:g}", f"socket_connect_timeout={timeout_s:g}"]
    # By itself Feast drops a row that is not newer by event time than the one it has, and a late event makes such a
    # row. SQLite takes every row; with this so does Redis.
    return {"type": "redis", "connection_string": ",".join(settings), "skip_dedup": True}


def _is_changed_by_feast(secret: str) -> bool:
    """Whether Feast, which reads every setting as JSON where it can, would make something else of it (`1e5`)."""
    try:
        return str(json.loads(secret)) != secret
    except ValueError:
        return False


def online_store_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Read `HEADRACE_ONLINE_STORE`; None means SQLite."""
    return environment.get(ONLINE_STORE_VARIABLE) or None


def open_feature_store(
    feast_dir: Path,
    online_store: str | None,
    *,
    serving: bool = False,
    engine: FeatureStoreConfig = EMBEDDED,
) -> Any:
    """Return a `feast.FeatureStore` on the registry and online store below `feast_dir`.

    Args:
        engine: What joins and materializes. The service does neither.
        serving: Read the registry once and keep it. Otherwise Feast reads it again whenever the file changes, and
            while a step materializes a view it marks it there as one that may not be read (Feast 0.67): every
            materialization would interrupt the service.
    """
    feast = import_feast()
    feast_dir.mkdir(parents=True, exist_ok=True)
    # Definitions change only when they are applied: what was read never expires by itself.
    registry = {"path": str(feast_dir.resolve() / "registry.db"), "cache_ttl_seconds": 0}
    if serving:
        registry |= {"cache_mode": "thread", "serve_features_while_materializing": True}
    with _without_advice():
        config = feast.RepoConfig(
            project=PROJECT,
            provider="local",
            registry=registry,
            **engine_settings(engine),
            online_store=online_store_settings(feast_dir, online_store, _SERVING_TIMEOUT_S if serving else None),
            # SQLite has one writer: between two batches the service gets its turn to push.
            materialization={"online_write_batch_size": 1_000},
            entity_key_serialization_version=3,
            repo_path=feast_dir.resolve(),
        )
        store = feast.FeatureStore(config=config)
        _ = store.registry  # the settings of the registry are looked at only now
        return store


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hold back Feast's warning that serving while materializing is meant for SQL registries; it works with ours."""
    logger = logging.getLogger("feast.repo_config")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def do_not_wait_to_retry(provider: Any, config: Any) -> None:
    """Let a Redis client ask once more at once, because the server may have been restarted, and then give up.

    By itself it asks three times more, and waits up to ten seconds in between.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    provider.online_store._get_client(config.online_store).set_retry(Retry(NoBackoff(), 1))


def store_errors() -> tuple[type[Exception], ...]:
    """Return what an online store raises when it does not answer."""
    import redis

    return (sqlite3.Error, OSError, redis.exceptions.RedisError)
