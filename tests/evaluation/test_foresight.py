"""What a bundle may know of the time after the test window began: nothing."""

import numpy as np
import pytest

from pipelines.evaluation.foresight import look_ahead
from pipelines.inference.bundle import load_bundle
from pipelines.retrieval.trends import build_trends
from tests.toys.event_tables import day
from tests.toys.toy_bundle import ITEMS, POPULARITY, write_toy_bundle

IDS = ITEMS["item_id"].to_pylist()
SOLD = np.asarray([1, 1, 3, 7, 0, 0], np.float32)
"""Items a to d had events before; the bundle's popularity knows b, c and d."""


def bundle_with(folder, *, days, popularity=POPULARITY):
    """A bundle whose trends count one event of item a on each of these days."""
    moments = np.asarray([int(day(number).timestamp()) for number in days], np.int64)
    trends = build_trends(np.zeros(len(moments), np.int64), moments, len(IDS))
    write_toy_bundle(folder, trends=trends, popularity=popularity)
    return load_bundle(folder)


@pytest.mark.parametrize(
    ("days", "until", "passed"),
    [
        pytest.param([1, 9], 10, True, id="before the window"),
        pytest.param([9.9], 9.95, True, id="earlier on the day in which the window begins"),
        pytest.param([1, 10.5], 10, False, id="on its first day"),
        pytest.param([400], 10, False, id="long after"),
        pytest.param([], 10, True, id="nothing counted"),
    ],
)
def test_trends_may_not_count_what_came_later(tmp_path, days, until, passed):
    found = look_ahead(bundle_with(tmp_path / "b", days=days), day(until), SOLD, IDS)
    assert found.passed == passed
    if not passed:
        assert "the bundle knows the future: its trends count events of 1 items from 2026-01-11" in found.words


def test_an_item_that_nobody_had_bought_cannot_be_popular(tmp_path):
    bundle = bundle_with(tmp_path / "b", days=[1], popularity=np.asarray([0, 1, 3, 7, 2, 0], np.float32))
    found = look_ahead(bundle, day(10), SOLD, IDS)
    assert not found.passed
    assert found.words.endswith("1 items are popular in it without an event before 2026-01-11")
    assert look_ahead(bundle, day(10), SOLD + 1, IDS).passed
    assert look_ahead(bundle, day(10), np.append(SOLD + 1, 1), [*IDS, "an item of the champion"]).passed
