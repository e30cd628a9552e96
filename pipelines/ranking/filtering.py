"""Filtering: which items may be shown at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import Bundle

_NOTHING = np.empty(0, np.int32)


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
        for names, groups in ((filters.categories, bundle.category_rows), (filters.brands, bundle.brand_rows)):
            if names:
                named = np.zeros(len(allowed), bool)
                for name in {name.casefold() for name in names}:
                    named[groups.get(name, _NOTHING)] = True
                allowed &= named
        for name in filters.excluded_categories:
            allowed[bundle.category_rows.get(name.casefold(), _NOTHING)] = False
        if filters.min_price is not None:
            allowed &= bundle.prices >= filters.min_price
        if filters.max_price is not None:
            allowed &= bundle.prices <= filters.max_price
    if len(excluded_rows):
        allowed[np.asarray(excluded_rows, np.int64)] = False
    return allowed
