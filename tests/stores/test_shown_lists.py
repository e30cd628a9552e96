"""The log of what was shown."""

import numpy as np
import pytest

from pipelines.stores.shown_lists import ShownListsLog, read_shown_lists
from tests.toys.event_tables import day

LIST = {
    "request_id": "r1",
    "user_id": "a pseudonym",
    "call": "recommend",
    "bundle": "b1",
    "first_position": 11,
    "item_ids": ["a", "b"],
    "scores": np.array([0.5, 0.25], np.float32),
    "propensities": (1.0, 0.05),
    "parts": {"dense": np.array([0.125, 0], np.float32)},
    "rules": ("summer",),
    "seed": "s",
    "degraded": False,
}


def test_a_list_is_kept_with_its_propensities(tmp_path):
    log = ShownListsLog(tmp_path, share=1, keep_days=7)
    log.offer(now=day(1), **LIST)
    log.offer(now=day(2), **{**LIST, "user_id": None, "propensities": None})
    log.close()
    first, second = read_shown_lists(tmp_path, limit=10)
    assert first == {
        **LIST,
        "requested_at": day(1),
        "scores": [0.5, 0.25],
        "propensities": [1.0, 0.05],
        "parts": {"dense": [0.125, 0.0]},
        "rules": ["summer"],
    }
    assert (second["user_id"], second["propensities"]) == (None, [1, 1])
    assert log.dropped == 0


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.5, 1), (1.0, 2)])
def test_a_share_is_kept(tmp_path, share, kept):
    chances = iter([0.2, 0.7])
    log = ShownListsLog(tmp_path, share=share, keep_days=7, chance=lambda: next(chances))
    for _ in range(2):
        log.offer(now=day(1), **LIST)
    log.close()
    assert len(read_shown_lists(tmp_path, limit=10)) == kept
