"""From ranks to metrics: the values of every row, its slices, and what the lists are like."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.evaluation.beyond_accuracy import coverage, diversity, gini, novelty_bits, popularity_ranks
from pipelines.evaluation.ranked import AskedRows, RankedRows, row_metrics, row_numbers
from pipelines.evaluation.slices import (
    COLD_EVENTS,
    HEAD_SHARE,
    LONG_HISTORY,
    SHORT_HISTORY,
    history_slices,
    target_slices,
)

NEXT_BASKET = "next_basket."
"""Prefix of the metrics of the second table, in which items that the user had bought before count too."""
SLICED = ("recall@10", "ndcg@10")
"""Metrics that are also given for each slice, as `<slice>.<metric>`."""
SLICES = (*target_slices(np.zeros(1)), *history_slices(np.zeros(1)))
LIST_VALUES = {"coverage": "", "novelty": "bit", "diversity": "", "gini": "", "popularity_rank": ""}
"""What is said of the ten items shown, with the unit."""
SLICE_NOTES = (
    f"Cold items have {COLD_EVENTS} known events or fewer, tail items are those outside the head that makes "
    f"{HEAD_SHARE:.0%} of the events; only targets of the slice count. Short histories have {SHORT_HISTORY} events or "
    f"fewer, long ones more than {LONG_HISTORY}.",
    "Of the ten items shown: coverage is the share of the catalogue in any list; novelty the mean −log2 of an item's "
    "share of the events; diversity the mean 1 − cosine of the untouched encoder's vectors in a list; gini is 0 where "
    "all items are shown equally often; popularity_rank 1 is the most popular item.",
)


@dataclass(frozen=True)
class RowValues:
    """What turns ranks into metrics, the same for every case."""

    rows: AskedRows
    history_lengths: np.ndarray
    """int64 `(n,)`, known events of the user of each row."""
    counts: np.ndarray
    """float32 `(n_items,)`, known events of each item."""
    vectors: np.ndarray
    """float32 `(n_items, dim)` of the items' texts by the untouched encoder, each row L2 norm 1."""
    item_slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further slices of items, such as a category: bool `(n_items,)` each."""

    def metrics(self, ranked: RankedRows) -> dict[str, np.ndarray]:
        """Return each metric, for new items, for the whole basket and for the slices of new items.

        Returns:
            float64 `(n,)` each, NaN for a row without a target that counts.
        """
        rows, n = self.rows, len(self.rows)
        new_rows = row_numbers(rows.new_targets)
        new_items = np.concatenate([*rows.new_targets, np.empty(0, np.int64)]).astype(np.int64)
        found = row_metrics(ranked.new, new_rows, n)
        every = row_metrics(ranked.every, row_numbers(rows.targets), n)
        values = {**found, **{NEXT_BASKET + name: value for name, value in every.items()}}
        for name, kept in {**target_slices(self.counts), **self.item_slices}.items():
            inside = (new_items >= 0) & kept[new_items]
            sliced = row_metrics(ranked.new[inside], new_rows[inside], n)
            values |= {f"{name}.{metric}": sliced[metric] for metric in SLICED}
        for name, chosen in history_slices(self.history_lengths).items():
            values |= {f"{name}.{metric}": np.where(chosen, found[metric], np.nan) for metric in SLICED}
        return values

    def lists(self, ranked: RankedRows) -> dict[str, np.ndarray]:
        """Return `LIST_VALUES`, float64: one value a row `(n,)`, or one for all of them `()`."""
        top, n_items = ranked.top, len(self.counts)
        return {
            "coverage": np.asarray(coverage(top, n_items)),
            "novelty": novelty_bits(top, self.counts),
            "diversity": diversity(top, self.vectors),
            "gini": np.asarray(gini(top, n_items)),
            "popularity_rank": popularity_ranks(top, self.counts),
        }
