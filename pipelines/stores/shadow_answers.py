"""What a shadow would have answered, beside what was answered; one file a day and service."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.stores.day_log import DayLog, newest_rows

_MOMENT = "requested_at"


class ShadowAnswersLog:
    """Writes the answers of one service's shadow; safe for many threads."""

    def __init__(self, folder: Path, *, keep_days: int) -> None:
        self._log = DayLog(folder, what="shadow answers", day_of=_MOMENT, keep_days=keep_days)

    def offer(
        self,
        *,
        now: datetime,
        call: str,
        live: str,
        shadow: str,
        live_items: Sequence[str],
        shadow_items: Sequence[str],
        live_ms: float,
        shadow_ms: float,
        error: str = "",
    ) -> None:
        """Keep both lists (item ids, best first) and how long each took; says nothing about who asked."""
        self._log.offer(
            {
                _MOMENT: now,
                "call": call,
                "live": live,
                "shadow": shadow,
                "live_items": list(live_items),
                "shadow_items": list(shadow_items),
                "live_ms": round(live_ms, 3),
                "shadow_ms": round(shadow_ms, 3),
                "error": error,
            }
        )

    def close(self) -> None:
        """Write what waits, and stop."""
        self._log.close()


def read_shadow_answers(folder: Path, *, shadow: str | None = None, limit: int = 50_000) -> list[dict[str, Any]]:
    """Return the newest rows, at most `limit`, oldest first.

    Args:
        shadow: Only those of this bundle.
    """
    rows = newest_rows(folder, limit=limit, day_of=_MOMENT)
    return [row for row in rows if shadow in (None, row["shadow"])]
