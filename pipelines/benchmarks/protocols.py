"""How a folder becomes a task: what is known when, what is asked, and what counts as an answer.

    leave_one_out   folders with `pos`: a user's last item is the test, the one before it the validation
    next_basket     folders without: the baskets of the newest tenth are the test window, the tenth before validation
    search_split    judgements: by a hash of the query's text, three fifths train, one validation, one test

Nothing here draws at random: the same folder gives the same task, and `sha1` names it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pipelines.benchmarks.folder import ItemTable, RecommendFolder, SearchFolder
from pipelines.errors import DataError

WINDOW_SHARE = 0.1
"""Share of the baskets in the test window, and of those in the validation window."""
_BUCKETS = 5
_TEST_BUCKET, _VALIDATION_BUCKET = 0, 1
_MAX_SPAN = 8.0
"""Between the lowest and the highest grade: a gain is 2 to the power of it."""


@dataclass(frozen=True)
class EventArrays:
    """`n` events, sorted by user and, within a user, from old to new."""

    users: np.ndarray
    """int64 `(n,)` user numbers."""
    items: np.ndarray
    """int64 `(n,)` item rows."""
    times: np.ndarray
    """int64 `(n,)` epoch seconds."""
    orders: np.ndarray
    """int64 `(n,)` place of the event in the history of its user, from 0; equal for the items of one basket."""
    event_types: np.ndarray
    """str `(n,)`, in our words; `purchase` where the folder does not say."""
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def bounds(self) -> np.ndarray:
        """int64 `(n_users + 1,)`: the events of user u are `bounds[u]:bounds[u + 1]`."""
        return np.searchsorted(self.users, np.arange(self.n_users + 1))

    def where(self, kept: np.ndarray) -> "EventArrays":
        """Return the events with `kept` true, bool `(n,)`."""
        return EventArrays(
            users=self.users[kept],
            items=self.items[kept],
            times=self.times[kept],
            orders=self.orders[kept],
            event_types=self.event_types[kept],
            n_users=self.n_users,
            n_items=self.n_items,
        )

    def counts(self) -> np.ndarray:
        """Return how many events each item has, float32 `(n_items,)`."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.float32)


@dataclass(frozen=True)
class TaskRows:
    """`n` questions, one a user: what was known of the user just before, and what the user took then."""

    users: np.ndarray
    """int64 `(n,)` user numbers, ascending."""
    histories: Sequence[np.ndarray]
    """int64 `(n_events,)` item rows, oldest first, at least one."""
    history_times: Sequence[np.ndarray]
    """int64 `(n_events,)` epoch seconds."""
    history_ages: Sequence[np.ndarray]
    """int64 `(n_events,)` how many newer events (`leave_one_out`) or baskets (`next_basket`) there are: 0 is new."""
    history_types: Sequence[np.ndarray]
    """str `(n_events,)` event types."""
    as_of_s: np.ndarray
    """int64 `(n,)` epoch seconds: when the user took the targets."""
    targets: Sequence[np.ndarray]
    """int64, the distinct items taken, at least one."""
    new_targets: Sequence[np.ndarray]
    """int64, those of them that are not in the history; may be empty."""
    seen: Sequence[np.ndarray]
    """int64, the distinct items of the history, ascending."""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def cold(self) -> np.ndarray:
        """bool `(n,)` true where nothing is known of the user: nowhere, for a row needs a history."""
        return np.asarray([len(history) == 0 for history in self.histories], bool)

    def part(self, start: int, stop: int) -> "TaskRows":
        """Return rows `start` to `stop`."""
        return self.at(np.arange(start, min(stop, len(self))))

    def at(self, places: np.ndarray) -> "TaskRows":
        """Return the rows at `places`, int64 `(m,)`."""

        def chosen(values: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [values[place] for place in places]

        return TaskRows(
            users=self.users[places],
            histories=chosen(self.histories),
            history_times=chosen(self.history_times),
            history_ages=chosen(self.history_ages),
            history_types=chosen(self.history_types),
            as_of_s=self.as_of_s[places],
            targets=chosen(self.targets),
            new_targets=chosen(self.new_targets),
            seen=chosen(self.seen),
        )

    def recency_weights(self, decay: float) -> list[np.ndarray]:
        """Return `decay` to the power of the age of each event, float32."""
        return [(decay**ages).astype(np.float32) for ages in self.history_ages]


class OverItems:
    """What a task over a catalogue says of its items, straight from their table."""

    items: ItemTable

    @property
    def item_ids(self) -> list[str]:
        """Id of each item row."""
        return self.items.item_ids

    @property
    def titles(self) -> list[str]:
        """Title of each item row, "" where there is none."""
        return self.items.titles

    @property
    def texts(self) -> list[str]:
        """What an encoder reads of each item row."""
        return self.items.texts

    @property
    def categories(self) -> list[str]:
        """Category of each item row, "" where there is none."""
        return self.items.categories

    @property
    def brands(self) -> list[str]:
        """Brand of each item row, "" where there is none."""
        return self.items.brands

    @property
    def prices(self) -> np.ndarray:
        """float64 `(n_items,)`, NaN where there is none."""
        return self.items.prices

    @property
    def n_items(self) -> int:
        """Number of items that are ranked."""
        return len(self.items)


@dataclass(frozen=True)
class RecommendTask(OverItems):
    """A folder under one protocol; item rows are those of `items`."""

    data: str
    protocol: Literal["leave_one_out", "next_basket"]
    items: ItemTable
    user_ids: list[str]
    known_before_validation: EventArrays
    """What may be learnt from while anything is chosen."""
    known_before_test: EventArrays
    """What may be learnt from by the time of the test; contains all of the above."""
    validation: TaskRows
    test: TaskRows
    sha1: str
    """40 hex digits over the questions of both windows."""
    notes: tuple[str, ...] = ()
    """What became of event types in other words, and of rows that are no interactions."""

    @property
    def train(self) -> EventArrays:
        """The events before validation."""
        return self.known_before_validation

    @cached_property
    def repeats(self) -> bool:
        """Whether a test user takes something again: then the whole basket is worth a table of its own."""
        return any(len(new) < len(all_) for new, all_ in zip(self.test.new_targets, self.test.targets, strict=True))


@dataclass(frozen=True)
class GradedQueries:
    """`n` queries with the items that were judged for them."""

    queries: list[str]
    items: list[np.ndarray]
    """int64, item rows, ascending, at least one."""
    grades: list[np.ndarray]
    """float64, as in the folder, aligned with `items`."""
    gains: list[np.ndarray]
    """float64, at least 0, aligned with `items`."""
    relevant: list[np.ndarray]
    """int64, item rows with a grade in the top third; may be empty."""

    def __len__(self) -> int:
        return len(self.queries)

    def at(self, places: Iterable[int]) -> "GradedQueries":
        """Return the queries at `places`."""
        found = list(places)
        return GradedQueries(
            [self.queries[place] for place in found],
            *([values[place] for place in found] for values in (self.items, self.grades, self.gains, self.relevant)),
        )


@dataclass(frozen=True)
class GradeScale:
    """What the grades of a folder are worth."""

    lowest: float
    """The grade that says "not relevant": gain 0."""
    highest: float
    relevant_from: float
    """Grades from here on count as relevant for recall."""

    def gains(self, grades: np.ndarray) -> np.ndarray:
        """Return grade − lowest, at least 0; 1 for every judged item where all grades are equal."""
        if self.lowest == self.highest:
            return np.ones(len(grades), np.float64)
        return np.maximum(grades - self.lowest, 0.0)


@dataclass(frozen=True)
class SearchTask(OverItems):
    """Judged queries in three parts over one corpus; item rows are those of `items`."""

    data: str
    items: ItemTable
    train: GradedQueries
    validation: GradedQueries
    test: GradedQueries
    scale: GradeScale
    sha1: str
    """40 hex digits over queries, items and grades of all parts."""


def recommend_task(folder: RecommendFolder) -> RecommendTask:
    """Return the task of the protocol that fits the folder: `leave_one_out` where it has `pos`.

    Raises:
        DataError: nothing is left to ask.
    """
    return next_basket(folder) if folder.positions is None else leave_one_out(folder)


def leave_one_out(folder: RecommendFolder) -> RecommendTask:
    """Ask for the last item of each user; the one before it is for validation, all others train.

    When testing, the validation item is part of the history and of what may be learnt from. A user with two events is
    asked in the test only, a user with one is not asked at all and trains.

    Raises:
        DataError: no user has three events.
    """
    sizes = np.bincount(folder.users, minlength=len(folder.user_ids))
    if not (sizes >= 3).any():
        raise DataError(
            f"No user of {folder.name} has three events (most: {sizes.max()}): one to test, one to validate and one to "
            "start from are needed. Give longer histories, or leave `pos` out to split by time."
        )
    size = np.repeat(sizes, sizes)
    orders = np.arange(len(size)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    from_end = size - orders  # 1 for the last event of a user
    in_test = (from_end == 1) & (size >= 2)
    in_validation = (from_end == 2) & (size >= 3)
    events = _events(folder, orders)
    return _task(
        folder,
        "leave_one_out",
        known=(events.where(~in_test & ~in_validation), events.where(~in_test)),
        asked=(np.flatnonzero(in_validation), np.flatnonzero(in_test)),
        events=events,
    )


def next_basket(folder: RecommendFolder, share: float = WINDOW_SHARE) -> RecommendTask:
    """Ask for the first basket of each user in a window, knowing everything before the window.

    A basket is a `basket_id` of a user, or all rows of a user with one timestamp; its time is that of its oldest row,
    and it is never divided. The newest `share` of all baskets are the test window, the `share` before them the
    validation window. A user without a basket before the window is not asked.

    Raises:
        DataError: a window has no user with a history.
    """
    first = np.unique(folder.baskets, return_index=True)[1]
    basket_times = folder.times[first]  # the first row of a basket is its oldest
    began = basket_times[folder.baskets]
    test_start = _start(basket_times, 1 - share)
    validation_start = _start(basket_times[basket_times < test_start], (1 - 2 * share) / (1 - share))
    orders = folder.baskets - folder.baskets[np.searchsorted(folder.users, folder.users)]
    events = _events(folder, orders)
    before_test, before_validation = began < test_start, began < validation_start
    return _task(
        folder,
        "next_basket",
        known=(events.where(before_validation), events.where(before_test)),
        asked=(
            _first_baskets(folder, before_validation, began < test_start),
            _first_baskets(folder, before_test, np.ones(len(began), bool)),
        ),
        events=events,
    )


def search_split(folder: SearchFolder, lowest_grade: float | None = None) -> SearchTask:
    """Divide the queries by the SHA-1 of their text: first byte modulo 5, 0 is test, 1 validation, the others train.

    Args:
        lowest_grade: The grade that says "not relevant"; None takes the lowest of the folder.

    Raises:
        DataError: a part has no query, no test query has a gain, or the grades span too much for 2 to the power of
            a gain.
    """
    scale = grade_scale(folder, lowest_grade)
    starts = np.flatnonzero(np.diff(folder.query_numbers, prepend=-1))
    items, grades = (np.split(values, starts[1:]) for values in (folder.rows, folder.grades))
    judged = GradedQueries(
        queries=folder.queries,
        items=items,
        grades=grades,
        gains=[scale.gains(found) for found in grades],
        relevant=[rows[found >= scale.relevant_from] for rows, found in zip(items, grades, strict=True)],
    )
    buckets = np.asarray([_bucket(query) for query in folder.queries])
    places = {
        "test": np.flatnonzero(buckets == _TEST_BUCKET),
        "validation": np.flatnonzero(buckets == _VALIDATION_BUCKET),
        "train": np.flatnonzero((buckets != _TEST_BUCKET) & (buckets != _VALIDATION_BUCKET)),
    }
    if empty := [name for name, found in places.items() if len(found) == 0]:
        raise DataError(
            f"{folder.name} has {len(folder.queries):,} queries, and by the hash of their text none falls into "
            f"{' and '.join(empty)}: give more judged queries, 50 at least to learn anything."
        )
    if not any(judged.gains[place].any() for place in places["test"]):
        raise DataError(
            f"No test query of {folder.name} has an item with a grade above {scale.lowest:g}, the one that says not "
            f"relevant ({len(places['test']):,} of {len(folder.queries):,} queries are for the test): there is nothing "
            "to find. Give more judged queries, or a lower --lowest-grade."
        )
    parts = {name: judged.at(found.tolist()) for name, found in places.items()}
    return SearchTask(folder.name, folder.items, scale=scale, sha1=_judgements_sha1(folder), **parts)


def grade_scale(folder: SearchFolder, lowest_grade: float | None = None) -> GradeScale:
    """Return what the grades are worth.

    A gain is the grade above the lowest: on 1 to 3 it is grade − 1, on 0/1 and on 0 to 4 the grade itself. Relevant
    is the top third of the range, its border cut to two decimals, so that 2.33 counts on 1 to 3.

    Raises:
        DataError: the grades span more than 8, or none is above `lowest_grade`.
    """
    lowest = float(folder.grades.min()) if lowest_grade is None else lowest_grade
    if not np.isfinite(lowest):
        raise DataError(f"--lowest-grade is {lowest}: give a number, the grade that says not relevant.")
    highest = float(folder.grades.max())
    if highest < lowest or (lowest_grade is not None and highest == lowest):
        raise DataError(
            f"No grade of {folder.name} is above {lowest:g}, the grade that says not relevant (highest: {highest:g}): "
            "give a lower --lowest-grade."
        )
    if highest - lowest > _MAX_SPAN:
        raise DataError(
            f"The grades of {folder.name} reach from {lowest:g} to {highest:g}: a gain is 2 to the power of grade − "
            f"lowest, so the range may span {_MAX_SPAN:g} at most. Divide the grades, to 0 to 4 for example."
        )
    border = lowest + 2 / 3 * (highest - lowest)
    return GradeScale(lowest, highest, float(np.floor(border * 100 + 1e-6) / 100))


def _bucket(query: str) -> int:
    return hashlib.sha1(query.encode(), usedforsecurity=False).digest()[0] % _BUCKETS


def _events(folder: RecommendFolder, orders: np.ndarray) -> EventArrays:
    return EventArrays(
        folder.users, folder.rows, folder.times, orders, folder.event_types, len(folder.user_ids), len(folder.items)
    )


def _start(times: np.ndarray, share: float) -> int:
    """Return the time from which on baskets are newer than `share` of all."""
    ordered = np.sort(times)
    return int(ordered[min(int(np.ceil(share * len(ordered))), len(ordered) - 1)]) if len(ordered) else 0


def _first_baskets(folder: RecommendFolder, before: np.ndarray, until: np.ndarray) -> np.ndarray:
    """Return the events of each user's first basket that is not `before` the window but begins `until` its end."""
    known = np.bincount(folder.users[before], minlength=len(folder.user_ids)) > 0
    inside = np.flatnonzero(~before & until & known[folder.users])
    _, first = np.unique(folder.users[inside], return_index=True)
    return inside[np.isin(folder.baskets[inside], folder.baskets[inside[first]])]


def _task(
    folder: RecommendFolder,
    protocol: Literal["leave_one_out", "next_basket"],
    *,
    known: tuple[EventArrays, EventArrays],
    asked: tuple[np.ndarray, np.ndarray],
    events: EventArrays,
) -> RecommendTask:
    for window, places in zip(("validation", "test"), asked, strict=True):
        if len(places) == 0:
            raise DataError(
                f"No user of {folder.name} has both a history and something in the {window} window: give more users "
                "or a longer time."
            )
    validation, test = (_rows(before, events, places) for before, places in zip(known, asked, strict=True))
    return RecommendTask(
        data=folder.name,
        protocol=protocol,
        items=folder.items,
        user_ids=folder.user_ids,
        known_before_validation=known[0],
        known_before_test=known[1],
        validation=validation,
        test=test,
        sha1=_rows_sha1(protocol, (validation, test), folder),
        notes=folder.notes,
    )


def _rows(known: EventArrays, events: EventArrays, asked: np.ndarray) -> TaskRows:
    """Return one row for each user with events at `asked`; the history is what `known` has of the user."""
    users, first = np.unique(events.users[asked], return_index=True)
    histories = [slice(known.bounds[user], known.bounds[user + 1]) for user in users]
    targets = [np.unique(items) for items in np.split(events.items[asked], first[1:])]
    seen = [np.unique(known.items[place]) for place in histories]
    return TaskRows(
        users=users,
        histories=[known.items[place] for place in histories],
        history_times=[known.times[place] for place in histories],
        history_ages=[_ages(known.orders[place]) for place in histories],
        history_types=[known.event_types[place] for place in histories],
        as_of_s=np.asarray([times.min() for times in np.split(events.times[asked], first[1:])], np.int64),
        targets=targets,
        new_targets=[np.setdiff1d(wanted, known_items) for wanted, known_items in zip(targets, seen, strict=True)],
        seen=seen,
    )


def _ages(orders: np.ndarray) -> np.ndarray:
    """Return how many distinct places in the history are newer, int64."""
    distinct, places = np.unique(orders, return_inverse=True)
    ages: np.ndarray = len(distinct) - 1 - places
    return ages


def _rows_sha1(protocol: str, windows: Sequence[TaskRows], folder: RecommendFolder) -> str:
    digest = hashlib.sha1(f"{protocol}\n".encode(), usedforsecurity=False)
    for rows in windows:
        for user, as_of_s, targets in zip(rows.users, rows.as_of_s, rows.targets, strict=True):
            taken = " ".join(folder.items.item_ids[item] for item in targets)
            digest.update(f"{folder.user_ids[user]} {as_of_s} {taken}\n".encode())
    return digest.hexdigest()


def _judgements_sha1(folder: SearchFolder) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for number, row, grade in zip(folder.query_numbers, folder.rows, folder.grades, strict=True):
        digest.update(f"{folder.queries[number]}\t{folder.items.item_ids[row]}\t{grade:g}\n".encode())
    return digest.hexdigest()
