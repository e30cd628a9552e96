"""What the answers of a shadow say: how alike both lists are, how long they took, what failed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.schemas import Metric, Record

TOP = 10


class ShadowSummary(Record):
    """One shadow bundle beside one live bundle, for the next gate and for a person."""

    live: str
    shadow: str
    requests: int
    errors: int
    empty: int
    """Empty answers of the shadow where the live bundle found something."""
    overlap: Metric | None
    """Share of the live answer's first ten items that are among the shadow's, with the 95 % interval of the mean."""
    live_ms: dict[str, float]
    """p50 and p95 of the live bundle, ms."""
    shadow_ms: dict[str, float]
    """p50 and p95 of the shadow, ms; it is asked in the background."""


def summarize_shadow(rows: Sequence[Mapping[str, Any]]) -> list[ShadowSummary]:
    """Return a summary for each pair of bundles, in the order in which they first appear.

    Args:
        rows: As `stores/shadow_answers` reads them.
    """
    pairs = dict.fromkeys((row["live"], row["shadow"]) for row in rows)
    return [_summary(pair, [row for row in rows if (row["live"], row["shadow"]) == pair]) for pair in pairs]


def overlap_at(live: Sequence[str], shadow: Sequence[str], k: int = TOP) -> float:
    """Return the share of the first `k` live items that are among the first `k` of the shadow, in [0, 1]."""
    wanted = live[:k]
    return len(set(wanted) & set(shadow[:k])) / len(wanted)


def _summary(pair: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> ShadowSummary:
    answered = [row for row in rows if not row["error"]]
    overlaps = np.array([overlap_at(row["live_items"], row["shadow_items"]) for row in answered if row["live_items"]])
    return ShadowSummary(
        live=pair[0],
        shadow=pair[1],
        requests=len(rows),
        errors=len(rows) - len(answered),
        empty=sum(bool(row["live_items"]) and not row["shadow_items"] for row in answered),
        overlap=_mean(overlaps) if len(overlaps) else None,
        live_ms=_percentiles([row["live_ms"] for row in rows]),
        shadow_ms=_percentiles([row["shadow_ms"] for row in answered]),
    )


def _mean(values: np.ndarray) -> Metric:
    mean = float(values.mean())
    if len(values) < 2:
        return Metric(value=mean)
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Metric(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half))


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{share}": round(float(np.percentile(values, share)), 3) for share in (50, 95)}
