"""Does a bundle know what came after the moment up to which it may know? Its tables say so exactly."""

import math
from datetime import datetime

import numpy as np

from pipelines.inference.bundle import Bundle
from pipelines.schemas import Finding

_DAY_S = 86_400
_FAR_S = 4_102_444_800.0
"""The year 2100: later than any event."""
_TOTAL = 2
"""Column of `ItemTrends.at` with the events ever counted."""
_FORGOTTEN = 0.01
"""Share of the popular items whose events may be gone from the tables, because their users were forgotten."""


def look_ahead(bundle: Bundle, until: datetime, counts: np.ndarray, item_ids: list[str]) -> Finding:
    """Compare what the bundle counted with what had happened before `until`.

    Args:
        until: Start of the test window.
        counts: float `(n_items,)`, events of each of `item_ids` before `until`.
    """
    midnight = _DAY_S * math.ceil(until.timestamp() / _DAY_S)
    then, ever = (bundle.trends.at(moment)[:, _TOTAL] for moment in (midnight, _FAR_S))
    later = int(np.count_nonzero(ever > then))
    rows = bundle.rows_of(item_ids)
    known = np.zeros(bundle.n_items, bool)
    known[rows[(rows >= 0) & (counts > 0)]] = True
    popular = bundle.popularity > 0
    unexplained = int(np.count_nonzero(popular & ~known))
    words = []
    if later:
        words.append(
            f"its trends count events of {later:,} items from {until:%Y-%m-%d} on, when the test window begins"
        )
    if unexplained > _FORGOTTEN * np.count_nonzero(popular):
        words.append(f"{unexplained:,} items are popular in it without an event before {until:%Y-%m-%d}")
    if words:
        return Finding(name="look ahead", passed=False, words=f"the bundle knows the future: {'; '.join(words)}")
    return Finding(name="look ahead", passed=True, words="the bundle's tables know nothing of the test window")
