"""One page of pictures that a person takes in at a glance. Pure: windows in, a matplotlib figure and HTML out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pipelines.html_page import html_page
from pipelines.schemas import EVENT_LOG, EVENT_TYPES
from pipelines.validation.profile import Profile, add

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DAYS_SHOWN = 90
_WINDOWS_SHOWN = 14
_REASONS_SHOWN = 8
_COLUMNS_SHOWN = 12
_LABEL_CHARACTERS = 28
_SIZE_IN, _DPI = (12.0, 8.4), 100
_COLORS = {"events": "tab:blue", EVENT_LOG: "tab:orange"}
_STYLE = """
body { max-width: 1200px; }
img { max-width: 100%; height: auto; }
table { margin-bottom: 1.5rem; }
th, td { padding: .25rem .8rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.stop { color: #a40000; font-weight: 600; }
.warn { color: #8a5a00; font-weight: 600; }
"""


@dataclass(frozen=True)
class Drift:
    """How far a column of a window lies from the windows before it."""

    column: str
    """Group and column, such as `events.value`."""
    found: float
    warn: float
    stop: float

    @property
    def level(self) -> str:
        """`stop`, `warn` or nothing."""
        return "stop" if self.found > self.stop else "warn" if self.found > self.warn else ""


@dataclass(frozen=True)
class Glance:
    """What the page shows of one window."""

    window: str
    until: datetime
    accepted: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    prepared: Mapping[str, int] = field(default_factory=dict)
    """Rows that preparation changed or left out, by rule."""
    groups: Mapping[str, Profile] = field(default_factory=dict)
    drift: Sequence[Drift] = ()
    warnings: Sequence[str] = ()
    refused: str = ""
    """Why the window was not accepted; empty where it was."""


def overview_figure(windows: Sequence[Glance]) -> "Figure":
    """Draw volume over time, type mix, top reasons and drift per column.

    Args:
        windows: Oldest first; at least one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    (volume, mix), (reasons, drift) = figure.subplots(2, 2)
    _draw_volume(volume, windows)
    _draw_mix(mix, windows)
    _draw_reasons(reasons, windows)
    _draw_drift(drift, windows[-1])
    return figure


def overview_page(windows: Sequence[Glance], *, picture: str, rules_version: str) -> str:
    """Return the page: the picture with its numbers below, as plain HTML without scripts.

    Args:
        windows: Oldest first; at least one.
        picture: File name of the picture, beside the page.
    """
    newest = windows[-1]
    state = f"<p class='stop'>Not accepted: {escape(newest.refused)}</p>" if newest.refused else ""
    warned = "".join(f"<li class='warn'>{escape(sentence)}</li>" for sentence in newest.warnings)
    parts = [
        "<h1>Data at a glance</h1>\n",
        f"<p>Newest window: {escape(newest.window)}, up to {_moment(newest.until)} UTC, rules version ",
        f"{escape(rules_version)}. <a href='index.html'>All checks</a></p>{state}",
        f"<ul>{warned}</ul>" if warned else "",
        f"<img src='{escape(picture)}' width='1200' height='840' alt='{escape(_alternative(windows), quote=True)}'>\n",
        "<h2>Windows</h2>",
        _table(
            ("window ends (UTC)", "table", "accepted", "set aside", "share set aside"),
            [row for window in windows[::-1][:_WINDOWS_SHOWN] for row in _window_rows(window)],
        ),
        "<h2>Drift of the newest window</h2>",
        _table(
            ("column", "distance", "warned above", "stops above", ""),
            [(one.column, f"{one.found:.3f}", f"{one.warn:g}", f"{one.stop:g}", one.level) for one in newest.drift],
        )
        or "<p>Nothing to compare with yet.</p>",
        "<h2>Reasons</h2>",
        _table(("reason", "rows"), [(reason, f"{rows:,}") for reason, rows in _top_reasons(windows)])
        or "<p>No row was set aside.</p>",
        "<h2>Preparation of the newest window</h2>",
        _table(("rule", "rows"), [(rule, f"{rows:,}") for rule, rows in newest.prepared.items()])
        or "<p>No row was changed or left out.</p>",
    ]
    return html_page("Data of headrace at a glance", "".join(parts), style=_STYLE)


def _draw_volume(axis: "Axes", windows: Sequence[Glance]) -> None:
    days = _days(windows)
    shown = sorted({day for counts in days.values() for day in counts})[-_DAYS_SHOWN:]
    below = [0] * len(shown)
    for group, counts in days.items():
        heights = [counts.get(day, 0) for day in shown]
        places: Any = [datetime.fromisoformat(day) for day in shown]
        label = "service" if group == EVENT_LOG else "source"
        axis.bar(places, heights, bottom=below, width=0.9, color=_COLORS[group], label=label)
        below = [under + height for under, height in zip(below, heights, strict=True)]
    axis.set_title("Accepted events by the day on which they happened")
    axis.set_ylabel("events a day")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.tick_params(axis="x", rotation=30)
    axis.grid(axis="y", alpha=0.3)
    if not shown:
        _say(axis, "no events yet")
    elif len(days) > 1:
        axis.legend(frameon=False)


def _draw_mix(axis: "Axes", windows: Sequence[Glance]) -> None:
    shown = [window for window in windows if _types(window)][-_WINDOWS_SHOWN:]
    labels = [f"{window.until.astimezone(UTC):%m-%d %H:%M}" for window in shown]
    left = [0.0] * len(shown)
    colors = _palette()
    for number, kind in enumerate(EVENT_TYPES):
        shares = [_types(window).get(kind, 0) / sum(_types(window).values()) for window in shown]
        if any(shares):
            axis.barh(range(len(shown)), shares, left=left, color=colors[number], label=kind)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axis.set_yticks(range(len(shown)), labels, fontsize=8)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_title("Event types, by end of the window (UTC)")
    if shown:
        axis.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    else:
        _say(axis, "no events yet")


def _draw_reasons(axis: "Axes", windows: Sequence[Glance]) -> None:
    top = _top_reasons(windows)[:_REASONS_SHOWN][::-1]
    rows = [rows for _, rows in top]
    bars = axis.barh([_short(reason) for reason, _ in top], rows, height=_bar(len(top)), color="tab:red", alpha=0.8)
    axis.bar_label(bars, [f"{rows:,}" for _, rows in top], padding=3, fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_title(f"Why rows were set aside, last {len(windows)} windows" if len(windows) > 1 else "Why set aside")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.margins(x=0.15)
    axis.locator_params(axis="x", nbins=5)
    if not top:
        _say(axis, "no row was set aside")


def _draw_drift(axis: "Axes", newest: Glance) -> None:
    shown = sorted(newest.drift, key=lambda one: one.found)[-_COLUMNS_SHOWN:]
    colors = {"": "tab:green", "warn": "tab:orange", "stop": "tab:red"}
    bars = axis.barh(
        [one.column for one in shown],
        [one.found for one in shown],
        height=_bar(len(shown)),
        color=[colors[one.level] for one in shown],
    )
    axis.bar_label(bars, [f"{one.found:.2f}" for one in shown], padding=3, fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_title("Drift of the newest window")
    axis.set_xlabel("Jensen-Shannon distance to the windows before")
    axis.set_xlim(0, 1)
    if not shown:
        _say(axis, "nothing to compare with yet")
        return
    for limit, name, style in ((shown[0].warn, "warning", ":"), (shown[0].stop, "stop", "-")):
        if limit <= 1:
            axis.axvline(limit, color="black", linestyle=style, linewidth=1, label=f"{name} above {limit:g}")
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _say(axis: "Axes", text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="gray")
    axis.set_xticks([])
    axis.set_yticks([])


def _palette() -> list[str]:
    return ["#bbbbbb", "#88ccee", "#44aa99", "#ddcc77", "#cc6677", "#aa4499", "#332288"]


def _days(windows: Sequence[Glance]) -> dict[str, Mapping[str, int]]:
    """Return events by day, of each group that has some; a refused window is not among them."""
    accepted = [window for window in windows if not window.refused]
    found = {}
    for group in ("events", EVENT_LOG):
        profiles = [window.groups[group] for window in accepted if group in window.groups]
        if profiles:
            found[group] = add(profiles).days
    return found


def _types(window: Glance) -> Mapping[str, int]:
    profiles = [window.groups[group] for group in ("events", EVENT_LOG) if group in window.groups]
    return add(profiles).values.get("event_type", {})


def _top_reasons(windows: Sequence[Glance]) -> list[tuple[str, int]]:
    total: dict[str, int] = {}
    for window in windows:
        for reason, rows in window.reasons.items():
            total[reason] = total.get(reason, 0) + rows
    return sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))


def _alternative(windows: Sequence[Glance]) -> str:
    """Return the picture in words, for those who do not see it."""
    newest = windows[-1]
    rows = ", ".join(f"{count:,} {table}" for table, count in newest.accepted.items()) or "no rows"
    aside = sum(newest.quarantined.values())
    worst = max(newest.drift, key=lambda one: one.found, default=None)
    drift = f"largest drift {worst.found:.2f} in {worst.column}" if worst else "no drift measured"
    top = _top_reasons(windows)
    reason = f"most frequent reason: {top[0][0]} ({top[0][1]:,} rows)" if top else "no row was set aside"
    return (
        f"Four charts: events a day, event types by window, reasons for quarantine, drift per column. Newest window: "
        f"{rows}; {aside:,} rows set aside; {reason}; {drift}."
    )


def _window_rows(window: Glance) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for table in dict.fromkeys([*window.accepted, *window.quarantined]):
        good, bad = window.accepted.get(table, 0), window.quarantined.get(table, 0)
        share = f"{bad / (good + bad):.2%}" if good + bad else ""
        rows.append((_moment(window.until), table, f"{good:,}", f"{bad:,}", share))
    return rows


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{head}</tr>\n{body}\n</table></div>\n"


def _cell(text: str) -> str:
    if text in ("warn", "stop"):
        return f"<td class='{text}'>{text}</td>"
    kind = " class='number'" if text.replace(",", "").replace(".", "").removesuffix("%").isdigit() else ""
    return f"<td{kind}>{escape(text)}</td>"


def _bar(bars: int) -> float:
    """Return the height of a bar, so that two bars are no thicker than those of a full panel."""
    return min(0.8, 0.12 * bars)


def _short(text: str) -> str:
    """Return the text in two lines at most."""
    lines = wrap(text, _LABEL_CHARACTERS)
    return "\n".join(lines[:2]) + ("…" if len(lines) > 2 else "")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
