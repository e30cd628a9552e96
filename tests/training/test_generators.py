"""What candidates come from, made of a table of events."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import RankerConfig
from pipelines.progress import SilentProgress
from pipelines.retrieval.trends import TREND_FEATURES
from pipelines.training.generators import build_behavior_tables

DAY_US = 86_400_000_000


def test_trends_count_events_and_users():
    events = pa.table(
        {
            "user_id": ["ann", "ann", "bob", "ann"],
            "session_id": pa.nulls(4, pa.string()),
            "item_id": ["tea", "tea", "tea", "gone"],
            "event_type": ["purchase"] * 4,
            "event_timestamp": pa.array(np.array([1, 2, 2, 2]) * DAY_US, pa.timestamp("us", "UTC")),
        }
    )
    found = build_behavior_tables(events, ["tea", "milk"], RankerConfig(), SilentProgress())
    of_tea = dict(zip(TREND_FEATURES, np.expm1(found.trends.at(3 * 86_400.0)[0]), strict=True))
    assert of_tea["log_total"] == pytest.approx(3)
    assert of_tea["log_buyers"] == pytest.approx(2)
