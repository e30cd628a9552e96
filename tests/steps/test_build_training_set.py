import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import FeatureConfig, TrainingSetConfig
from pipelines.errors import DataError, StoreError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.features.on_demand import CONTEXT_FEATURES
from pipelines.places import Places
from pipelines.progress import SilentProgress
from pipelines.schemas import TIMESTAMP, TrainingSet
from pipelines.steps.build_features import build_features
from pipelines.steps.build_training_set import SEEN_ITEMS, TRAINING_ROWS, build_training_set
from pipelines.stores.feature_store import FeatureStoreClient
from pipelines.stores.table_store import TableStore
from pipelines.training.receipt import Receipt, RowsRead, WindowReadError
from tests.toys.event_tables import day, event, tables_with

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis")

CONFIG = TrainingSetConfig(window_days=6, validation_days=2, test_days=2)
END = day(10)
EVENTS = [
    event("u", "too old", day(-1), session="u0"),
    event("u", "a", day(1), session="u1", value=2.0),
    event("u", "b", day(1), session="u1", value=4.0, number=1),
    event("u", "b", day(5), session="u2"),
    event("u", "c", day(5), session="u2", number=1),
    event("v", "d", day(6.4), kind="view"),
    event("v", "d", day(6.5), session="v1"),
    event("u", "a", day(9), session="u3"),
    event("u", "e", day(9), session="u3", number=1),
]


class Shop:
    """Tables and features below one folder, ready for training sets."""

    def __init__(self, home: Path) -> None:
        self.places = Places(home)
        self.add(EVENTS, END)

    def add(self, events: list[dict], until) -> None:
        self.tables = tables_with(self.places.home, events, until=until)
        self.build_features(until)

    def build_features(self, until, **settings) -> None:
        build_features(
            tables=self.tables,
            features_dir=self.places.features,
            config=FeatureConfig(**settings),
            until=until,
            progress=SilentProgress(),
        )

    def training_set(self, config: TrainingSetConfig = CONFIG, **inputs) -> TrainingSet:
        return build_training_set(
            tables=self.tables,
            feature_store=FeatureStoreClient(places=self.places, environment={}),
            training_dir=self.places.training,
            config=config,
            progress=SilentProgress(),
            **{"model_fingerprint": "m", "champion": None, **inputs},
        )


@pytest.fixture(scope="module")
def built_once(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("built_once")
    Shop(home)
    return home


@pytest.fixture
def shop(built_once, tmp_path) -> Shop:
    """The shop in a folder of its own."""
    shutil.copytree(built_once, tmp_path / "home")
    shop = Shop.__new__(Shop)
    shop.places = Places(tmp_path / "home")
    shop.tables = TableStore(shop.places.tables, quarantine=shop.places.quarantine, ingested=shop.places.ingested)
    return shop


def test_rows_worked_out_by_hand(shop):
    found = shop.training_set()

    assert found.rows == {"train": 2, "validation": 1, "test": 1}
    assert (found.validation_start, found.test_start, found.test_end) == (day(6), day(8), day(10))
    rows = pq.read_table(found.folder / "rows.parquet").to_pylist()
    moment = timedelta(microseconds=1)
    assert [
        (
            row["row_id"],
            row["split"],
            row["session_id"],
            row["as_of"],
            row["target_item_ids"],
            row["new_item_ids"],
            row["history_item_ids"],
        )
        for row in rows
    ] == [
        (0, "train", "u1", day(1) - moment, ["a", "b"], ["a", "b"], ["too old"]),
        (1, "train", "u2", day(5) - moment, ["b", "c"], ["c"], ["too old", "a", "b"]),
        (2, "validation", "v1", day(6.5) - moment, ["d"], ["d"], ["d"]),
        (3, "test", "u3", day(9) - moment, ["a", "e"], ["e"], ["too old", "a", "b", "b", "c"]),
    ]
    assert rows[2]["history_event_types"] == ["view"]
    assert rows[2]["history_times"] == [int(day(6.4).timestamp())]
    # Two purchases on day 1, one two days before.
    assert {name: rows[1][name] for name in ACTIVITY_FEATURES} == pytest.approx(
        {
            "views": 0,
            "clicks": 0,
            "carts": 0,
            "purchases": 3,
            "ratings": 0,
            "events_1d_decayed": 2 + 1 / 4,
            "events_7d_decayed": 2 + 0.5 ** (2 / 7),
            "events_28d_decayed": 2 + 0.5 ** (1 / 14),
            "spend_28d_decayed": 6,
            "mean_value_28d_decayed": 3,
            "mean_gap_days": 2,
            "days_since_first": 2,
        }
    )
    # Day 5 is 2026-01-06, a Tuesday, and the row is of the microsecond before it.
    assert {name: rows[1][name] for name in CONTEXT_FEATURES} == {
        "hour": 23,
        "weekday": 0,
        "hours_since_last": pytest.approx(4 * 24),
        "mean_gap_h": 2 * 24,
        "log_price_affinity": None,
    }


def test_seen_items_are_those_bought_before_so_that_no_new_item_is_masked(shop):
    folder = shop.training_set().folder

    assert pq.read_table(folder / "seen.parquet").to_pylist() == [
        {"row_id": 2, "item_ids": []},
        {"row_id": 3, "item_ids": ["a", "b", "c", "too old"]},
    ]


@pytest.mark.parametrize(
    ("hours", "clicked"),
    [pytest.param(24, ["e"], id="a day"), pytest.param(72, ["c", "e"], id="up to the test window")],
)
def test_what_a_user_clicks_next_is_a_label_of_validation_rows_and_never_from_the_test_window(shop, hours, clicked):
    later = [event("v", "e", day(6.7), kind="click"), event("v", "c", day(7.9), kind="cart")]
    others = [event("v", "a", day(8.1), kind="view"), event("u", "a", day(6.8), kind="click")]
    shop.add(later + others, END + timedelta(days=1))
    folder = shop.training_set(CONFIG.model_copy(update={"click_hours": hours})).folder

    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    assert {row["split"]: row["clicked_item_ids"] for row in rows} == {
        "train": None,
        "validation": clicked,
        "test": None,
    }


def test_the_files_have_the_documented_columns(shop):
    folder = shop.training_set().folder

    assert pq.read_schema(folder / "rows.parquet").equals(TRAINING_ROWS)
    assert pq.read_schema(folder / "seen.parquet").equals(SEEN_ITEMS)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rows.parquet", "seen.parquet"]


def test_the_same_inputs_give_the_same_run_and_write_nothing(shop):
    first = shop.training_set()
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}

    assert shop.training_set() == first
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    assert len(first.run) == 12


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"model_fingerprint": "other"}, id="other model settings"),
        pytest.param({"champion": "bundle-1"}, id="another champion"),
        pytest.param({"force": "again"}, id="forced"),
        pytest.param({"config": CONFIG.model_copy(update={"max_train_rows": 1})}, id="other rows"),
    ],
)
def test_other_inputs_give_another_run(shop, change):
    assert shop.training_set(**change).run != shop.training_set().run


@pytest.mark.slow
def test_new_events_and_other_features_give_another_run(shop):
    first = shop.training_set()
    shop.build_features(END, history_length=2)
    second = shop.training_set()
    shop.add([event("u", "f", day(9.5), session="u4")], day(11))
    third = shop.training_set()

    assert len({first.run, second.run, third.run}) == 3
    assert third.rows["test"] == 2


def test_a_killed_run_is_completed(shop):
    first = shop.training_set()
    undisturbed = (first.folder / "rows.parquet").read_bytes()
    (first.folder / "manifest.json").unlink()
    (first.folder / "rows.parquet").write_bytes(b"half")

    assert shop.training_set() == first
    assert (first.folder / "rows.parquet").read_bytes() == undisturbed


def test_a_leak_planted_in_the_features_stops_the_run(shop):
    for path in (shop.places.features / "users").iterdir():
        table = pq.read_table(path)
        early = [at - timedelta(hours=1) for at in table["event_timestamp"].to_pylist()]
        for name in ("event_timestamp", "created_timestamp"):
            table = table.set_column(table.column_names.index(name), name, pa.array(early, TIMESTAMP))
        pq.write_table(table, path)

    with pytest.raises(DataError, match=r"4 training rows know events from after their time \(first row_id: 0, 1, 2\)"):
        shop.training_set()
    assert not list(shop.places.training.rglob("*.parquet"))


def test_after_a_receipt_only_what_is_new_is_read_and_older_rows_are_replayed(shop):
    """Of eight older baskets and one new one; the parent has read everything before day 2."""
    shop.add([event(f"r{n:02d}", f"i{n}", day(n - 8), session=f"s{n}") for n in range(8)], END + timedelta(days=1))
    parent = receipt(until=day(2))
    config = CONFIG.model_copy(update={"old_slice_rows": 1, "min_eval_rows": 1, "replay_share": 0.5})
    found = shop.training_set(config, champion="c", parent=parent)

    rows = pq.read_table(found.folder / "rows.parquet").to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    moment = timedelta(microseconds=1)
    assert [row["as_of"] for row in train if not row["replayed"]] == [day(5) - moment]
    assert [row["as_of"] < day(2) for row in train if row["replayed"]] == [True]
    assert found.rows == {"train": 2, "validation": 1, "test": 1, "old": 1}
    assert (found.since, found.replayed, found.incremental) == (day(2), 1, True)
    assert [row["row_id"] for row in rows] == list(range(5))
    seen = pq.read_table(found.folder / "seen.parquet")["row_id"].to_pylist()
    assert seen == [row["row_id"] for row in rows if row["split"] != "train"]

    assert shop.training_set(config, champion="c", parent=parent) == found
    few = shop.training_set(
        config.model_copy(update={"replay_share": 0.9, "max_train_rows": 4}), champion="c", parent=parent
    )
    assert (few.rows["train"], few.replayed) == (4, 3)
    whole = shop.training_set(config, champion="c", parent=parent, force="again")
    assert (whole.rows["train"], whole.replayed, whole.incremental) == (2, 0, False)


@pytest.mark.parametrize(
    ("until", "is_twice", "sentence"),
    [
        pytest.param(day(6), True, "would be read a second time", id="twice"),
        pytest.param(day(12), False, "is an old one", id="old"),
        pytest.param(day(5.5), True, "Nobody bought anything between 2026-01-06, where the receipt", id="empty"),
    ],
)
def test_a_window_that_the_champion_has_read_is_refused_and_nothing_is_written(shop, until, is_twice, sentence):
    with pytest.raises(WindowReadError, match=sentence) as refused:
        shop.training_set(champion="c", parent=receipt(until=until))
    assert refused.value.is_twice is is_twice
    assert not list(shop.places.training.rglob("*.parquet"))


def test_a_run_may_end_on_an_earlier_day_but_not_where_the_champion_has_read(shop):
    config = CONFIG.model_copy(update={"min_eval_rows": 1, "window_days": 9})
    earlier = shop.training_set(config, until=day(7).date())
    assert (earlier.test_end, earlier.rows["test"]) == (day(7), 2)
    with pytest.raises(WindowReadError, match="is an old one: model p has read everything up to 2026-01-03"):
        shop.training_set(config, champion="c", parent=receipt(until=day(2)), until=day(6).date())
    with pytest.raises(DataError, match="No purchase is older than 2025-12-01: the tables begin at 2025-12-31"):
        shop.training_set(until=day(-31).date())


@pytest.mark.slow
def test_other_parents_and_other_shares_give_other_runs(shop):
    runs = [
        shop.training_set(config, champion="c", parent=parent).run
        for config in (CONFIG, CONFIG.model_copy(update={"replay_share": 0.25}))
        for parent in (None, receipt(until=day(2)), receipt(until=day(2), fingerprint="other"))
    ]
    assert len(set(runs)) == 6


def receipt(*, until: datetime, fingerprint: str = "read") -> Receipt:
    read = RowsRead(
        fingerprint=fingerprint,
        new_rows=1,
        replayed_rows=0,
        first=day(1),
        last=day(1),
        replayed_first=None,
        replayed_last=None,
    )
    return Receipt(
        run="p",
        generation=0,
        parent=None,
        since=day(0),
        until=until,
        tables_until=max(until, END),
        replay_share=0.0,
        read=read,
        metrics={},
    )


def test_features_of_other_tables_are_refused(shop):
    shop.tables = tables_with(shop.places.home, [event("u", "f", day(9.5))], until=day(11))

    with pytest.raises(StoreError, match="run `headrace build_features`"):
        shop.training_set()


def test_a_validation_window_without_a_basket_grows_back_to_one(shop):
    training_set = shop.training_set(CONFIG.model_copy(update={"validation_days": 1}))
    assert training_set.rows["validation"] > 0


def test_nothing_to_train_on_is_refused(shop):
    config = TrainingSetConfig(window_days=1, validation_days=12, test_days=1)
    with pytest.raises(DataError, match=r"no basket in the train window of 1 days.*training_set.window_days"):
        shop.training_set(config)


def test_tables_without_purchases_are_refused(tmp_path):
    shop = Shop.__new__(Shop)
    shop.places = Places(tmp_path)
    shop.add([event("u", "a", day(1), kind="view")], END)

    with pytest.raises(DataError, match="hold no purchase of an item"):
        shop.training_set()
