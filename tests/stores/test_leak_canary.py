from datetime import timedelta

import pyarrow as pa
import pytest

from pipelines.errors import DataError
from pipelines.schemas import TIMESTAMP
from pipelines.stores.leak_canary import check_canary
from pipelines.stores.point_in_time import join_features
from tests.toys.event_tables import day

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]

MOMENTS = pa.array([day(3), day(1), day(1), day(2)], TIMESTAMP)
LABELS = pa.array(["bread", "milk", "milk", "soap"])


def without_arrival(store, entities, features):
    """Join as bare Feast does."""
    joined = store.get_historical_features(entity_df=entities.to_pandas(), features=features).to_arrow()
    return joined.take(pa.compute.index_in(entities["canary_id"], value_set=joined["canary_id"].combine_chunks()))


def without_time(store, entities, features):
    """Join as if the rows were asked for a second later."""
    later = pa.compute.add(entities["event_timestamp"], pa.scalar(timedelta(seconds=1)))
    return join_features(store, entities.set_column(1, "event_timestamp", later), features)


def nothing(store, entities, features):
    """Join nothing at all, which leaks nothing either."""
    for feature in features:
        entities = entities.append_column(feature.split(":")[1], pa.nulls(entities.num_rows, pa.string()))
    return entities


def test_the_join_of_ours_brings_nothing_from_the_future_and_leaves_nothing_behind(tmp_path):
    assert check_canary(MOMENTS, LABELS, folder=tmp_path, join=join_features) == 12
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("join", "found"),
    [
        pytest.param(without_arrival, "4 of 4 training rows were given a label that arrived after its time", id="late"),
        pytest.param(without_time, "4 of 4 training rows were given a label from after its time", id="future"),
        pytest.param(
            nothing, "canary is blind: of 4 labels that were known, the point-in-time join brought 0", id="blind"
        ),
    ],
)
def test_a_join_that_leaks_is_found(tmp_path, join, found):
    with pytest.raises(DataError, match=found):
        check_canary(MOMENTS, LABELS, folder=tmp_path, join=join)
    assert list(tmp_path.iterdir()) == []
