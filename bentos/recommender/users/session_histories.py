"""What this process was just told of users: their last events, for when the online store lacks them or is away."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.inference.preprocessing import UserFeatures
from pipelines.schemas import MAX_HISTORY
from pipelines.stores.online_features import UserFeatures as Features


@dataclass(frozen=True)
class Session:
    """The last events of one user that this process accepted, by the second in which they happened."""

    events: tuple[tuple[int, str, str, str], ...] = ()
    """Second, item, type and id of each."""
    waiting: frozenset[str] = frozenset()
    """Ids of those that are not known to be in the online store."""
    _joined: list[tuple[UserFeatures | None, UserFeatures]] = field(default_factory=list, compare=False)

    def joined(self, features: UserFeatures | None) -> UserFeatures:
        """Return the features with the events that they lack; the same object for the same features.

        The activity stays as it was: counts over a session say nothing of a user.

        Args:
            features: None where nothing else is known of the user.
        """
        for base, joined in self._joined:
            if base is features:
                return joined
        joined = self._join(features)
        self._joined[:] = [(features, joined)]
        return joined

    def _join(self, features: UserFeatures | None) -> UserFeatures:
        known: list[tuple[int, str, str]] = []
        if features is not None:
            known = list(zip(features.event_times, features.item_ids, features.event_types, strict=True))
        held = set(known)
        lacking = [event[:3] for event in self.events if event[:3] not in held]
        if features is not None and not lacking:
            return features
        history = sorted([*known, *lacking], key=lambda event: event[0])[-MAX_HISTORY:]
        joined = Features(
            item_ids=[item for _, item, _ in history],
            event_types=[kind for _, _, kind in history],
            event_times=[second for second, _, _ in history],
        )
        return joined if features is None else replace(joined, activity=dict(features.activity))


class SessionHistories:
    """Sessions of the users who did something last; bounded, safe for many threads."""

    def __init__(self, users: int) -> None:
        """`users` is how many are remembered."""
        self._most = users
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def add(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Remember events that were accepted just now; they wait for the online store."""
        with self._lock:
            for event in events:
                user_id, happened_s = event["user_id"], int(event["event_timestamp"].timestamp())
                before = self._sessions.get(user_id, Session())
                told = (happened_s, event["item_id"], event["event_type"], event["event_id"])
                kept = tuple(sorted([*before.events, told], key=lambda one: one[0])[-MAX_HISTORY:])
                waiting = (before.waiting | {event["event_id"]}) & {event_id for *_, event_id in kept}
                self._sessions[user_id] = Session(kept, waiting)
                self._sessions.move_to_end(user_id)
            while len(self._sessions) > self._most:
                self._sessions.popitem(last=False)

    def pushed(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Learn that events are in the online store."""
        with self._lock:
            for event in events:
                session = self._sessions.get(event["user_id"])
                if session is not None and event["event_id"] in session.waiting:
                    self._sessions[event["user_id"]] = Session(session.events, session.waiting - {event["event_id"]})

    def of(self, user_id: str) -> Session | None:
        """Return what this process was told of a user; None: nothing."""
        return self._sessions.get(user_id)
