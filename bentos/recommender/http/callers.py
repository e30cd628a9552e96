"""Who may call, what for, and how often: with a key where there are keys, else only from this machine."""

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from bentos.recommender.contract.requests import RequestError
from bentos.recommender.file_stamp import file_stamp
from bentos.recommender.telemetry import metrics
from pipelines.errors import ConfigError
from pipelines.stores.api_keys import ApiKey, KeyScope, key_hash, key_id, read_keys

API_KEY_VARIABLE = "HEADRACE_API_KEY"
HEADERS = frozenset({b"authorization", b"x-api-key", b"origin", b"x-forwarded-for", b"forwarded"})
"""Headers that are looked at."""
_LOOK_INTERVAL_S = 0.5
_ENVIRONMENT = "environment"
_logger = logging.getLogger("headrace.serving")


class RateLimitedError(RequestError):
    """A caller asks more often than its key allows."""

    def __init__(self, rate: float, retry_after_s: float) -> None:
        super().__init__(
            429, f"This key may send {rate:g} requests a second: wait for the seconds that Retry-After gives."
        )
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class KnownKey:
    """A key as requests are held against it."""

    id: str
    digest: bytes
    """SHA-256 of the key."""
    scopes: frozenset[KeyScope]
    requests_per_second: float | None


@dataclass
class TokenBucket:
    """Requests that a key has left; safe in one event loop."""

    per_second: float
    burst: float
    left: float = field(init=False)
    at: float | None = None

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, now: float) -> float:
        """Take one; return 0, or after how many seconds there is one."""
        if self.at is not None:
            self.left = min(self.burst, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) / self.per_second


class Callers:
    """Lets callers in, or not; a change of the key file counts within a second."""

    def __init__(
        self,
        key_file: Path | None = None,
        environment_key: str | None = None,
        *,
        requests_per_second: float | None = None,
        burst_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the keys.

        Args:
            key_file: What `headrace keys` writes; it need not be there.
            environment_key: `HEADRACE_API_KEY`: it may do everything but administer.
            requests_per_second: Of each key that has no limit of its own; None means no limit.
            burst_seconds: What a key did not use of so many seconds, it may use at once.

        Raises:
            ConfigError: the key file cannot be used.
        """
        self._file = key_file
        self._own = _environment_key(environment_key, requests_per_second) if environment_key else None
        self._rate = requests_per_second
        self._burst_seconds = burst_seconds
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._stamp = file_stamp(key_file) if key_file else None
        self._keys = self._known(read_keys(key_file) if key_file else ())
        self._is_gone = False
        """Whether there was a key file, and it was taken away: nobody said that keys are not wanted any more."""
        self._look_at = clock() + _LOOK_INTERVAL_S

    def admit(self, headers: Mapping[bytes, bytes], host: str, scope: KeyScope | None, call: str) -> None:
        """Let a caller in.

        Without a key, a web page from elsewhere must not reach the service through the visitor's browser, nor a
        stranger through a proxy on this machine: a foreign `Origin` and forwarded requests are refused.

        Args:
            headers: Those of `HEADERS` that came, lower-case names.
            host: Address of the peer; empty where it is not known.
            scope: What the key has to allow; None means that any key will do.
            call: For the metrics.

        Raises:
            RequestError: 401, 403 or 429.
        """
        now = self._clock()
        if now >= self._look_at:
            self._look(now)
        if not self._keys and self._own is None and not self._is_gone:
            if not is_of_this_machine(headers, host):
                raise _refused(
                    "no_keys",
                    403,
                    "This server has no API key and answers only its own machine: add one with "
                    f"`headrace keys add NAME`, or set {API_KEY_VARIABLE} and restart it.",
                )
            return
        key = self._key_of(given_key(headers))
        if scope is not None and scope not in key.scopes:
            raise _refused(
                "scope",
                403,
                f"This key may {' and '.join(sorted(key.scopes)) or 'do nothing'}, and not {scope}, which this call "
                f"needs: send one that may (`headrace keys add NAME --scope {scope}` makes one).",
            )
        if key.requests_per_second is not None:
            self._limit(key, key.requests_per_second, now, call)

    def _key_of(self, given: bytes) -> KnownKey:
        if not given and not self._is_gone:
            raise _refused(
                "no_key_given",
                401,
                "The API key is missing: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
            )
        known, digest = self._keys.get(key_id(given)), key_hash(given)
        for key in (known, self._own):
            if key is not None and hmac.compare_digest(digest, key.digest):
                return key
        if self._is_gone:
            raise _refused(
                "keys_gone",
                403,
                "The server's key file was taken away while it ran, and it answers nobody until it is back: put it "
                "back, add a key with `headrace keys add NAME`, or restart the server to answer its own machine alone.",
            )
        raise _refused(
            "wrong_key",
            401,
            f"The API key is wrong: send one that `headrace keys add` made, or that {API_KEY_VARIABLE} holds on the "
            "server.",
        )

    def _limit(self, key: KnownKey, rate: float, now: float, call: str) -> None:
        bucket = self._buckets.get(key.id)
        if bucket is None:
            bucket = self._buckets[key.id] = TokenBucket(rate, max(rate * self._burst_seconds, 1.0))
        if wait_s := bucket.take(now):
            metrics.RATE_LIMITED.labels(call).inc()
            raise RateLimitedError(rate, wait_s)

    def _look(self, now: float) -> None:
        """Read the key file again where it is another one.

        A broken one leaves the keys as they are, one that was taken away leaves none and lets nobody in.
        """
        self._look_at = now + _LOOK_INTERVAL_S
        if self._file is None or (stamp := file_stamp(self._file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = read_keys(self._file)
        except ConfigError as error:
            _logger.error("%s Until then the keys are those from before.", error)
            return
        self._keys = self._known(keys)
        if gone := not self._file.exists():
            _logger.error("The key file %s was taken away: nobody is answered until it is back.", self._file)
        self._is_gone = gone
        self._buckets = {
            name: bucket for name, bucket in self._buckets.items() if name in self._keys or name == _ENVIRONMENT
        }

    def _known(self, keys: tuple[ApiKey, ...]) -> dict[str, KnownKey]:
        return {
            key.id: KnownKey(
                key.id, bytes.fromhex(key.sha256), frozenset(key.scopes), key.requests_per_second or self._rate
            )
            for key in keys
        }


def _environment_key(key: str, requests_per_second: float | None) -> KnownKey:
    return KnownKey(_ENVIRONMENT, key_hash(key.encode()), frozenset({"serve", "write"}), requests_per_second)


def _refused(why: str, status: int, sentence: str) -> RequestError:
    metrics.REFUSED.labels(why).inc()
    return RequestError(status, sentence)


def given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key that came with a request; empty where none came."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def is_of_this_machine(headers: Mapping[bytes, bytes], host: str) -> bool:
    """Whether a request comes from this machine itself, and not through a proxy or for a web page from elsewhere."""
    if b"x-forwarded-for" in headers or b"forwarded" in headers or not is_loopback(host):
        return False
    origin = headers.get(b"origin")
    return origin is None or is_loopback(_host_of(origin))


def _host_of(origin: bytes) -> str:
    try:
        return urlsplit(origin.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=1_024)
def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
