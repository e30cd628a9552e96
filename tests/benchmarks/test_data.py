"""The shop that the data benchmark makes, and the arithmetic of its records."""

import duckdb
import pytest

from pipelines.benchmarks.data import STEPS, StepRun, backfill_records, increment_records, make_shop
from pipelines.progress import SilentProgress
from pipelines.sources.tables import TablesSource
from pipelines.stores.sql import open_duckdb

ORIGINAL = 1_460_406
"""Lines of the default data in which something known was bought."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop") / "shop", events=4_000, progress=SilentProgress())


@pytest.mark.slow
def test_shop_has_about_as_many_events_as_asked_for_each_with_its_own_id(shop):
    files = f"{shop.folder}/waiting/*.parquet"
    ((rows, ids),) = duckdb.sql(f"SELECT count(*), count(DISTINCT event_id) FROM '{files}'").fetchall()
    assert rows == ids == shop.events
    assert 2_000 < rows < 6_000


@pytest.mark.slow
def test_copies_have_users_of_their_own_and_the_same_number_of_lines(tmp_path):
    shop = make_shop(tmp_path / "shop", events=2 * ORIGINAL, progress=SilentProgress())
    copies = duckdb.sql(
        "SELECT split_part(user_id, '-', 1) AS copy, count(*), count(DISTINCT user_id), count(DISTINCT item_id) "
        f"FROM '{shop.folder}/waiting/*.parquet' GROUP BY copy ORDER BY copy"
    ).fetchall()
    assert [copy for copy, *_ in copies] == ["0", "1"]
    assert copies[0][1:] == copies[1][1:]
    assert shop.events == 2 * copies[0][1]


@pytest.mark.slow
def test_only_delivered_days_are_found_by_the_source(shop):
    shop.deliver(shop.days[:3])
    try:
        assert len(list((shop.folder / "events").iterdir())) == 3
        with open_duckdb() as connection:
            read = TablesSource(shop.mapping).read(connection, since=None, until=_far(shop), state={})
            ((first, last),) = connection.sql(
                f"SELECT min(event_timestamp), max(event_timestamp) FROM ({read.queries['events']})"
            ).fetchall()
        assert first.date() >= shop.days[0]
        assert (last.date() - shop.days[2]).days <= 1
    finally:
        shop.take_back()
    assert len(list((shop.folder / "waiting").iterdir())) == len(shop.days)


def _far(shop):
    from pipelines.benchmarks.data import _end_of

    return _end_of(shop.days[-1])


def test_total_adds_seconds_and_bytes_and_keeps_the_largest_memory():
    runs = [
        StepRun(step, seconds, peak, written)
        for step, seconds, peak, written in zip(STEPS, (2.0, 3.0, 5.0), (100, 300, 200), (10, 20, 30), strict=True)
    ]
    found = {(record.case, record.metric): record.value for record in backfill_records(runs, 1_000, "toy")}
    assert found["total", "events_per_s"] == 100.0
    assert found["total", "peak_mib"] == 300
    assert found["total", "bytes_per_event"] == 0.06
    assert found["ingest_tables", "events_per_s"] == 500.0


def test_ratio_compares_the_medians_of_one_more_day():
    records = increment_records({30: [1.0, 2.0, 9.0], 300: [3.0, 2.2, 1.0]}, "toy")
    found = {record.case: (record.value, record.low, record.high) for record in records}
    assert found["one day on 30 days"] == (2.0, 1.0, 9.0)
    assert found["ratio"] == (1.1, None, None)
