"""Ten users who buy one to four things a day; what they bought before says nothing of how many."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import LeakConfig, TrainingSetConfig
from pipelines.errors import DataError
from pipelines.features.activity import ACTIVITY_FEATURES
from pipelines.progress import SilentProgress
from pipelines.schemas import LeakReport, TrainingSet
from pipelines.steps.build_training_set import build_training_set
from pipelines.steps.check_leaks import check_leaks
from tests.toys.event_tables import day, event
from tests.toys.live_shop import LiveShop
from tests.toys.remembered_metrics import RememberedMetrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:feast", "ignore::DeprecationWarning:ibis"),
]

DAYS, USERS = 24, 10
CONFIG = LeakConfig(min_rows=50)


def baskets() -> list[dict]:
    draw = random.Random(8)
    return [
        event(f"u{user}", f"item-{item}", day(number + user / 100), session=f"{user}-{number}")
        for number in range(DAYS)
        for user in range(USERS)
        for item in draw.sample(range(40), draw.randint(1, 4))
    ]


class LeakShop(LiveShop):
    def __init__(self, home: Path) -> None:
        super().__init__(home, baskets(), until=day(DAYS + 1))
        self.metrics = RememberedMetrics()
        self.training_set: TrainingSet = build_training_set(
            tables=self.tables,
            feature_store=self.feature_store,
            training_dir=self.places.training,
            config=TrainingSetConfig(window_days=16, validation_days=2, test_days=2, min_eval_rows=10),
            model_fingerprint="model",
            champion=None,
            progress=SilentProgress(),
        )

    def check(self, rows: pa.Table, config: LeakConfig = CONFIG) -> LeakReport:
        """Check the training set with these rows instead of its own."""
        folder = self.places.training / "changed"
        folder.mkdir(exist_ok=True)
        pq.write_table(rows, folder / "rows.parquet")
        return check_leaks(
            self.training_set.model_copy(update={"folder": folder}),
            tables=self.tables,
            feature_store=self.feature_store,
            tracker=self.metrics,
            config=config,
            progress=SilentProgress(),
        )

    def rows(self) -> pa.Table:
        return pq.read_table(self.training_set.folder / "rows.parquet")

    def known_later(self, rows: pa.Table, *, microseconds: int) -> pa.Table:
        """Return the features of the rows as they are a little later."""
        later = pa.compute.add(rows["as_of"], pa.scalar(microseconds, pa.duration("us")))
        return self.feature_store.user_features(rows.select(["row_id", "user_id"]).append_column("as_of", later))


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> LeakShop:
    return LeakShop(tmp_path_factory.mktemp("leaks"))


def with_column(rows: pa.Table, name: str, values) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)


def test_honest_features_pass(shop):
    report = shop.check(shop.rows())

    assert report.rows == 160
    assert {column.later for column in report.columns.values()} == {0}
    purchases = report.columns["purchases"]
    assert purchases.changed == 160
    assert purchases.association < 0.65
    assert report.columns["history_item_ids"].association < 0.1
    assert report.columns["history_item_ids"].association_after == 1.0
    assert shop.metrics.metrics["leaks.association.purchases"] == purchases.association
    assert shop.metrics.metrics["leaks.later.purchases"] == 0.0
    assert set(report.columns) == {*ACTIVITY_FEATURES, "history_item_ids"}


@pytest.mark.parametrize("column", ["purchases", "events_1d_decayed", "days_since_first"])
def test_activity_as_of_the_basket_instead_of_just_before_it_stops_the_run(shop, column):
    rows = shop.rows()
    leaking = with_column(rows, column, shop.known_later(rows, microseconds=1)[column])

    with pytest.raises(DataError, match=rf"A feature leaks: `{column}` holds in (\d+) of \1 rows the value from after"):
        shop.check(leaking)
    assert shop.metrics.metrics[f"leaks.later.{column}"] == 1.0


def test_a_history_that_holds_the_basket_stops_the_run(shop):
    rows = shop.rows()
    later = shop.known_later(rows, microseconds=1)
    leaking = rows
    for ours, theirs in {
        "history_item_ids": "item_ids",
        "history_event_types": "event_types",
        "history_times": "event_times",
    }.items():
        leaking = with_column(leaking, ours, later[theirs])

    with pytest.raises(DataError, match="`history_item_ids` holds in 160 of 160 rows the value from after"):
        shop.check(leaking)


def test_a_few_leaking_rows_are_enough(shop):
    rows = shop.rows()
    before, after = rows["purchases"].to_pylist(), shop.known_later(rows, microseconds=1)["purchases"].to_pylist()
    leaking = with_column(rows, "purchases", pa.array([*after[:4], *before[4:]], pa.float64()))

    with pytest.raises(DataError, match="`purchases` holds in 4 of 160 rows"):
        shop.check(leaking)


def test_a_column_that_tells_the_label_on_its_own_stops_the_run(shop):
    rows = shop.rows()
    sizes = pa.compute.list_value_length(rows["target_item_ids"]).cast(pa.float64())
    told = with_column(rows, "mean_value_28d_decayed", pa.compute.negate(sizes))

    with pytest.raises(DataError, match="`mean_value_28d_decayed` alone tells the label in 160 rows too well"):
        shop.check(told)
    assert shop.check(told, LeakConfig(min_rows=161)).columns["mean_value_28d_decayed"].association == 1.0


def test_a_sample_is_enough(shop):
    assert shop.check(shop.rows(), LeakConfig(sample_rows=50)).rows == 50


def test_nothing_is_left_behind(shop):
    before = sorted(path.name for path in shop.places.feast.iterdir())
    shop.check(shop.rows())

    assert sorted(path.name for path in shop.places.feast.iterdir()) == before
