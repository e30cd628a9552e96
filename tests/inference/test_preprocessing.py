"""One preprocessing for training and serving."""

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.inference.preprocessing import Preprocessing, behavior_batch

DAY_S = 86_400


def test_event_types_that_the_model_never_saw_are_number_0():
    assert Preprocessing().event_type_numbers(["purchase", "impression", "view"]).tolist() == [4, 0, 1]


def test_gap_buckets_close_at_their_upper_end():
    preprocessing = Preprocessing(gap_bucket_edges_s=(60, 3_600))
    now_s = 10_000.0
    times = [10_000, 9_940, 9_939, 6_400, 6_399, 10_005]
    assert preprocessing.gap_buckets(times, now_s).tolist() == [0, 0, 1, 1, 2, 0]
    assert preprocessing.n_gap_buckets == 3


def test_a_batch_is_left_aligned_without_unknown_items_and_with_the_newest_events():
    preprocessing = Preprocessing(max_history=2, gap_bucket_edges_s=(DAY_S,))
    batch = behavior_batch(
        [
            (np.array([7, -1, 8, 9]), ["view", "view", "purchase", "cart"], [0, 1, 2, 3 * DAY_S]),
            (np.array([5]), ["click"], [3 * DAY_S]),
            (np.array([-1]), ["click"], [0]),
        ],
        [3 * DAY_S + 10.0] * 3,
        preprocessing,
    )
    assert batch.item_rows.tolist() == [[8, 9], [5, -1], [-1, -1]]
    assert batch.event_types.tolist() == [[4, 3], [2, 0], [0, 0]]
    assert batch.gap_buckets.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert batch.mask.tolist() == [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    "wrong",
    [{"event_types": ("view",)}, {"gap_bucket_edges_s": (5, 5)}, {"max_tokens": 1}, {"history_decay": 0}, {"new": 1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Preprocessing(**wrong)
