"""A recommendation task in the forms that training reads: a catalogue, rows, events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from pipelines.benchmarks.protocols import EventArrays, RecommendTask, TaskRows
from pipelines.evaluation.rows import KnownUser
from pipelines.inference.bundle import ITEM_COLUMNS
from pipelines.inference.preprocessing import TOWER_HISTORY
from pipelines.schemas import MAX_HISTORY
from pipelines.training.catalog import Catalog, numbered, standardized_log
from pipelines.training.learned_ranking import RankingRows
from pipelines.training.rows import Rows

_HALF_LIFE_S = 14 * 86_400
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Moment:
    """A user before one basket, by the bounds of what was known in the events of a task."""

    user: int
    known_from: int
    known_to: int
    end: int
    """The basket's items lie from `known_to` to here."""

    def newest(self, most: int) -> slice:
        """Return where the newest events before the basket lie."""
        return slice(max(self.known_from, self.known_to - most), self.known_to)


def task_catalog(task: RecommendTask, known: EventArrays) -> Catalog:
    """Return the items as training sees them, with counts and popularity of what is known."""
    category_names, categories = numbered(task.categories)
    brand_names, brands = numbered(task.brands)
    return Catalog(
        item_ids=task.item_ids,
        texts=[text or "unknown item" for text in task.texts],
        titles=task.titles,
        category_names=category_names,
        categories=categories,
        brand_names=brand_names,
        brands=brands,
        log_prices=standardized_log(task.prices),
        event_counts=known.counts(),
        popularity=latest_popularity(known),
    )


def latest_popularity(known: EventArrays) -> np.ndarray:
    """Return decayed counts at the last event, float32 `(n_items,)`: half of it at two weeks of age."""
    weights = 0.5 ** ((known.times.max(initial=0) - known.times) / _HALF_LIFE_S)
    return np.bincount(known.items, weights, minlength=known.n_items).astype(np.float32)


def task_items(task: RecommendTask) -> pa.Table:
    """Return what a bundle shows of the items."""
    none = pa.nulls(task.n_items, pa.string())
    return pa.table(
        {
            "item_id": task.item_ids,
            "title": [title or item_id for title, item_id in zip(task.titles, task.item_ids, strict=True)],
            "category": pa.array([name or None for name in task.categories], pa.string()),
            "brand": pa.array([name or None for name in task.brands], pa.string()),
            "price": pa.array(task.prices, pa.float64(), from_pandas=True),
            "currency": none,
            "available": np.ones(task.n_items, bool),
        },
        schema=ITEM_COLUMNS,
    )


def task_events(task: RecommendTask, known: EventArrays) -> pa.Table:
    """Return what is known as a table of events; a basket is what a user took at one place in the order."""
    ids = pa.array(task.item_ids, pa.string())
    users = pa.array(task.user_ids, pa.string())
    return pa.table(
        {
            "user_id": users.take(pa.array(known.users)),
            "session_id": pa.nulls(len(known), pa.string()),
            "item_id": ids.take(pa.array(known.items)),
            "event_type": pa.array(known.event_types.tolist(), pa.string()),
            "event_timestamp": pa.array(known.times * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )


def moments(known: EventArrays) -> Iterator[Moment]:
    """Yield every basket that has something before it, user by user."""
    changes = np.flatnonzero((np.diff(known.users, prepend=-1) != 0) | (np.diff(known.orders, prepend=-1) != 0))
    ends = np.append(changes[1:], len(known))
    bounds = known.bounds
    for start, end in zip(changes.tolist(), ends.tolist(), strict=True):
        user = int(known.users[start])
        if start > bounds[user]:
            yield Moment(user, int(bounds[user]), start, end)


def training_rows(task: RecommendTask, known: EventArrays, max_rows: int) -> Rows:
    """Return the newest baskets, each with what was known just before it."""
    every = sorted(moments(known), key=lambda moment: (int(known.times[moment.known_to]), moment.known_to))[-max_rows:]
    histories, targets, new_targets = [], [], []
    for moment in every:
        past = moment.newest(TOWER_HISTORY)
        histories.append((known.items[past], known.event_types[past].tolist(), known.times[past]))
        taken = np.unique(known.items[moment.known_to : moment.end])
        targets.append(taken)
        new_targets.append(np.setdiff1d(taken, known.items[moment.known_from : moment.known_to]))
    return Rows(
        user_ids=[task.user_ids[moment.user] for moment in every],
        as_of_s=np.array([known.times[moment.known_to] for moment in every], np.float64),
        histories=histories,
        activity=np.zeros((len(every), 0), np.float32),
        targets=targets,
        new_targets=new_targets,
        seen=[_NOTHING] * len(every),
    )


def asked_rows(task: RecommendTask, rows: TaskRows) -> Rows:
    """Return validation or test rows in the form of training rows."""
    return Rows(
        user_ids=[task.user_ids[user] for user in rows.users],
        as_of_s=rows.as_of_s.astype(np.float64),
        histories=[
            (items[-TOWER_HISTORY:], list(types[-TOWER_HISTORY:]), times[-TOWER_HISTORY:])
            for items, types, times in zip(rows.histories, rows.history_types, rows.history_times, strict=True)
        ],
        activity=np.zeros((len(rows), 0), np.float32),
        targets=list(rows.targets),
        new_targets=list(rows.new_targets),
        seen=list(rows.seen),
    )


def known_users(task: RecommendTask, rows: TaskRows) -> list[KnownUser]:
    """Return what the online store would know of each row's user."""
    newest = slice(-MAX_HISTORY, None)
    return [
        _known_user(task, items[newest], types[newest], times[newest])
        for items, types, times in zip(rows.histories, rows.history_types, rows.history_times, strict=True)
    ]


def ranking_rows(task: RecommendTask, most: int) -> RankingRows:
    """Return what the ranking is learned from: everything that was taken between validation and test.

    Where users have several baskets in that time, each is a row, with what was known just before it; the tables that
    the ranking reads are those from before all of them.

    Args:
        most: Rows at most, spread evenly over the users.
    """
    known = task.known_before_test
    older = np.diff(task.known_before_validation.bounds)
    found = [moment for moment in moments(known) if moment.known_to - moment.known_from >= older[moment.user]]
    chosen = [found[place] for place in spread_evenly(np.arange(len(found)), most)]
    targets = [np.unique(known.items[moment.known_to : moment.end]) for moment in chosen]
    seen = [np.unique(known.items[moment.known_from : moment.known_to]) for moment in chosen]
    return RankingRows(
        features=[
            _known_user(task, known.items[newest], known.event_types[newest], known.times[newest])
            for newest in (moment.newest(MAX_HISTORY) for moment in chosen)
        ],
        now_s=np.array([known.times[moment.known_to] for moment in chosen], np.float64),
        users=np.array([moment.user for moment in chosen], np.int64),
        targets=targets,
        new_targets=[np.setdiff1d(taken, before) for taken, before in zip(targets, seen, strict=True)],
        seen=seen,
    )


def _known_user(task: RecommendTask, items: np.ndarray, types: np.ndarray, times: np.ndarray) -> KnownUser:
    return KnownUser([task.item_ids[item] for item in items.tolist()], types.tolist(), times.tolist(), {})


def moment_of(seconds: int) -> datetime:
    """Return epoch seconds as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def spread_evenly(rows: Sequence[int] | np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the rows, evenly spaced."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return np.asarray(rows)[places]
