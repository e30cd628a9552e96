"""The real Feast on hand-written events: what is known when, and in which order it comes back."""

import os
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path
from string import Template

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.config import FeatureConfig
from pipelines.errors import StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import TIMESTAMP
from pipelines.steps.build_features import build_features
from pipelines.stores.feast_settings import PROJECT, online_store_settings
from pipelines.stores.feature_store import DEFINITIONS, FeatureStoreClient
from tests.toys.event_tables import day, event, tables_with

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis")

EVENTS = [
    event("u", "a", day(1), value=2.0),
    event("u", "b", day(2), value=4.0, arrived=day(2.5)),
    event("u", "c", day(3), value=6.0),
    event("v", "a", day(2), kind="view"),
]
UNTIL = day(10)


def feature_store(home: Path, events: list[dict], until: datetime = UNTIL) -> FeatureStoreClient:
    places = Places(home)
    build_features(
        tables=tables_with(home, events, until=until),
        features_dir=places.features,
        config=FeatureConfig(),
        until=until,
        progress=SilentProgress(),
    )
    return FeatureStoreClient(places=places, environment={})


def questions(*asked: tuple[str, datetime]) -> pa.Table:
    return pa.table(
        {
            "row_id": pa.array(range(len(asked)), pa.int64()),
            "user_id": [user for user, _ in asked],
            "as_of": pa.array([at for _, at in asked], TIMESTAMP),
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStoreClient:
    return feature_store(tmp_path_factory.mktemp("feature_store"), EVENTS)


@pytest.mark.parametrize(
    ("as_of", "known"),
    [
        pytest.param(day(0.5), [], id="before the first event"),
        pytest.param(day(1), ["a"], id="at the very moment of an event"),
        pytest.param(day(1).astimezone(timezone(timedelta(hours=5))), ["a"], id="the same moment in another zone"),
        pytest.param(day(2.4), ["a"], id="before a late event has arrived"),
        pytest.param(day(2.5), ["a", "b"], id="when it has arrived"),
        pytest.param(day(9), ["a", "b", "c"], id="long after"),
    ],
)
def test_a_history_holds_what_had_happened_and_arrived(store, as_of, known):
    assert store.user_features(questions(("u", as_of)))["item_ids"].to_pylist() == [known]


def test_a_microsecond_before_an_event_it_is_not_known(store):
    answer = store.user_features(questions(("u", day(3) - timedelta(microseconds=1)), ("u", day(3))))

    assert answer["item_ids"].to_pylist() == [["a", "b"], ["a", "b", "c"]]
    assert answer["purchases"].to_pylist() == [2.0, 3.0]
    assert answer["spend_28d_decayed"].to_pylist() == pytest.approx([spent(2.0, 4.0), spent(2.0, 4.0, 6.0)])


def spent(*values: float) -> float:
    """Return the sum of what was spent day by day, the last value today, each halved per 28 days of age."""
    return sum(value * 0.5 ** (age / 28) for age, value in enumerate(reversed(values)))


def test_strangers_have_an_empty_history_and_unknown_activity(store):
    [row] = store.user_features(questions(("nobody", day(9)))).to_pylist()

    assert (row["item_ids"], row["event_types"], row["event_times"]) == ([], [], [])
    assert [row[name] for name in ACTIVITY_FEATURES] == [None] * len(ACTIVITY_FEATURES)


def test_activity_is_forgotten_after_28_days_and_history_never(store):
    fresh, old = store.user_features(questions(("u", day(31)), ("u", day(31.1)))).to_pylist()

    assert fresh["purchases"] == 3.0
    assert old["purchases"] is None
    assert old["item_ids"] == ["a", "b", "c"]


def test_answers_come_in_the_order_of_the_questions(store):
    asked = [("u", day(1 + number % 3 + 0.6)) for number in range(40)] + [("v", day(2)), ("w", day(2))] * 10
    random.Random(5).shuffle(asked)
    histories = {("u", day(1.6)): ["a"], ("u", day(2.6)): ["a", "b"], ("u", day(3.6)): ["a", "b", "c"]}
    histories |= {("v", day(2)): ["a"], ("w", day(2)): []}
    rows = questions(*asked)
    rows = rows.set_column(0, "row_id", pa.array(random.Random(6).sample(range(1000), len(asked)), pa.int64()))

    answer = store.user_features(rows)

    assert answer["row_id"].to_pylist() == rows["row_id"].to_pylist()
    assert answer["item_ids"].to_pylist() == [histories[one] for one in asked]


def test_no_question_no_answer(store):
    assert store.user_features(questions()).num_rows == 0


def test_only_strangers(store):
    assert store.user_features(questions(("x", day(1)), ("y", day(2))))["item_ids"].to_pylist() == [[], []]


def test_doubled_questions_get_doubled_answers(store):
    rows = questions(("u", day(1)), ("u", day(1)), ("u", day(2)))
    doubled = rows.set_column(0, "row_id", pa.array([7, 7, 7], pa.int64()))

    assert store.user_features(doubled)["item_ids"].to_pylist() == [["a"], ["a"], ["a"]]


def test_joining_in_two_steps_gives_what_the_view_of_the_service_gives(store):
    """Training reads `user_moment` and `moment_history`, the service `user_history`: the same lists at each time."""
    asked = [("u", day(number / 4)) for number in range(16)] + [("v", day(1)), ("v", day(2))]
    rows = questions(*asked)
    direct = store.joined(
        rows.rename_columns(["row_id", "user_id", "event_timestamp"]),
        ["user_history:item_ids", "user_history:event_types", "user_history:event_times"],
    )

    answer = store.user_features(rows)

    for name in ("item_ids", "event_types", "event_times"):
        assert answer[name].to_pylist() == direct[name].to_pylist()


def test_without_feature_files_the_error_names_the_step(tmp_path):
    client = FeatureStoreClient(places=Places(tmp_path), environment={})

    with pytest.raises(StoreError, match="run `headrace build_features`"):
        client.user_features(questions(("u", day(1))))
    with pytest.raises(StoreError, match="run `headrace build_features`"):
        client.materialize_items(UNTIL, None, SilentProgress())


def test_items_are_counted_as_they_are_loaded(tmp_path):
    events = [*EVENTS, event("u", "old", day(1)), event("u", "new", day(39.5))]
    store = feature_store(tmp_path, events, until=day(41))
    store.apply()

    assert store.materialize_items(day(41), None, SilentProgress()) == {
        "item_statistics": 1,  # the last day of the others is over for more than 28 days
        "item_prices": 0,
    }


def test_the_day_that_is_not_over_is_not_loaded(tmp_path):
    store = feature_store(tmp_path, [event("u", "a", day(1.2))], until=day(1.5))
    store.apply()

    assert store.materialize_items(day(1.5), None, SilentProgress())["item_statistics"] == 0


def test_the_offline_files_have_microseconds_in_utc(store):
    """Feast's DuckDB store cannot materialize nanoseconds."""
    for path in store._places.features.glob("*/*.parquet"):
        schema = pq.read_schema(path)
        assert schema.field("event_timestamp").type == TIMESTAMP
        assert schema.field("created_timestamp").type == TIMESTAMP


def test_the_settings_of_the_feast_command_are_those_of_the_steps(tmp_path):
    text = (DEFINITIONS.parent / "feature_store.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(Template(text).safe_substitute(HEADRACE_HOME=tmp_path))
    config = FeatureStoreClient(places=Places(tmp_path), environment={})._store.config

    assert settings["project"] == PROJECT == config.project
    assert settings["registry"] == {
        "path": config.registry.path,
        "cache_ttl_seconds": config.registry.cache_ttl_seconds,
    }
    assert settings["online_store"] == online_store_settings(tmp_path / "feast", None)
    assert settings["offline_store"]["type"] == config.offline_store.type
    assert (
        settings["materialization"]["online_write_batch_size"] == config.materialization_config.online_write_batch_size
    )
    assert settings["entity_key_serialization_version"] == config.entity_key_serialization_version


def test_only_definitions_lie_in_the_feature_repository():
    """`feast apply` runs every Python file there."""
    assert sorted(path for path in os.listdir(DEFINITIONS.parent) if path.endswith(".py")) == ["features.py"]
