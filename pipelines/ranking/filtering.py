"""Filtering: which items may be shown at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures

_DAY_S = 86_400


@dataclass(frozen=True)
class Filters:
    """What an answer is limited to; empty or null limits nothing."""

    categories: tuple[str, ...] = ()
    """Category names, upper and lower case alike."""
    brands: tuple[str, ...] = ()
    """Brand names, upper and lower case alike."""
    min_price: float | None = None
    """In the item's currency; items without a price are left out where a price is asked for."""
    max_price: float | None = None
    excluded_categories: tuple[str, ...] = ()
    """Category names whose items are left out, upper and lower case alike."""


def allowed_items(
    bundle: Bundle, filters: Filters | None = None, excluded_rows: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """Return bool `(n_items,)`: available, matching the filters and not excluded."""
    allowed = bundle.available.copy()
    if filters is not None:
        for names, (numbers, codes) in ((filters.categories, bundle.categories), (filters.brands, bundle.brands)):
            if names:
                wanted = [numbers[name.casefold()] for name in names if name.casefold() in numbers]
                allowed &= np.isin(codes, wanted)
        if filters.excluded_categories:
            numbers, codes = bundle.categories
            allowed &= ~np.isin(codes, [numbers.get(name.casefold(), -2) for name in filters.excluded_categories])
        if filters.min_price is not None:
            allowed &= bundle.prices >= filters.min_price
        if filters.max_price is not None:
            allowed &= bundle.prices <= filters.max_price
    if len(excluded_rows):
        allowed[np.asarray(excluded_rows, np.int64)] = False
    return allowed


def recently_purchased(bundle: Bundle, features: UserFeatures, now_s: float, days: float) -> np.ndarray:
    """Return int64 `(n,)`, rows of known items that the user bought within so many days before `now_s`."""
    if days <= 0:
        return np.empty(0, np.int64)
    oldest = now_s - days * _DAY_S
    bought = [
        item_id
        for item_id, event_type, time in zip(features.item_ids, features.event_types, features.event_times, strict=True)
        if event_type == "purchase" and time >= oldest
    ]
    rows = bundle.rows_of(bought)
    return np.unique(rows[rows >= 0])
