"""Who may call: with a key where there is one, else only from this machine."""

import hmac
import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from bentos.recommender.requests import RequestError

API_KEY_VARIABLE = "HEADRACE_API_KEY"
HEADERS = frozenset({b"authorization", b"x-api-key", b"origin", b"x-forwarded-for", b"forwarded"})
"""Headers that are looked at."""


def check_caller(headers: Mapping[bytes, bytes], host: str, api_key: str | None) -> None:
    """Let a caller in: with the key where there is one, else only from this machine.

    Without a key, a web page from elsewhere must not reach the service through the visitor's browser, nor a stranger
    through a proxy on this machine: a foreign `Origin` and forwarded requests are refused.

    Args:
        headers: Those of `HEADERS` that came, lower-case names.
        host: Address of the peer; empty where it is not known.

    Raises:
        RequestError: 401 or 403.
    """
    if api_key:
        given = given_key(headers)
        if not given:
            raise RequestError(
                401, "The API key is missing: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )
        if not hmac.compare_digest(given, api_key.encode()):
            raise RequestError(401, f"The API key is wrong: send the one that {API_KEY_VARIABLE} holds on the server.")
        return
    if not is_of_this_machine(headers, host):
        raise RequestError(
            403, f"This server has no API key and answers only its own machine: set {API_KEY_VARIABLE} and restart it."
        )


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
