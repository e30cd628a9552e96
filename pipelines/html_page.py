"""The frame of every page that we write: plain HTML that needs no script and no network."""

from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
"""


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Return a page.

    Args:
        title: Plain text.
        body: HTML. A table in `<div class='wide'>` scrolls by itself.
        style: CSS of this page, which counts over that of all pages.
    """
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
    return f"{head}<style>{_STYLE}{style.lstrip()}</style>\n{body}</html>\n"
