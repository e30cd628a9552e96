"""How a window differs from the windows before it. Pure: profiles in, numbers with their limits out.

A number is only made where both sides have enough rows, so that a small window can never stop a run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Literal

from pipelines.config import ValidationConfig
from pipelines.schemas import EVENT_LOG
from pipelines.validation.profile import Profile

Kind = Literal["volume", "nulls", "share", "drift"]
FIRST_JUDGED = 5
"""The window from which on volumes are judged: four are needed for a median worth the name."""
_BINS = 10
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class EarlierWindow:
    """A window that was accepted, as far as comparisons need it."""

    since: datetime | None
    until: datetime
    profiles: Mapping[str, Profile]


@dataclass(frozen=True)
class Difference:
    """One number about how a window differs, with what is allowed."""

    kind: Kind
    group: str
    """The table, or `event_log` for the events that came through the service."""
    column: str
    """Column, event type, or `rows`."""
    found: float
    reference: float
    """What it was before, for people: a share, rows a day; 0 for a distance."""
    low_warn: float | None
    high_warn: float
    low_stop: float | None
    high_stop: float

    @property
    def name(self) -> str:
        """A name of its own, valid as a column: `drift_events_value`."""
        text = f"{self.kind}_{self.group}_{self.column}".lower()
        return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text)

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        where = "events of the service" if self.group == EVENT_LOG else self.group
        if self.kind == "volume":
            return f"{where}: {self.found:,.0f} rows a day, the median of the windows before is {self.reference:,.0f}"
        if self.kind == "drift":
            return (
                f"{where}: the distribution of `{self.column}` is {self.found:.2f} away from that of the windows "
                "before (Jensen-Shannon distance)"
            )
        share = "has no value in" if self.kind == "nulls" else "is the type of"
        return (
            f"{where}: `{self.column}` {share} {self.found:.1%} of the rows, in the windows before {self.reference:.1%}"
        )

    def allowed(self, *, stops: bool) -> str:
        """Return the allowed range, in words."""
        low, high = (self.low_stop, self.high_stop) if stops else (self.low_warn, self.high_warn)
        if self.kind == "volume":
            return f"{low or 0:,.0f} to {high:,.0f}"
        if self.kind == "drift":
            return f"{high:.2f} at most"
        return f"{max(low or 0, 0):.1%} to {min(high, 1):.1%}"

    @property
    def setting(self) -> str:
        """The setting behind the limits, without `_warn` or `_stop`."""
        return {"volume": "volume", "nulls": "null_share", "share": "type_share", "drift": "drift"}[self.kind]


def compare(
    now: Mapping[str, Profile],
    earlier: Sequence[EarlierWindow],
    config: ValidationConfig,
    *,
    since: datetime | None,
    until: datetime,
) -> list[Difference]:
    """Return every number that can be made of the window and the accepted windows before it, oldest first."""
    found: list[Difference] = []
    for group, profile in now.items():
        like = [window for window in earlier if group in window.profiles]
        found += _volume(group, profile, like, config, since, until)
        before = _reference([window.profiles[group] for window in like], config)
        if min(profile.rows, before.rows) >= config.compare_min_rows:
            found += _shares(group, profile, before, config)
            found += _drifts(group, profile, before, config)
    return found


def distance(reference: Sequence[int], found: Sequence[int]) -> float:
    """Return the Jensen-Shannon distance of two counts over the same bins, base 2: 0 for equal shares, 1 at most.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy", square root of the divergence, by scipy.
    """
    from scipy.spatial.distance import jensenshannon

    value = float(jensenshannon(reference, found, base=2))
    return 0.0 if value != value else value  # equal but for rounding: the root of a negative number


def number_bins(reference: Mapping[int, int], found: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Return the counts of both in the quantile bins of the reference, ten where it has that many values.

    The first bin and the last are for what lies outside all that the reference has.
    """
    total = sum(reference.values())
    last: dict[int, int] = {}  # bin -> its last bucket
    below = 0
    for bucket in sorted(reference):
        last[int(_BINS * (below + reference[bucket] / 2) / total)] = bucket
        below += reference[bucket]
    edges = [min(reference) - 1, *sorted(last.values())]
    return _count(reference, edges), _count(found, edges)


def value_bins(
    reference: Mapping[str, int], found: Mapping[str, int], totals: tuple[int, int]
) -> tuple[list[int], ...]:
    """Return the counts of both for the frequent values of the reference, and of the rest."""
    top = sorted(reference, key=lambda value: (-reference[value], value))[: 2 * _BINS]
    both = ([reference[value] for value in top], [found.get(value, 0) for value in top])
    return tuple([*counts, max(total - sum(counts), 0)] for counts, total in zip(both, totals, strict=True))


def _reference(profiles: Sequence[Profile], config: ValidationConfig) -> Profile:
    from pipelines.validation.profile import add

    return add(profiles[-config.compare_windows :])


def _volume(
    group: str,
    profile: Profile,
    earlier: Sequence[EarlierWindow],
    config: ValidationConfig,
    since: datetime | None,
    until: datetime,
) -> list[Difference]:
    """Compare rows a day with the median of the windows before; only events come in a stream."""
    if group not in ("events", EVENT_LOG) or since is None:
        return []
    rates = [
        window.profiles[group].rows / _days(window.since, window.until)
        for window in earlier
        if window.since is not None
    ][-config.volume_windows :]
    if len(rates) < FIRST_JUDGED - 1:
        return []
    usual, days = median(rates), _days(since, until)
    if usual * days < config.compare_min_rows and profile.rows < config.compare_min_rows:
        return []
    # A window with few rows is warned about and never stops a run: nothing in it is wrong.
    small = profile.rows < config.compare_min_rows
    return [
        Difference(
            kind="volume",
            group=group,
            column="rows",
            found=profile.rows / days,
            reference=usual,
            low_warn=usual / config.volume_warn,
            high_warn=usual * config.volume_warn,
            low_stop=None if small else usual / config.volume_stop,
            high_stop=usual * config.volume_stop,
        )
    ]


def _shares(group: str, now: Profile, before: Profile, config: ValidationConfig) -> list[Difference]:
    found = [
        _share("nulls", group, column, now.nulls[column], before.nulls[column], now, before, config)
        for column in now.nulls
        if column in before.nulls
    ]
    types_now, types_before = now.values.get("event_type", {}), before.values.get("event_type", {})
    for kind in sorted({*types_now, *types_before}):
        counts = types_now.get(kind, 0), types_before.get(kind, 0)
        found.append(_share("share", group, kind, *counts, now, before, config))
    return found


def _share(
    kind: Literal["nulls", "share"],
    group: str,
    column: str,
    count: int,
    count_before: int,
    now: Profile,
    before: Profile,
    config: ValidationConfig,
) -> Difference:
    usual = count_before / before.rows
    warn = config.null_share_warn if kind == "nulls" else config.type_share_warn
    stop = config.null_share_stop if kind == "nulls" else config.type_share_stop
    return Difference(
        kind, group, column, count / now.rows, usual, usual - warn, usual + warn, usual - stop, usual + stop
    )


def _drifts(group: str, now: Profile, before: Profile, config: ValidationConfig) -> Iterable[Difference]:
    pairs: dict[str, tuple[Sequence[int], ...]] = {}
    for column, counts in now.numbers.items():
        pairs[column] = number_bins(before.numbers.get(column, {}), counts) if before.numbers.get(column) else ((), ())
    for column, texts in now.values.items():
        totals = (before.rows - before.nulls.get(column, 0), now.rows - now.nulls.get(column, 0))
        pairs[column] = value_bins(before.values.get(column, {}), texts, totals)
    for column, (reference, found) in pairs.items():
        if min(sum(reference), sum(found)) >= config.compare_min_rows:
            value = distance(reference, found)
            yield Difference("drift", group, column, value, 0, None, config.drift_warn, None, config.drift_stop)


def _count(counts: Mapping[int, int], edges: Sequence[int]) -> list[int]:
    """Count in the bins that end with each edge, and in the last one, which has no end."""
    from bisect import bisect_left

    bins = [0] * (len(edges) + 1)
    for bucket, count in counts.items():
        bins[bisect_left(edges, bucket)] += count
    return bins


def _days(since: datetime | None, until: datetime) -> float:
    return max((until - since).total_seconds(), 1) / _SECONDS_PER_DAY if since else 1
