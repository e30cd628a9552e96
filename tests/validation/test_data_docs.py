"""The index page of the Data Docs."""

from datetime import UTC, datetime

from pipelines.validation.data_docs import Check, index_page

GOOD = Check("w<1>", "items", datetime(2026, 3, 1, 12, tzinfo=UTC), 12, 12, "gx/items/a b.html")
BAD = Check("w<1>", "events", datetime(2026, 3, 1, 12, tzinfo=UTC), 13, 15, "gx/events.html")


def test_a_row_tells_time_window_table_outcome_and_page():
    page = index_page([BAD, GOOD])
    assert (
        "<tr><td>2026-03-01 12:00:00</td><td>w&lt;1&gt;</td><td>events</td><td class='failed'>failed</td>"
        "<td>13 of 15</td><td><a href='gx/events.html'>details</a></td></tr>\n"
        "<tr><td>2026-03-01 12:00:00</td><td>w&lt;1&gt;</td><td>items</td><td>success</td>"
        "<td>12 of 12</td><td><a href='gx/items/a%20b.html'>details</a></td></tr>"
    ) in page


def test_the_page_needs_nothing_else_and_says_what_it_leaves_out():
    page = index_page([GOOD], older=1200)
    assert not any(word in page for word in ("http", "<script", "<link", "src="))
    assert "1,200 older checks are not listed" in page
    assert "older" not in index_page([GOOD])
