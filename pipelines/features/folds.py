"""What the folds over arrivals share."""

from collections.abc import Iterable, Mapping

HALF_LIVES_DAYS: tuple[int, ...] = (1, 7, 28)
"""Ages at which an event counts half."""


def sql_lines(parts: Iterable[str]) -> str:
    """Return the parts of a SELECT list, one a line."""
    return ",\n        ".join(parts)


def sql_counts(counted: Mapping[str, str]) -> str:
    """Return the parts of a SELECT list that count events by type: column -> event type."""
    return sql_lines(f"count(*) FILTER (WHERE event_type = '{kind}') AS {name}" for name, kind in counted.items())
