"""One HTML page a skew audit: how far what was served is from the offline store. It needs no other file."""

from html import escape

from pipelines.html_page import html_page
from pipelines.schemas import SkewAudit

_STYLE = """
table { margin: 1rem 0; }
th, td { vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
tr.bad { background: #fdecea; }
"""


def skew_page(audit: SkewAudit) -> str:
    """Return the page."""
    parts = [
        "<h1>Served features against the offline store</h1>",
        f"<p>{audit.compared:,} requests compared with what arrived up to {audit.until:%Y-%m-%d %H:%M:%S} UTC; "
        f"{audit.strangers:,} requests of strangers, {audit.pending:,} newer than that and left for the next audit. "
        f"{audit.behind:.2%} of the requests were answered before newer events of their user had reached the online "
        "store.</p>",
        "<table><tr><th>feature</th><th>requests that differ</th></tr>",
        *(
            f"<tr{' class=bad' if share else ''}><td>{escape(name)}</td><td class='number'>{share:.4%}</td></tr>"
            for name, share in audit.mismatch.items()
        ),
        "</table>",
    ]
    if audit.examples:
        parts += [
            "<h2>Examples</h2><div class='wide'><table>",
            "<tr><th>feature</th><th>user</th><th>request</th><th>served</th><th>offline</th></tr>",
            *(
                f"<tr><td>{escape(one.feature)}</td><td>{escape(one.user_id)}</td>"
                f"<td>{one.requested_at:%Y-%m-%d %H:%M:%S}</td><td>{escape(one.served)}</td>"
                f"<td>{escape(one.offline)}</td></tr>"
                for one in audit.examples
            ),
            "</table></div>",
        ]
    return html_page("Skew audit", "\n".join(parts), style=_STYLE)
