"""One HTML page an evaluation: the tables, the pictures and how the numbers came about. It needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from pipelines.evaluation.cases import gain_over
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.row_values import LIST_VALUES, NEXT_BASKET, SLICED, SLICES
from pipelines.evaluation.search_cases import SEARCH
from pipelines.html_page import html_page
from pipelines.schemas import EvaluationReport, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
table { margin: 1rem 0; }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
small { color: #666; }
tr.own { font-weight: 600; background: #eef4fb; }
img { max-width: 100%; }
"""


def evaluation_page(
    report: EvaluationReport, notes: Sequence[str], figures: Mapping[str, "Figure"], challenger: str = "headrace"
) -> str:
    """Return the page.

    Args:
        notes: How it was measured, one sentence each.
        figures: Caption -> picture.
        challenger: The case that wants to become the champion.
    """
    tables = (
        ("Items that are new to the user", "", "What the user had seen before is left out of the ranking."),
        ("The whole next basket", NEXT_BASKET, "Nothing is left out; most targets were bought before."),
        (
            "Search",
            SEARCH,
            "Items that read the same as the wanted one are targets too: they can be many, so look at ndcg@10 and mrr.",
        ),
    )
    parts = [
        f"<h1>Evaluation of bundle {escape(report.bundle)}</h1>",
        f"<p>Test window {report.test_start:%Y-%m-%d} to {report.test_end:%Y-%m-%d}, {report.users:,} users. "
        "Intervals hold 95 %.</p>",
    ]
    for title, prefix, explanation in tables:
        names = [prefix + name for name in METRICS]
        cases = [case for case, found in report.metrics.items() if names[0] in found and not _is_gain(report, case)]
        if cases:
            parts += [
                f"<h2>{title}</h2><p>{explanation}</p>",
                _table(report.metrics, cases, names, prefix, challenger),
            ]
    cases = [case for case in report.metrics if not _is_gain(report, case)]
    for title, names in (
        *((f"{name[0].upper()}{name[1:]}", [f"{name}.{metric}" for metric in SLICED]) for name in SLICES),
        ("The ten items shown", list(LIST_VALUES)),
    ):
        if any(names[0] in report.metrics[case] for case in cases):
            prefix = names[0].removesuffix(SLICED[0])
            parts += [f"<h3>{escape(title)}</h3>", _table(report.metrics, cases, names, prefix, challenger)]
    gains = [case for case in report.metrics if _is_gain(report, case)]
    parts += [
        "<h2>Paired gains of the challenger</h2>",
        _table(report.metrics, gains, list(METRICS), "", challenger, signed=True),
        "<h2>Latency of one answer</h2>",
        "<table><tr><th>request</th><th>ms</th></tr>",
        *(f"<tr><td>{escape(name)}</td><td>{value:.2f}</td></tr>" for name, value in report.latency_ms.items()),
        "</table>",
    ]
    for caption, figure in figures.items():
        parts.append(f"<h2>{escape(caption)}</h2><img alt='{escape(caption)}' src='{_data_uri(figure)}'>")
    parts += ["<h2>How this was measured</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    return html_page(report.bundle, "\n".join(parts), style=_STYLE)


def _is_gain(report: EvaluationReport, case: str) -> bool:
    return any(case == gain_over(other) for other in report.metrics)


def _table(
    metrics: Mapping[str, Mapping[str, Metric]],
    cases: Sequence[str],
    names: Sequence[str],
    prefix: str,
    challenger: str,
    *,
    signed: bool = False,
) -> str:
    """Return a table that scrolls on its own where it is too wide, with the cases that have any value."""
    titles = (f"<th>{escape(name.removeprefix(prefix))}</th>" for name in names)
    lines = ["<div class='wide'><table><tr><th>case</th>", *titles, "</tr>"]
    for case in (case for case in cases if any(name in metrics[case] for name in names)):
        lines.append(f"<tr{' class=own' if case == challenger else ''}><td>{escape(case)}</td>")
        lines += [f"<td>{_words(metrics[case].get(name), signed)}</td>" for name in names]
        lines.append("</tr>")
    return "".join([*lines, "</table></div>"])


def _words(metric: Metric | None, signed: bool) -> str:
    if metric is None:
        return "–"
    sign = "+" if signed else ""
    value = f"{metric.value:{sign}.4f}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} <small>{metric.low:{sign}.4f} to {metric.high:{sign}.4f}</small>"


def _data_uri(figure: "Figure") -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
