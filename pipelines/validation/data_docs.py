"""The index page of the Data Docs: plain HTML that needs no script and no network. Pure: what was checked -> HTML.

Great Expectations writes an index of its own, whose table stays empty without scripts from the Internet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from urllib.parse import quote

from pipelines.html_page import html_page

_STYLE = """
th, td { white-space: nowrap; }
.failed { color: #a40000; font-weight: 600; }
"""


@dataclass(frozen=True)
class Check:
    """One table of one window, or one piece of a long table, as Great Expectations saw it."""

    window: str
    table: str
    until: datetime
    """End of the window."""
    met: int
    """Expectations that every row meets."""
    expectations: int
    page: str
    """Path of the validation page, relative to the index."""

    @property
    def success(self) -> bool:
        """Whether every row meets every expectation."""
        return self.met == self.expectations


def index_page(checks: Sequence[Check], *, older: int = 0, overview: str = "") -> str:
    """Return the page, one row a check in the given order.

    Args:
        older: How many checks are not listed.
        overview: Page with the pictures, beside this one.
    """
    rows = [
        f"<tr><td>{check.until.astimezone(UTC):%Y-%m-%d %H:%M:%S}</td><td>{escape(check.window)}</td>"
        f"<td>{escape(check.table)}</td>{_outcome(check)}<td>{check.met} of {check.expectations}</td>"
        f"<td><a href='{escape(quote(check.page))}'>details</a></td></tr>"
        for check in checks
    ]
    glance = f"<p><a href='{escape(quote(overview))}'>Pictures: the data at a glance</a></p>\n" if overview else ""
    rest = f"<p>{older:,} older checks are not listed; their pages are beside these.</p>" if older else ""
    body = (
        "<h1>Data Docs</h1>\n"
        "<p>What each window's tables looked like, newest first. <em>Failed</em> means that some rows break an "
        "expectation: these go to quarantine, and too many of them stop the run.</p>\n"
        f"{glance}"
        "<div class='wide'><table><tr><th>window ends (UTC)</th><th>window</th><th>table</th><th>outcome</th>"
        "<th>expectations met</th><th>page</th></tr>\n" + "\n".join(rows) + f"\n</table></div>{rest}"
    )
    return html_page("Data Docs of headrace", body, style=_STYLE)


def _outcome(check: Check) -> str:
    return "<td>success</td>" if check.success else "<td class='failed'>failed</td>"
