"""What a row of the online store says of a user, and whether it can be believed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pipelines.errors import DamagedStateError
from pipelines.features.user_fold import UserRow
from pipelines.features.user_state import COUNTED_TYPES
from pipelines.stores.online_reader import OnlineRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def require_sound(rows: Sequence[OnlineRow]) -> None:
    """Refuse what the online store cannot have been given.

    Raises:
        DamagedStateError: a row cannot be used.
    """
    damaged = [row for row in rows if row.problem]
    if damaged:
        raise damage(damaged)


def damage(rows: Sequence[OnlineRow]) -> DamagedStateError:
    """Return the error that says which rows cannot be used, and what to do."""
    return DamagedStateError(
        f"What the online store holds of {len(rows)} users is damaged, the first one: {rows[0].problem}. Run `headrace "
        "materialize_features`, which loads them anew once something arrived of them."
    )


def newest_us(row: OnlineRow) -> int:
    """Return when the newest event happened, in microseconds since 1970 UTC.

    Feast's SQLite store keeps event timestamps in whole seconds; that would shift every decayed feature of the next
    push, and the end of the time to live. A span of 50 years in days is exact to a quarter of a microsecond.
    """
    return int(row.values["first_at_us"]) + round((row.values["days_since_first"] or 0.0) * _DAY_US)


def is_torn(row: OnlineRow) -> bool:
    """Whether history and activity are not of one push: every event is counted in both."""
    counted = sum(row.values[name] or 0 for name in COUNTED_TYPES)
    return bool(counted != (row.values["n_events"] or 0))


def state_of(user_id: str, row: OnlineRow) -> UserRow:
    """Return a row of USER_ROWS from what the online store holds of it."""
    values = row.values
    return {
        **values,
        "user_id": user_id,
        "moment_id": f"{user_id}:{values['n_events']}",
        "event_timestamp": _EPOCH + timedelta(microseconds=row.written_us["user_history"]),
        "created_timestamp": _EPOCH + timedelta(microseconds=values["arrived_at_us"]),
    }
