import math

import numpy as np
import pytest

from pipelines.features.activity import ACTIVITY_FEATURES, activity_vector
from pipelines.features.user_state import USER_ROWS


def test_every_feature_is_a_column_of_the_user_rows():
    assert set(ACTIVITY_FEATURES) < set(USER_ROWS.names)


def test_the_vector_is_the_logarithm_in_the_order_of_the_features():
    vector = activity_vector({"clicks": math.e - 1, "spend_28d_decayed": 9.0, "views": 0.0, "days_since_first": 3})

    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, [0, 1, 0, 0, 0, 0, 0, 0, math.log(10), 0, 0, math.log(4)], rtol=1e-6)


@pytest.mark.parametrize("nothing", [None, math.nan, -3.0], ids=["null", "NaN", "a refund"])
def test_what_is_unknown_or_negative_counts_as_zero(nothing):
    np.testing.assert_array_equal(activity_vector({"spend_28d_decayed": nothing}), np.zeros(12, np.float32))
