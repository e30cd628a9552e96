"""Cursors: where the next page of an answer begins. They hold no text and no id, and are signed.

A cursor carries a mark of every item that its list has shown, so a page is the best of what was not shown yet: no item
comes twice and none is skipped, even if events, other rules or another bundle change the order in between. Nothing is
kept on the server, and every worker with the same key reads it.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import orjson

from bentos.recommender.contract.requests import AnswerBody, RequestError
from pipelines.config import AnswerCall

_VERSION = b"\x01"
_MARK = 6
"""Bytes that stand for an item: among 1,000 shown and 1,000 others, two are alike once in 280 million lists."""
_BUNDLE, _QUESTION, _SIGNATURE = 8, 8, 16
_HEAD = len(_VERSION) + _BUNDLE + _QUESTION
_IN_ORDER = orjson.OPT_SORT_KEYS
_NOT_OURS = (
    "`cursor` is not one that this service gave: send the `cursor` of the answer before, unchanged, or leave it out to "
    "begin anew."
)
_OTHER_QUESTION = (
    "`cursor` belongs to another question: send it with the same fields as before (only `k` may differ), or leave it "
    "out to begin anew."
)
_ASKED = {
    "search": ("context", "query", "user_id"),
    "recommend": ("context", "user_id", "seed_items"),
    "similar": ("context", "item_id", "kind", "other_categories"),
}
"""Fields of each call, beside the filters, that decide what is found."""


@dataclass(frozen=True)
class Position:
    """Where a page begins."""

    marks: bytes = b""
    """Marks of the items on earlier pages, one after the other."""
    bundle: bytes | None = None
    """Mark of the bundle of the page before; None on the first page."""

    @property
    def n_shown(self) -> int:
        """Number of items on earlier pages."""
        return len(self.marks) // _MARK

    def shown(self) -> frozenset[bytes]:
        """Return the marks of the items on earlier pages."""
        return frozenset(self.marks[start : start + _MARK] for start in range(0, len(self.marks), _MARK))


BEGINNING = Position()


@lru_cache(maxsize=16_384)
def item_mark(item_id: str) -> bytes:
    """Return what stands for an item."""
    return hashlib.blake2b(item_id.encode(), digest_size=_MARK).digest()


def bundle_mark(bundle_id: str) -> bytes:
    """Return what stands for a bundle."""
    return hashlib.blake2b(bundle_id.encode(), digest_size=_BUNDLE).digest()


class Cursors:
    """Writes and reads cursors."""

    def __init__(self, key: bytes) -> None:
        """Take a secret key of 16 to 64 bytes."""
        self._key = key

    def question(self, call: AnswerCall, body: AnswerBody) -> bytes:
        """Return what stands for all that a cursor is bound to: the call and the fields that decide what is found."""
        filters = body.filters.model_dump() if body.filters is not None else None
        text = orjson.dumps([call, filters, *(getattr(body, name) for name in _ASKED[call])], option=_IN_ORDER)
        return hashlib.blake2b(text, key=self._key, digest_size=_QUESTION).digest()

    def write(self, question: bytes, bundle_id: str, before: Position, item_ids: Iterable[str]) -> str:
        """Return the cursor of the page behind `item_ids`."""
        head = _VERSION + bundle_mark(bundle_id) + question
        payload = head + before.marks + b"".join(map(item_mark, item_ids))
        return base64.urlsafe_b64encode(payload + self._signature(payload)).rstrip(b"=").decode()

    def read(self, text: str | None, question: bytes) -> Position:
        """Return where a page begins; without a cursor, at the beginning.

        Raises:
            RequestError: 422, the cursor was changed, is another service's, or belongs to another question.
        """
        if text is None:
            return BEGINNING
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(422, _NOT_OURS) from None
        payload, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        sound = len(payload) >= _HEAD and (len(payload) - _HEAD) % _MARK == 0 and payload[:1] == _VERSION
        if not sound or not hmac.compare_digest(signature, self._signature(payload)):
            raise RequestError(422, _NOT_OURS)
        if payload[1 + _BUNDLE : _HEAD] != question:
            raise RequestError(422, _OTHER_QUESTION)
        return Position(marks=payload[_HEAD:], bundle=payload[1 : 1 + _BUNDLE])

    def _signature(self, payload: bytes) -> bytes:
        return hashlib.blake2b(payload, key=self._key, digest_size=_SIGNATURE).digest()
