"""One HTML page an evaluation: the tables, the pictures and how the numbers came about. It needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from pipelines.evaluation.cases import gain_over
from pipelines.evaluation.examples import Example
from pipelines.evaluation.golden import GOLDEN_TITLES, GOLDEN_VECTORS
from pipelines.evaluation.invariances import SAME_AGAIN, SAME_BLANKS, SAME_CASE, TIED
from pipelines.evaluation.metrics import METRICS
from pipelines.evaluation.row_values import LIST_VALUES, NEXT_BASKET, SLICED, SLICES
from pipelines.evaluation.search_cases import SEARCH
from pipelines.html_page import html_page
from pipelines.promotion.budgets import MEMORY, SIZE
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
table.examples td { text-align: left; vertical-align: top; }
"""
_OVER_ALL_ROWS = (
    ("Items that are new to the user", "", "What the user had seen before is left out of the ranking."),
    ("The whole next basket", NEXT_BASKET, "Nothing is left out; most targets were bought before."),
    (
        "Search",
        SEARCH,
        "Items that read the same as the wanted one are targets too: they can be many, so look at ndcg@10 and mrr.",
    ),
)
"""Title, prefix of the metrics, and an explanation of each table."""
_BESIDE = {
    MEMORY: "memory, MiB",
    SIZE: "size, MiB",
    GOLDEN_TITLES: "titles that find their item",
    GOLDEN_VECTORS: "… by vectors alone",
    SAME_CASE: "answers kept in capitals",
    SAME_BLANKS: "answers kept with more white space",
    SAME_AGAIN: "same answer when asked again",
    TIED: "lists decided by the order of the catalogue",
}
"""Name of a metric that is no quality -> what the page calls it."""


def evaluation_page(
    report: EvaluationReport,
    notes: Sequence[str],
    figures: Mapping[str, "Figure"],
    examples: Sequence[Example] = (),
    challenger: str = "headrace",
) -> str:
    """Return the page.

    Args:
        notes: How it was measured, one sentence each.
        figures: Caption -> picture.
        examples: Answers side by side.
        challenger: The case that wants to become the champion.
    """
    cases = [case for case in report.metrics if not _is_gain(report, case)]
    gains = [case for case in report.metrics if _is_gain(report, case)]
    parts = [
        f"<h1>Evaluation of bundle {escape(report.bundle)}</h1>",
        f"<p>Test window {report.test_start:%Y-%m-%d} to {report.test_end:%Y-%m-%d}, {report.users:,} users; champion: "
        f"{escape(report.champion or 'none')}. Intervals hold 95 %.</p>",
        *_findings(report),
        *_beside_quality(report),
        *(
            f"<h2>{escape(caption)}</h2><img alt='{escape(caption)}' src='{_data_uri(figure)}'>"
            for caption, figure in figures.items()
        ),
        *_tables(report, cases, challenger),
        "<h2>Paired gains of the challenger</h2>",
        _table(report.metrics, gains, list(METRICS), "", challenger, signed=True),
        *_slice_tables(report, cases, challenger),
        *_side_by_side(examples),
        "<h2>How this was measured</h2><ul>",
        *(f"<li>{escape(note)}</li>" for note in notes),
        "</ul>",
    ]
    return html_page(report.bundle, "\n".join(parts), style=_STYLE)


def _tables(report: EvaluationReport, cases: Sequence[str], challenger: str) -> list[str]:
    """Return the tables over all rows, those that were measured."""
    parts = []
    for title, prefix, explanation in _OVER_ALL_ROWS:
        names = [prefix + name for name in METRICS]
        found = [case for case in cases if names[0] in report.metrics[case]]
        if found:
            table = _table(report.metrics, found, names, prefix, challenger)
            parts += [f"<h2>{title}</h2><p>{explanation}</p>", table]
    if any(name in report.metrics[case] for case in cases for name in LIST_VALUES):
        table = _table(report.metrics, cases, list(LIST_VALUES), "", challenger)
        parts += ["<h2>The ten items shown</h2>", table]
    return parts


def _slice_tables(report: EvaluationReport, cases: Sequence[str], challenger: str) -> list[str]:
    parts = []
    for slice_name in dict.fromkeys((*SLICES, *report.slice_rows)):
        names = [f"{slice_name}.{metric}" for metric in SLICED]
        if any(names[0] in report.metrics[case] for case in cases):
            table = _table(report.metrics, cases, names, f"{slice_name}.", challenger)
            parts += [f"<h3>{escape(_slice_title(slice_name, report))}</h3>", table]
    return ["<h2>Slices</h2><details><summary>A table each</summary>", *parts, "</details>"] if parts else []


def _slice_title(name: str, report: EvaluationReport) -> str:
    words = f"{name[0].upper()}{name[1:]}" if not name.startswith(SEARCH) else f"Search: {name.removeprefix(SEARCH)}"
    return f"{words} ({report.slice_rows[name]:,})" if name in report.slice_rows else words


def _beside_quality(report: EvaluationReport) -> list[str]:
    """Return the table of what both bundles cost and how steady their answers are."""
    cases = list(report.costs)
    if not cases:
        return []
    values = {
        case: {
            **report.costs[case],
            **{name: found.value for name, found in report.metrics.get(case, {}).items() if name in _BESIDE},
        }
        for case in cases
    }
    names = dict.fromkeys(name for found in values.values() for name in found)
    return [
        "<h2>Cost and steadiness</h2><p>Measured on the packaged bundles with the functions that the service answers "
        "with, in turns; memory is what a fresh process grows by.</p>",
        f"<table><tr><th></th>{''.join(f'<th>{escape(case)}</th>' for case in cases)}</tr>",
        *(
            f"<tr><td>{escape(_BESIDE.get(name, name))}</td>"
            + "".join(f"<td>{_plain(values[case].get(name))}</td>" for case in cases)
            + "</tr>"
            for name in names
        ),
        "</table>",
    ]


def _findings(report: EvaluationReport) -> list[str]:
    if not report.findings:
        return []
    lines = (f"<li>{'✓' if one.passed else '✗'} {escape(one.words)}</li>" for one in report.findings)
    return ["<h2>Findings</h2><ul>", *lines, "</ul>"]


def _side_by_side(examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    cases = list(examples[0].answers)
    lines = ["<h2>Answers side by side</h2><div class='wide'><table class='examples'><tr><th>asked</th>"]
    lines += [*(f"<th>{escape(case)}</th>" for case in cases), "</tr>"]
    for one in examples:
        answers = "".join(f"<td>{'<br>'.join(map(escape, one.answers[case]))}</td>" for case in cases)
        lines.append(f"<tr><td>{escape(one.asked)}</td>{answers}</tr>")
    return ["".join([*lines, "</table></div>"])]


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


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
