"""Items that come in: checked by the rules of the tables, on the disk, then in every answer.

What is accepted stays in the items table after the next ingestion, so nothing is let in here that validation would set
aside there.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bentos.recommender.contract.requests import DeleteItemBody, ItemBody, ItemsBody, RequestError
from pipelines.config import ValidationConfig
from pipelines.errors import DataError, StoreError
from pipelines.stores.item_log import DELETED, ItemLog
from pipelines.validation.rules import text_columns

_logger = logging.getLogger("headrace.serving")


class ItemIntake:
    """Takes items in, and takes them back."""

    def __init__(
        self, *, log: ItemLog, changed: Callable[[], None], max_items: int, validation: ValidationConfig
    ) -> None:
        """Take the log, and what to call when something is in it."""
        self._log = log
        self._changed = changed
        self._max_items = max_items
        self._max_price = validation.max_price
        self._lengths = text_columns("items", validation)
        self._max_attributes = validation.max_description_characters

    def put(self, body: ItemsBody) -> int:
        """Keep items as they are now; return how many.

        Raises:
            RequestError: 422 where an item is wrong, 503 where they cannot be kept.
        """
        limit = self._max_items
        if len(body.items) > limit:
            raise RequestError(
                422, f"`items` has {len(body.items):,} items, at most {limit:,} are allowed: send them in parts."
            )
        for index, item in enumerate(body.items):
            self._require_rules(item, f"items.{index}")
        return self._keep([item.model_dump() for item in body.items])

    def delete(self, body: DeleteItemBody) -> int:
        """Take an item back; return 1, also for one that nobody knows: it may be on its way from elsewhere.

        Raises:
            RequestError: 422 where it is no id, 503 where it cannot be kept.
        """
        _require_id(body.item_id, "item_id")
        if "\0" in body.item_id:
            raise RequestError(422, "`item_id` holds a NUL character: send the id of an item.")
        return self._keep([{"item_id": body.item_id, DELETED: True}])

    def _keep(self, changes: Sequence[Mapping[str, Any]]) -> int:
        try:
            stored = self._log.append(changes)
        except DataError as error:
            raise RequestError(422, str(error)) from error
        except StoreError as error:
            _logger.error("%s", error)
            raise RequestError(503, str(error)) from error
        self._changed()
        return len(stored)

    def _require_rules(self, item: ItemBody, where: str) -> None:
        """Refuse what the rules of the items table would set aside.

        Raises:
            RequestError: 422.
        """
        values = item.model_dump()
        for name, most in self._lengths.items():
            text = values[name] or ""
            if len(text) > most:
                raise RequestError(
                    422, f"`{where}.{name}` has {len(text):,} characters, at most {most:,} are allowed: shorten it."
                )
        _require_id(item.item_id, f"{where}.item_id")
        if not item.title.strip():
            raise RequestError(422, f"`{where}.title` is blank: send what the item is called.")
        if item.price is not None and item.price > self._max_price:
            raise RequestError(
                422,
                f"`{where}.price` is {item.price:g}, at most {self._max_price:g} is believed: mend it, or raise "
                "`validation.max_price`.",
            )
        pairs = item.attributes or {}
        size = sum(len(name) + len(value) + len("=, ") for name, value in pairs.items())
        if size > self._max_attributes:
            raise RequestError(
                422, f"`{where}.attributes` have {size:,} characters, at most {self._max_attributes:,}: send fewer."
            )
        texts = [values[name] or "" for name in self._lengths] + [text for pair in pairs.items() for text in pair]
        if any("\0" in text for text in texts):
            raise RequestError(422, f"`{where}` holds a NUL character: leave it out.")


def _require_id(value: str, where: str) -> None:
    if not value.strip():
        raise RequestError(422, f"`{where}` is blank: send the id of an item.")
