"""Whether a feature column knows what it is to predict: each alone against the label, before and after the cut-off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.features.activity import ACTIVITY_FEATURES

HISTORY_COLUMN = "history_item_ids"
"""Stands for the whole history: items, types and times come from one row."""
_CLOSE = 1e-9


@dataclass(frozen=True)
class ColumnCheck:
    """One column on the sampled rows."""

    association: float
    """Of the values that are trained on, in [0, 1]."""
    association_after: float
    """Of the values as they are once the basket has arrived, in [0, 1]."""
    changed: int
    """Rows in which the basket changes the value."""
    later: int
    """Rows among them in which the trained value is the later one."""

    @property
    def later_share(self) -> float:
        """Share of the changed rows that hold the later value."""
        return self.later / self.changed if self.changed else 0.0


def check_numbers(trained: np.ndarray, before: np.ndarray, after: np.ndarray, basket_sizes: np.ndarray) -> ColumnCheck:
    """Check a column of numbers; the label is whether the basket is larger than the median.

    Args:
        trained: float64 `(n,)`, what the model would be trained on; NaN where nothing is known.
        before: float64 `(n,)`, recomputed just before the basket.
        after: float64 `(n,)`, recomputed once the basket had arrived.
        basket_sizes: int `(n,)`, items of the basket.
    """
    large = basket_sizes > np.median(basket_sizes)
    changed = ~_same_numbers(before, after)
    later = changed & _same_numbers(trained, after)
    return ColumnCheck(separation(trained, large), separation(after, large), int(changed.sum()), int(later.sum()))


def check_histories(
    trained: Sequence[Any], before: Sequence[Any], after: Sequence[Any], baskets: Sequence[frozenset[str]]
) -> ColumnCheck:
    """Check histories; the label is the basket, and a history that ends with just its items knew it.

    Args:
        trained: Histories that the model would be trained on, each `(item ids, event types, event times)`.
        before: Recomputed just before the basket.
        after: Recomputed once the basket had arrived.
        baskets: Items of each basket.
    """
    changed = [b != a for b, a in zip(before, after, strict=True)]
    later = [differs and t == a for differs, t, a in zip(changed, trained, after, strict=True)]
    return ColumnCheck(_told(trained, baskets), _told(after, baskets), sum(changed), sum(later))


def separation(values: np.ndarray, label: np.ndarray) -> float:
    """Return the area under the ROC curve in the better direction, in [0.5, 1]; 0.5 where there is one class only.

    It is the chance that a row of one class, drawn at random, has a larger value than one of the other; ties count
    half. Unknown values (NaN) are below all others.

    Args:
        values: float64 `(n,)`.
        label: bool `(n,)`.
    """
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return 0.5
    _, place, count = np.unique(np.where(np.isnan(values), -np.inf, values), return_inverse=True, return_counts=True)
    mean_rank = (np.cumsum(count) - (count - 1) / 2)[place]
    area = (mean_rank[label].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(area, 1 - area))


def leak_in(column: str, check: ColumnCheck, *, rows: int, max_association: float, max_later_share: float) -> str:
    """Return a sentence that says why the column leaks; empty where it does not."""
    if check.later_share > max_later_share:
        return (
            f"`{column}` holds in {check.later:,} of {check.changed:,} rows the value from after the basket that it is "
            "to predict"
        )
    if check.association > max_association:
        return (
            f"`{column}` alone tells the label in {rows:,} rows too well to be true: {check.association:.3f}, at most "
            f"{max_association:g} is believed"
        )
    return ""


def checked_columns(
    trained: Mapping[str, Sequence[Any]],
    before: Mapping[str, Sequence[Any]],
    after: Mapping[str, Sequence[Any]],
    baskets: Sequence[frozenset[str]],
) -> dict[str, ColumnCheck]:
    """Check every feature column of the training rows.

    Args:
        trained: Columns of the training set by name: `history_item_ids`, `history_event_types`, `history_times` and
            the activity features.
        before: The same columns, recomputed just before the basket.
        after: The same columns, recomputed once the basket had arrived.
        baskets: Items of each basket.
    """
    sizes = np.array([len(basket) for basket in baskets])
    checks = {
        name: check_numbers(_numbers(trained[name]), _numbers(before[name]), _numbers(after[name]), sizes)
        for name in ACTIVITY_FEATURES
    }
    checks[HISTORY_COLUMN] = check_histories(_histories(trained), _histories(before), _histories(after), baskets)
    return checks


def _histories(columns: Mapping[str, Sequence[Any]]) -> list[tuple[Any, Any, Any]]:
    names = (HISTORY_COLUMN, "history_event_types", "history_times")
    return list(zip(*(columns[name] for name in names), strict=True))


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _same_numbers(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.isclose(left, right, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)


def _told(histories: Sequence[Any], baskets: Sequence[frozenset[str]]) -> float:
    """Return the share of the rows whose newest purchases are the basket."""
    told = 0
    for (item_ids, event_types, _), basket in zip(histories, baskets, strict=True):
        bought = [item for item, kind in zip(item_ids, event_types, strict=True) if kind == "purchase"]
        told += frozenset(bought[-len(basket) :]) == basket
    return told / len(baskets) if baskets else 0.0
