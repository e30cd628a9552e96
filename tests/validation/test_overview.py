"""The page of pictures: it draws whatever there is, and says in words what it draws."""

import re
from datetime import UTC, datetime

from pipelines.validation.overview import Drift, Glance, overview_figure, overview_page
from pipelines.validation.profile import Profile

EVENTS = Profile(
    rows=30, values={"event_type": {"view": 20, "purchase": 10}}, days={"2026-02-27": 10, "2026-02-28": 20}
)
GOOD = Glance(
    window="w<1>",
    until=datetime(2026, 3, 1, tzinfo=UTC),
    accepted={"events": 30},
    quarantined={"events": 10},
    reasons={"events: item_id is not in items": 7, "events: value is wrong": 3},
    prepared={"events: exact duplicate": 4},
    groups={"events": EVENTS, "event_log": EVENTS},
    drift=[Drift("events.value", 0.4, 0.15, 0.5), Drift("events.item_id", 0.6, 0.15, 0.5)],
    warnings=["`value` is far & away"],
)
REFUSED = Glance(window="w2", until=datetime(2026, 3, 2, tzinfo=UTC), groups={"events": EVENTS}, refused="too <much>")


def page(*windows):
    return overview_page(windows, picture="overview.png", rules_version="7")


def test_numbers_are_on_the_page():
    text = page(GOOD)
    assert "w&lt;1&gt;" in text and "rules version 7" in text
    assert "<td>events</td><td class='number'>30</td><td class='number'>10</td><td class='number'>25.00%</td>" in text
    assert "<td>events.value</td><td class='number'>0.400</td>" in text
    assert text.count("<td class='warn'>warn</td>") == text.count("<td class='stop'>stop</td>") == 1
    assert "<td>events: exact duplicate</td><td class='number'>4</td>" in text
    assert "`value` is far &amp; away" in text


def test_picture_is_told_in_words():
    (words,) = re.findall(r"alt='([^']+)'", page(GOOD))
    assert "30 events; 10 rows set aside" in words
    assert "events: item_id is not in items (7 rows)" in words
    assert "largest drift 0.60 in events.item_id" in words


def test_refused_window_says_why():
    assert "Not accepted: too &lt;much&gt;" in page(GOOD, REFUSED)


def test_page_needs_nothing_from_elsewhere():
    text = page(GOOD)
    assert "<script" not in text and "http" not in text
    assert re.findall(r"src='([^']+)'", text) == ["overview.png"]


def test_figure_has_the_width_of_the_page_and_four_panels():
    figure = overview_figure([GOOD, REFUSED])
    assert figure.get_size_inches()[0] * figure.dpi == 1200
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 4 and "Why rows were set aside, last 2 windows" in titles


def test_refused_window_adds_no_volume():
    with_refused, without = overview_figure([GOOD, REFUSED]), overview_figure([GOOD])
    heights = [[bar.get_height() for bar in figure.axes[0].patches] for figure in (with_refused, without)]
    assert heights[0] == heights[1] == [10, 20, 10, 20]


def test_empty_window_is_drawn():
    nothing = Glance(window="w", until=datetime(2026, 3, 1, tzinfo=UTC))
    texts = [text.get_text() for axis in overview_figure([nothing]).axes for text in axis.texts]
    assert texts == ["no events yet", "no events yet", "no row was set aside", "nothing to compare with yet"]
    assert "No row was set aside." in page(nothing)
