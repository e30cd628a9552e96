"""The safety layer over Feast: each fact is asserted of ours, and of bare Feast 0.67, which fails it.

The bare cases are strict expected failures: should a later Feast mend one of them, its test turns red with the reason
below, and that part of the layer may go.
"""

import random
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.schemas import TIMESTAMP
from pipelines.stores.online_reader import OnlineReader
from pipelines.stores.point_in_time import join_features
from tests.toys.event_tables import day
from tests.toys.feast_repository import TTL_DAYS, USER_FEATURES, feast_repository

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:feast",
    "ignore:fetch_arrow_table:DeprecationWarning",
    "ignore::FutureWarning:feast",
)
MICROSECOND = timedelta(microseconds=1)


def bare_join(store: Any, entities: pa.Table, features: list[str]) -> pa.Table:
    """Join as Feast's documentation shows it."""
    return store.get_historical_features(entity_df=entities.to_pandas(), features=features).to_arrow()


def bare_read(store: Any, user: str, now: datetime) -> dict[str, Any]:
    """Read online as Feast's documentation shows it."""
    values = store.get_online_features(features=USER_FEATURES, entity_rows=[{"user_id": user}]).to_dict()
    return {name: values[name][0] for name in ("spend", "likes")}


def safe_read(store: Any, user: str, now: datetime) -> dict[str, Any]:
    reader = OnlineReader(store, USER_FEATURES)
    [row] = reader.read([{"user_id": user}])
    return reader.known_at(row, now)


def bare_fails(what: str, *values: Any, id: str) -> Any:
    reason = f"bare Feast 0.67 {what}: where this passes, Feast has mended it and the layer may shed this part"
    return pytest.param(*values, marks=pytest.mark.xfail(raises=AssertionError, strict=True, reason=reason), id=id)


@pytest.fixture(scope="module", params=["duckdb", "dask"])
def store(request, tmp_path_factory) -> Any:
    return feast_repository(tmp_path_factory.mktemp(request.param), offline=request.param)


@pytest.fixture(scope="module")
def duckdb_store(tmp_path_factory) -> Any:
    return feast_repository(tmp_path_factory.mktemp("duckdb"))


@pytest.fixture(scope="module")
def dask_store(tmp_path_factory) -> Any:
    return feast_repository(tmp_path_factory.mktemp("dask"), offline="dask")


@pytest.fixture(scope="module")
def online_store(tmp_path_factory) -> Any:
    store = feast_repository(tmp_path_factory.mktemp("online"))
    store.materialize(day(-1), day(30), disable_event_timestamp=False)
    return store


def rows(*asked: tuple[str | None, datetime, int | None]) -> pa.Table:
    users, times, labels = zip(*asked, strict=True)
    return pa.table(
        {
            "label": pa.array(labels, pa.int64()),
            "user_id": pa.array(users, pa.string()),
            "event_timestamp": pa.array(times, TIMESTAMP),
        }
    )


ASKED = rows(
    ("ann", day(6), 7),
    ("ann", day(6), 7),  # the same row twice
    ("ann", day(6), 8),  # the same user and time with another label
    ("stranger", day(6), 1),
    ("ann", day(0.5), None),  # before anything was known; a null label
    ("ann", day(25), 5),  # after everything expired
    (None, day(6), 3),  # nobody
    ("ann", day(1), 9),
)
SPENT = [2.0, 2.0, 2.0, None, None, None, None, 1.0]


def assert_rows_survive(joined: pa.Table) -> None:
    assert joined.num_rows == ASKED.num_rows
    assert joined["label"].to_pylist() == ASKED["label"].to_pylist()
    assert [joined.schema.field(name).type for name in ASKED.column_names] == ASKED.schema.types
    assert joined["spend"].to_pylist() == SPENT


@pytest.mark.parametrize(
    "join", [bare_fails("loses rows, their order or the type of their labels", bare_join, id="bare"), join_features]
)
def test_rows_their_order_and_their_labels_survive_a_join(store, join):
    assert_rows_survive(join(store, ASKED, ["taste:spend"]))


@pytest.mark.parametrize("join", [bare_fails("drops rows on its file store", bare_join, id="bare"), join_features])
def test_five_items_of_one_user_at_one_moment_stay_five(dask_store, join):
    entities = pa.table(
        {"user_id": ["ann"] * 5, "item_id": list("cabac"), "event_timestamp": pa.array([day(6)] * 5, TIMESTAMP)}
    )

    joined = join(dask_store, entities, ["taste:spend", "shelf:price"])

    assert joined["price"].to_pylist() == [3.0, 1.0, 2.0, 1.0, 3.0]
    assert joined["spend"].to_pylist() == [2.0] * 5


@pytest.mark.parametrize("join", [bare_fails("sorts the rows by time", bare_join, id="bare"), join_features])
def test_rows_keep_their_order_on_the_file_store(dask_store, join):
    entities = rows(("ann", day(3), 1), ("ann", day(1), 2), ("ann", day(2), 3))

    assert join(dask_store, entities, ["taste:spend"])["label"].to_pylist() == [1, 2, 3]


def test_many_rows_keep_their_order(duckdb_store):
    """DuckDB works on them in parallel: bare Feast gives them back in another order now and then."""
    draw = random.Random(3)
    entities = rows(
        *((draw.choice(("ann", "nan", "x", None)), day(draw.uniform(0, 11)), number) for number in range(5000))
    )

    joined = join_features(duckdb_store, entities, ["taste:spend"])

    assert joined.select(entities.column_names).equals(entities)
    expected = [spent_by(user, at) for _, user, at in zip(*entities.to_pydict().values(), strict=True)]
    assert joined["spend"].to_pylist() == expected


def spent_by(user: str | None, at: datetime) -> float | None:
    """Return what `taste` knows before it expires."""
    if user != "ann" or at < day(1):
        return None
    return 1.0 if at < day(5) else 2.0


@pytest.mark.parametrize("join", [bare_fails("counts rows before they arrived", bare_join, id="bare"), join_features])
def test_a_late_row_counts_from_its_arrival_on(store, join):
    entities = rows(("ann", day(5) - MICROSECOND, 1), ("ann", day(5), 2))

    joined = join(store, entities, ["taste:spend"]).sort_by("label")

    assert joined["spend"].to_pylist() == [1.0, 2.0]


def test_without_a_column_of_arrival_nothing_is_joined(tmp_path):
    """Bare Feast joins such a view without a word, whatever the cut-off."""
    store = feast_repository(tmp_path, arrival=False)
    asked = rows(("ann", day(3), 1))
    leaked = store.get_historical_features(
        entity_df=asked.to_pandas(), features=["taste:spend"], filter_by_created_timestamp=True
    ).to_arrow()

    assert leaked["spend"].to_pylist() == [2.0]  # it arrived on day 5
    with pytest.raises(ConfigError, match="`taste` has no `created_timestamp_column`"):
        join_features(store, asked, ["taste:spend"])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param("feast.infra.offline_stores.hybrid_offline_store", "HybridOfflineStore", id="hybrid"),
        pytest.param("feast.infra.offline_stores.remote", "RemoteOfflineStore", id="remote"),
        pytest.param("tests.stores.test_point_in_time", "ForgetfulOfflineStore", id="somebody's own"),
    ],
)
def test_a_store_that_is_not_known_to_cut_off_by_arrival_is_refused(duckdb_store, monkeypatch, module, name):
    """Feast itself lets the first and the last of them join."""
    from feast.importer import import_class
    from feast.infra.offline_stores import offline_utils

    kind = ForgetfulOfflineStore if module == __name__ else import_class(module, name)
    monkeypatch.setattr(offline_utils, "get_offline_store_from_config", lambda _: kind())

    with pytest.raises(ConfigError, match=rf"{name}\) is not known to leave out rows.*set one of those"):
        join_features(duckdb_store, ASKED, ["taste:spend"])


class ForgetfulOfflineStore:
    """Takes the flag into a heap of options, and forgets it."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(**_: Any) -> None:
        """Join nothing."""


def test_a_row_without_a_time_is_refused(duckdb_store):
    entities = pa.table({"user_id": ["ann"], "event_timestamp": pa.array([None], TIMESTAMP)})

    with pytest.raises(DataError, match="`event_timestamp` is null in 1 rows"):
        join_features(duckdb_store, entities, ["taste:spend"])


def test_a_label_that_has_the_name_of_a_feature_is_refused(duckdb_store):
    entities = rows(("ann", day(3), 1)).rename_columns(["spend", "user_id", "event_timestamp"])

    with pytest.raises(DataError, match="features spend have the names of other columns"):
        join_features(duckdb_store, entities, ["taste:spend"])


LAST_MOMENT = day(2) + timedelta(days=TTL_DAYS)


@pytest.mark.parametrize("read", [bare_fails("serves expired values", bare_read, id="bare"), safe_read])
def test_the_time_to_live_ends_at_the_same_microsecond_online_and_offline(duckdb_store, online_store, read):
    for moment, spent in ((LAST_MOMENT, 2.0), (LAST_MOMENT + MICROSECOND, None)):
        offline = join_features(duckdb_store, rows(("ann", moment, 0)), ["taste:spend"])["spend"].to_pylist()

        assert offline == [spent]
        assert read(online_store, "ann", moment)["spend"] == spent


BARE_NULLS = "has another null offline than online"


def bare_historical_values(store: Any, user: str, at: datetime) -> dict[str, Any]:
    frame = store.get_historical_features(
        entity_df=rows((user, at, 0)).to_pandas(), features=USER_FEATURES, filter_by_created_timestamp=True
    ).to_df()
    return {name: plain(frame[name][0]) for name in ("spend", "likes")}


def plain(value: Any) -> Any:
    """Return an array as a list, and everything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def historical_values(store: Any, user: str, at: datetime) -> dict[str, Any]:
    [row] = join_features(store, rows((user, at, 0)), USER_FEATURES).select(["spend", "likes"]).to_pylist()
    return row


@pytest.mark.parametrize(
    ("user", "at", "known"),
    [
        pytest.param("ann", day(6), {"spend": 2.0, "likes": ["a", "b"]}, id="known"),
        pytest.param("stranger", day(6), {"spend": None, "likes": []}, id="missing entity"),
        pytest.param("none", day(6), {"spend": None, "likes": []}, id="null"),
        pytest.param("nan", day(6), {"spend": None, "likes": ["a"]}, id="NaN"),
        pytest.param("empty", day(6), {"spend": 0.0, "likes": []}, id="zero and an empty list"),
        pytest.param("ann", day(20), {"spend": None, "likes": []}, id="expired"),
    ],
)
def test_nothing_known_is_the_same_online_and_offline(duckdb_store, online_store, user, at, known):
    assert historical_values(duckdb_store, user, at) == known
    assert safe_read(online_store, user, at) == known


@pytest.mark.parametrize(
    ("user", "at"),
    [
        bare_fails(BARE_NULLS, "stranger", day(6), id="missing entity"),
        bare_fails(BARE_NULLS, "none", day(6), id="null"),
        bare_fails(BARE_NULLS, "nan", day(6), id="NaN"),
        bare_fails("serves expired values", "ann", day(20), id="expired"),
    ],
)
def test_bare_feast_says_the_same_online_and_offline(duckdb_store, online_store, user, at):
    assert bare_read(online_store, user, at) == bare_historical_values(duckdb_store, user, at)
