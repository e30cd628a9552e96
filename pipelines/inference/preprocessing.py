"""How texts and behaviour become model inputs: one definition for training and for serving, stored in the bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

PADDING_EVENT = ""
"""Event type number 0: padding, and types that the model never saw."""


class UserFeatures(Protocol):
    """What the online store knows about one user; histories are oldest first."""

    @property
    def item_ids(self) -> Sequence[str]:
        """Items of the newest events."""
        ...

    @property
    def event_types(self) -> Sequence[str]:
        """Type of each event."""
        ...

    @property
    def event_times(self) -> Sequence[int]:
        """Time of each event, epoch seconds."""
        ...

    @property
    def activity(self) -> Mapping[str, float | None]:
        """Activity features by name; null where nothing is known."""
        ...


class Frozen(BaseModel):
    """Base of what is stored as JSON in a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RecommendFusion(Frozen):
    """Weights of the generators in a recommendation; each generator's scores lie in [0, 1]."""

    dense: float = Field(default=0.5, ge=0)
    item_to_item: float = Field(default=0.4, ge=0)
    popularity: float = Field(default=0.1, ge=0)


class SearchFusion(Frozen):
    """Weights of the generators in a search; each generator's scores lie in [0, 1]."""

    dense: float = Field(default=0.6, ge=0)
    lexical: float = Field(default=0.4, ge=0)


class Fusion(Frozen):
    """How generator scores add up."""

    recommend: RecommendFusion = RecommendFusion()
    search: SearchFusion = SearchFusion()


class RankerSettings(Frozen):
    """What the learned ranker of a bundle was trained on."""

    features: tuple[str, ...]
    """Names of its features, in the order of its input."""
    heads: tuple[str, ...]
    """Names of its outputs, in their order."""
    head_weights: dict[str, float]
    """Weight of each head in the score."""
    per_generator: int = Field(default=100, ge=1)
    """Candidates taken from each generator."""


TOWER_HISTORY = 50
"""Newest events that the user tower and the neighbor tables look at."""


class Preprocessing(Frozen):
    """Everything that must be the same when the model is trained and when it answers."""

    max_tokens: int = Field(default=32, ge=2)
    """Tokens kept of a text."""
    max_history: int = Field(default=TOWER_HISTORY, ge=1)
    """Newest events that the user tower sees."""
    event_types: tuple[str, ...] = (PADDING_EVENT, "view", "click", "cart", "purchase", "rating")
    """Event types by number; number 0 is padding and unknown types."""
    gap_bucket_edges_s: tuple[int, ...] = (
        3_600,
        21_600,
        86_400,
        2 * 86_400,
        4 * 86_400,
        7 * 86_400,
        14 * 86_400,
        28 * 86_400,
        56 * 86_400,
        112 * 86_400,
        224 * 86_400,
    )
    """Upper ends of the age buckets of an event, seconds, rising; there is one bucket more than edges."""
    activity_features: tuple[str, ...] = ()
    """Names of the activity features in the order of the vector; empty: the model uses none."""
    history_decay: float = Field(default=0.9, gt=0, le=1)
    """Weight of a basket relative to the next newer one in the item-to-item generator."""
    fusion: Fusion = Fusion()
    ranker: RankerSettings | None = None
    """The learned ranker of recommendations; None where there were too few rows to learn from."""
    search_ranker: RankerSettings | None = None
    """The learned ranker of search; None where there were too few judged queries to learn from."""

    @model_validator(mode="after")
    def _check(self) -> "Preprocessing":
        if not self.event_types or self.event_types[0] != PADDING_EVENT:
            raise ValueError("event_types[0] must be '' (padding and unknown types)")
        if list(self.gap_bucket_edges_s) != sorted(set(self.gap_bucket_edges_s)):
            raise ValueError("gap_bucket_edges_s must rise")
        return self

    @property
    def n_gap_buckets(self) -> int:
        """Number of age buckets."""
        return len(self.gap_bucket_edges_s) + 1

    def event_type_numbers(self, event_types: Sequence[str]) -> np.ndarray:
        """Return int64 `(n,)` numbers of the event types; 0 for a type that the model never saw."""
        return np.fromiter(map(self._event_numbers.get, event_types, repeat(0)), np.int64, len(event_types))

    def gap_buckets(self, event_times: Sequence[int] | np.ndarray, now_s: float) -> np.ndarray:
        """Return int64 `(n,)` age buckets of the events at `now_s` (epoch seconds)."""
        ages = now_s - np.asarray(event_times, np.float64)
        return self._gap_edges_s.searchsorted(np.maximum(ages, 0.0, out=ages)).astype(np.int64, copy=False)

    def same_buckets(self, event_times: np.ndarray, now_s: float) -> tuple[float, float]:
        """Return between which moments no event, at least one, changes its age bucket: after the one, up to the other.

        Args:
            event_times: int64 `(n,)`, epoch seconds.
        """
        edges, buckets = self._open_edges_s, self.gap_buckets(event_times, now_s)
        begins = event_times + edges.take(buckets)
        buckets += 1
        ends = event_times + edges.take(buckets)
        return float(begins.max()), float(ends.min())

    @cached_property
    def _event_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.event_types)}

    @cached_property
    def _gap_edges_s(self) -> np.ndarray:
        return np.asarray(self.gap_bucket_edges_s, np.float64)

    @cached_property
    def _open_edges_s(self) -> np.ndarray:
        return np.array([-np.inf, *self.gap_bucket_edges_s, np.inf])


@dataclass(frozen=True)
class BehaviorBatch:
    """Inputs of the user tower for `b` users; events are oldest first, at the left, padded at the right."""

    item_rows: np.ndarray
    """int64 `(b, t)`, row numbers of the items, −1 where padded."""
    event_types: np.ndarray
    """int64 `(b, t)`, 0 where padded."""
    gap_buckets: np.ndarray
    """int64 `(b, t)`, 0 where padded."""
    mask: np.ndarray
    """float32 `(b, t)`, 1 where there is an event."""


def behavior_batch(
    histories: Sequence[tuple[np.ndarray, Sequence[str], Sequence[int]]],
    now_s: Sequence[float] | np.ndarray,
    preprocessing: Preprocessing,
) -> BehaviorBatch:
    """Arrange histories as the user tower wants them.

    Events of unknown items (row −1) are dropped, then the newest `max_history` are kept. `t` is the longest
    history of the batch, at least 1.

    Args:
        histories: For each user: item row numbers int64 `(n,)`, event types and event times (epoch seconds),
            oldest first.
        now_s: `(b,)` the moment of each prediction, epoch seconds.
    """
    kept = []
    for rows, event_types, event_times in histories:
        known = np.flatnonzero(rows >= 0)[-preprocessing.max_history :]
        kept.append((rows, event_types, event_times, known))
    length = max((len(known) for *_, known in kept), default=0) or 1
    shape = (len(kept), length)
    batch = BehaviorBatch(
        item_rows=np.full(shape, -1, np.int64),
        event_types=np.zeros(shape, np.int64),
        gap_buckets=np.zeros(shape, np.int64),
        mask=np.zeros(shape, np.float32),
    )
    for index, (rows, event_types, event_times, known) in enumerate(kept):
        n = len(known)
        batch.item_rows[index, :n] = rows[known]
        batch.event_types[index, :n] = preprocessing.event_type_numbers([event_types[i] for i in known.tolist()])
        times = np.array([event_times[i] for i in known.tolist()], np.float64)
        batch.gap_buckets[index, :n] = preprocessing.gap_buckets(times, float(now_s[index]))
        batch.mask[index, :n] = 1.0
    return batch
