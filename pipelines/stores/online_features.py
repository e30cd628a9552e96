"""What the service knows of a user, read from and pushed to Feast's online store. Feast is imported at first use."""

import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.config import PreparationConfig
from pipelines.errors import DamagedStateError, StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.history import is_remembered
from pipelines.features.user_fold import UserRow
from pipelines.features.user_state import row_problem
from pipelines.schemas import MAX_HISTORY
from pipelines.stores.feast_settings import (
    import_feast,
    online_store_from_environment,
    open_feature_store,
    store_errors,
)
from pipelines.stores.group_commit import GroupCommit
from pipelines.stores.online_reader import OnlineReader, OnlineRow
from pipelines.stores.online_rows import damage, is_torn, newest_us, require_sound, state_of
from pipelines.stores.push_intent import Intent, PushIntent
from pipelines.stores.pushed_events import PushedEvents
from pipelines.stores.user_changes import Stamp, UserChanges

if TYPE_CHECKING:
    from pipelines.stores.online_writer import OnlineWriter
    from pipelines.stores.user_fold import UserFold

_NEXT = "run `headrace materialize_features` first"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
USER_VIEWS = ("user_history", "user_activity")
"""Feast's views of a user that the service reads: together they are the state of the fold."""
_MOST_WRITTEN = 4_000
_READS_OF_A_PUSH = 10
"""Times that a user is read at most until both views are of one push."""


def utc_now() -> datetime:
    """Return the present, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class UserFeatures:
    """What is known of one user; all empty for a stranger."""

    item_ids: list[str] = field(default_factory=list)
    """Items of the last events, oldest first."""
    event_types: list[str] = field(default_factory=list)
    """Their types."""
    event_times: list[int] = field(default_factory=list)
    """Their times, seconds since 1970 UTC."""
    activity: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(ACTIVITY_FEATURES))
    """Activity by name; null for a stranger and for a user whose activity is too old to say anything."""
    event_timestamp_us: int | None = None
    """When the newest event happened that it is made of, microseconds since 1970 UTC."""
    arrived_at_us: int | None = None
    """When the newest event arrived that it is made of, microseconds since 1970 UTC: names the offline row."""
    counts_until_us: int | None = None
    """Last moment at which all of it counts, microseconds since 1970 UTC; afterwards the activity is too old."""


class Pushed(NamedTuple):
    """What is known of a user after a push."""

    features: UserFeatures
    stamp: Stamp | None
    """As `OnlineFeatures.stamp` gives it while nothing changes."""


class OnlineFeatures:
    """Reads and updates the features of users; safe for many threads and processes of one machine."""

    def __init__(
        self,
        feast_dir: Path,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], datetime] = utc_now,
        history_length: int = MAX_HISTORY,
        preparation: PreparationConfig | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            feast_dir: `Places.feast`: the registry, and the online store where it is SQLite.
            environment: `HEADRACE_ONLINE_STORE` names a Redis instead.
            clock: The present, for the time to live of the activity.
            history_length: `features.history_length` of the settings.
            preparation: `preparation` of the settings.
        """
        self._feast_dir = feast_dir
        self._online_store = online_store_from_environment(environment)
        self._clock = clock
        self._history_length = history_length
        self._preparation = preparation
        self._changes = UserChanges(feast_dir / "user_changes.bin")
        self._pushed = PushedEvents(feast_dir / "pushed_events.bin")
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._intent = PushIntent(feast_dir / ".push_intent")
        self._written: OrderedDict[str, tuple[Stamp, UserRow]] = OrderedDict()
        self._pushes = GroupCommit(self._push_together)

    def open(self) -> None:
        """Import Feast and read its registry now rather than with the first request (seconds).

        Raises:
            StoreError: nothing was materialized yet.
        """
        self._stores()

    @property
    def is_shared(self) -> bool:
        """Whether other machines may write as well, whose changes `stamp` does not know."""
        return self._online_store is not None

    def stamp(self, user_id: str) -> Stamp | None:
        """Return what is another one after each change of the user by a process of this machine.

        Never waits and never raises. None: cannot be told, for now.
        """
        return self._changes.stamp(user_id)

    def read_user(self, user_id: str) -> UserFeatures:
        """Return what is known of the user.

        The time to live of the activity is enforced here, because Feast does not do it online.

        Raises:
            StoreError: nothing was materialized yet, or the online store does not answer.
        """
        row = self._whole_row(user_id)
        require_sound([row])
        return self._features(row)

    def push_events(self, events: Iterable[Mapping[str, Any]]) -> dict[str, Pushed]:
        """Add events to what is known of their users: the next `read_user` has them.

        The fold is that of `build_features`: the row is the one which the offline store will hold once it knows the
        same events. Events without an item, and of types that are no part of a history, are passed over; an event
        that is pushed again changes nothing. Pushes of several threads that wait for each other are done as one.

        Args:
            events: In the form of the contract, `created_timestamp` as the event log stamped it; of any users.

        Returns:
            What is known now of each user whom the events changed.

        Raises:
            DamagedStateError: what the store holds of a user cannot be used; the events of others are in.
            StoreError: nothing was materialized yet, or the online store does not answer.
        """
        usable = [event for event in events if is_remembered(event)]
        return _sound(self._pushes.submit(usable)) if usable else {}

    def push_at_once(self, events: Iterable[Mapping[str, Any]]) -> dict[str, Pushed] | None:
        """Do as `push_events` does, unless another push, a materialization or the network had to be waited for: None.

        A thread that waits for the answer of another one costs more than the push of one event.

        Raises:
            DamagedStateError: as `push_events`.
            StoreError: the online store does not answer.
        """
        usable = [event for event in events if is_remembered(event)]
        if not usable:
            return {}
        if self._opened is None or self.is_shared:
            return None
        with self._pushes.alone() as is_alone:
            if not is_alone:
                return None
            try:
                [pushed] = self._push_together([usable], waits=False)
            except BlockingIOError:
                return None
        return _sound(pushed)

    def load(
        self,
        rows: Mapping[str, "UserRow | None"],
        events: Callable[[], Iterable[Mapping[str, Any]]],
    ) -> None:
        """Replace what is there of users by offline rows to which later events are added.

        Nothing that is pushed meanwhile is lost: no push comes between the reading of the events and the writing.

        Args:
            rows: User id -> the newest offline row; None where the offline store knows nothing of the user.
            events: Gives the events of these users that the rows do not know yet.

        Raises:
            StoreError: nothing was materialized yet, or the online store does not answer.
        """
        with self._locked():
            self._finish_interrupted()
            from pipelines.stores.user_fold import blank_row

            known = {user_id: row for user_id, row in rows.items() if row is not None}
            pushed = {row["user_id"]: row for row in self._stores().fold.add(known, events())}
            self._write([pushed.get(user_id) or known.get(user_id) or blank_row(user_id) for user_id in rows])

    def states(self, user_ids: Sequence[str]) -> dict[str, "UserRow"]:
        """Return the newest row of each user of whom something is known, whatever its age, as USER_ROWS has it.

        Raises:
            StoreError: nothing was materialized yet, the online store does not answer, or what it holds is damaged.
        """
        rows = self._read(user_ids)
        require_sound(rows)
        return {
            user_id: state_of(user_id, row)
            for user_id, row in zip(user_ids, rows, strict=True)
            if row.values["n_events"]
        }

    def has_pushed(self, event_id: str) -> bool:
        """Whether the event is known to have been pushed lately by a process of this machine."""
        return self._pushed.has(event_id) is True

    def sync(self) -> None:
        """Wait until the disk has what was pushed, where the online store lies on one of ours.

        Raises:
            StoreError: that cannot be told.
        """
        try:
            self._stores().writer.sync()
        except OSError as error:
            raise StoreError(
                f"The online store may not be on the disk ({error}): push the same events again."
            ) from error

    # Inside

    def _whole_row(self, user_id: str) -> OnlineRow:
        """Read a user; again where a push wrote one of the two views in between."""
        for _ in range(_READS_OF_A_PUSH):
            [row] = self._read([user_id])
            if row.problem or not is_torn(row):
                break
        return row

    def _push_together(
        self, calls: list[list[Mapping[str, Any]]], *, waits: bool = True
    ) -> "list[dict[str, Pushed] | DamagedStateError]":
        """Fold and write the events of all calls; the answer of each tells of its own users.

        Raises:
            BlockingIOError: somebody else writes, and `waits` is false.
        """
        events = [event for call in calls for event in call]
        user_ids = list(dict.fromkeys(event["user_id"] for event in events))
        with self._locked(waits=waits):
            self._finish_interrupted(waits=waits)
            states, damaged = self._states_now(user_ids)
            events = [event for event in events if event["user_id"] not in damaged]
            rows = self._stores().fold.add(states, events, pushed=self._pushed.has)
            self._write_push(Intent(rows, [event["event_id"] for event in events]), waits=waits)
            pushed = {row["user_id"]: self._pushed_now(row) for row in rows}
        return [
            damage([damaged[user_id] for user_id in users & damaged.keys()])
            if users & damaged.keys()
            else {user_id: pushed[user_id] for user_id in users if user_id in pushed}
            for users in ({event["user_id"] for event in call} for call in calls)
        ]

    def _states_now(self, user_ids: Sequence[str]) -> tuple[dict[str, "UserRow"], dict[str, OnlineRow]]:
        """Return the states of users, and the rows that cannot be used; the lock of pushes is held.

        What this process wrote last is not read again where nobody else has written since.
        """
        states = {}
        for user_id in user_ids:
            kept = self._written.get(user_id)
            if kept is not None and kept[0] == self._changes.stamp(user_id):
                states[user_id] = kept[1]
        unknown = [user_id for user_id in user_ids if user_id not in states]
        rows = dict(zip(unknown, self._read(unknown), strict=True))
        damaged = {user_id: row for user_id, row in rows.items() if row.problem}
        for user_id, row in rows.items():
            if user_id not in damaged and row.values["n_events"]:
                states[user_id] = state_of(user_id, row)
        return states, damaged

    def _write_push(self, push: Intent, *, waits: bool) -> None:
        """Write a push whole: a process that is killed meanwhile leaves the note, and the next one writes the rest."""
        if push.rows:
            self._write(push.rows, first=lambda: self._intent.note(push.rows, push.event_ids), waits=waits)
        self._pushed.add(push.event_ids)
        if push.rows:
            self._intent.clear()

    def _finish_interrupted(self, *, waits: bool = True) -> None:
        """Write what a push left behind that was killed, or that the store failed, unless more is known since."""
        push = self._intent.left()
        if push is None:
            return
        now = self._read([row["user_id"] for row in push.rows])
        rows = [
            row
            for row, online in zip(push.rows, now, strict=True)
            if online.problem or (online.values["n_events"] or 0) <= row["n_events"]
        ]
        self._write_push(Intent(rows, push.event_ids), waits=waits)

    def _pushed_now(self, state: "UserRow") -> Pushed:
        """Return what `read_user` gives now; nobody else writes meanwhile."""
        happened_us = (state["event_timestamp"] - _EPOCH) // _MICROSECOND
        row = OnlineRow(state, dict.fromkeys(USER_VIEWS, happened_us))
        stamp = self._changes.stamp(state["user_id"])
        if stamp is not None and not self.is_shared:
            self._written[state["user_id"]] = stamp, state
            self._written.move_to_end(state["user_id"])
            if len(self._written) > _MOST_WRITTEN:
                self._written.popitem(last=False)
        return Pushed(self._features(row), stamp)

    def _features(self, row: OnlineRow) -> UserFeatures:
        if not row.values["n_events"]:
            return UserFeatures()
        reader, now = self._stores().reader, self._clock()
        values = reader.known_at(row, now)
        return UserFeatures(
            item_ids=values["item_ids"],
            event_types=values["event_types"],
            event_times=values["event_times"],
            activity={name: None if values[name] is None else float(values[name]) for name in ACTIVITY_FEATURES},
            event_timestamp_us=row.written_us["user_history"],
            arrived_at_us=values["arrived_at_us"],
            counts_until_us=reader.counts_until_us(row, now),
        )

    def _stores(self) -> "_Opened":
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> "_Opened":
        missing = StoreError(f"Feast has nothing for the service in {self._feast_dir}: {_NEXT}.")
        if not (self._feast_dir / "registry.db").is_file():
            raise missing
        import_feast()
        from feast.errors import FeastObjectNotFoundException
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        from pipelines.stores.online_writer import OnlineWriter
        from pipelines.stores.user_fold import UserFold

        try:
            store = open_feature_store(self._feast_dir, self._online_store, serving=True)
            views = [store.get_feature_view(name) for name in USER_VIEWS]
        except (FeastObjectNotFoundException, DecodeError) as error:  # not applied yet, or just being written
            raise missing from error
        fold = UserFold(history_length=self._history_length, preparation=self._preparation)
        return _Opened(
            reader=OnlineReader(store, [f"{view.name}:{one.name}" for view in views for one in view.features]),
            writer=OnlineWriter(store, USER_VIEWS),
            fold=fold,
        )

    def _read(self, user_ids: Sequence[str]) -> list[OnlineRow]:
        stores = self._stores()
        try:
            rows = stores.reader.read([{"user_id": user_id} for user_id in user_ids])
        except store_errors() as error:
            raise StoreError(
                f"The online store does not answer ({error}): the request can be repeated. Where "
                "it stays so, run `headrace materialize_features`."
            ) from error
        except ValueError as error:  # Feast serves no view before its first materialization
            self._opened = None
            raise StoreError(f"The online features cannot be served ({error}): {_NEXT}.") from error
        for row in rows:
            row.problem = row.problem or row_problem(row.values)
            if not row.problem and row.values["n_events"]:
                row.written_us.update(dict.fromkeys(USER_VIEWS, newest_us(row)))
        return rows

    def _write(
        self, rows: Sequence["UserRow"], *, first: Callable[[], None] = lambda: None, waits: bool = True
    ) -> None:
        """Write rows when it is this process's turn; `first` is called then, before anything is written."""
        writer = self._stores().writer
        try:
            with writer.turn(waits=waits):
                first()
                with self._changes.changing(row["user_id"] for row in rows):
                    writer.write(rows)
        except BlockingIOError:
            raise
        except store_errors() as error:
            raise StoreError(
                f"The features of {len(rows)} users could not be updated ({error}): push the same events again."
            ) from error

    @contextmanager
    def _locked(self, *, waits: bool = True) -> Iterator[None]:
        """Let one push at a time read, change and write.

        Raises:
            BlockingIOError: another process does, and `waits` is false.
        """
        path = self._feast_dir / ".push.lock"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            lock = os.open(path, flags, 0o644)
        except FileNotFoundError:
            self._feast_dir.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, flags, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(lock)


@dataclass(frozen=True)
class _Opened:
    """What is open while the service runs."""

    reader: OnlineReader
    writer: "OnlineWriter"
    fold: "UserFold"


def _sound(pushed: "dict[str, Pushed] | DamagedStateError") -> dict[str, Pushed]:
    if isinstance(pushed, DamagedStateError):
        raise pushed
    return pushed
