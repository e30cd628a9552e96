"""What the real Great Expectations accepts, what goes to quarantine, and what stops the run."""

import math
import re
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.config import ValidationConfig
from pipelines.errors import DataError
from pipelines.progress import SilentProgress
from pipelines.schemas import EVENTS, IngestedWindow
from pipelines.sources.base import ORIGIN_COLUMNS
from pipelines.steps.validate_tables import validate_tables
from pipelines.stores.experiment_tracker import ExperimentTracker
from pipelines.stores.files import write_text
from pipelines.stores.table_store import IngestedManifest, window_id
from pipelines.validation.judge import Judge
from pipelines.validation.profile import Profile
from tests.toys.catalogue import NOW, toy_window

pytestmark = pytest.mark.slow
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def great_expectations_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("great_expectations")


@pytest.fixture
def validate(great_expectations_dir):
    def run(tables, window, **settings):
        return validate_tables(
            window,
            tables=tables,
            great_expectations_dir=great_expectations_dir,
            config=ValidationConfig(**settings),
            progress=SilentProgress(),
        )

    return run


def change(window, table, changes):
    """Change cells of an ingested table: {(row, column): value}; rows count from 0 in the order of the source."""
    path = window.folder / f"{table}.parquet"
    old = pq.read_table(path).sort_by("row_number")
    rows = old.to_pylist()
    for (row, column), value in changes.items():
        rows[row][column] = value
    schema = pa.schema([field.with_nullable(True) for field in old.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def next_window(tables, events, *, days=1):
    """Return a window after the newest one; an event is what differs from a purchase of item-00 for 2.0."""
    since = tables.accepted_until()
    until = since + days * DAY
    rows = [
        {
            "event_id": f"{window_id(until)}-{number}",
            "user_id": "0" * 32,
            "session_id": "visit",
            "event_type": "purchase",
            "item_id": "item-00",
            "value": 2.0,
            "event_timestamp": since + DAY / 2,
            "created_timestamp": since + DAY / 2,
            "row_number": number,
            "source": "sales.csv",
            **event,
        }
        for number, event in enumerate(events, start=1)
    ]
    kinds = {"BIGINT": pa.int64(), "VARCHAR": pa.string()}
    origin = [pa.field(name, kinds[kind]) for name, kind in ORIGIN_COLUMNS.items()]
    folder = tables.ingested / window_id(until)
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in EVENTS] + origin))
    pq.write_table(table, folder / "events.parquet")
    window = IngestedWindow(
        window=window_id(until), since=since, until=until, source="hand", folder=folder, rows={"events": len(rows)}
    )
    write_text(folder / "window.json", IngestedManifest(window=window, source_state={}).model_dump_json())
    return window


def state(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def quarantine(tables, window, table):
    path = tables.quarantine / window.window / f"{table}.parquet"
    return [(row["row_number"], row["rule"]) for row in pq.read_table(path).to_pylist()]


def test_clean_window_is_accepted_whole(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    report = validate(tables, window)
    assert report.accepted == {"items": 60, "events": 1500, "users": 30}
    assert (report.quarantined, report.reasons) == ({}, {})
    assert not tables.quarantine.exists()


def test_data_docs_lead_to_every_page_without_scripts(tmp_path):
    tables, window = toy_window(tmp_path)
    change(window, "items", {(0, "title"): "  "})
    folder = tmp_path / "great_expectations"
    report = validate_tables(
        window, tables=tables, great_expectations_dir=folder, config=ValidationConfig(), progress=SilentProgress()
    )
    assert report.data_docs == folder / "index.html"
    text = report.data_docs.read_text()
    assert "<script" not in text and "http" not in text
    rows = re.findall(r"<td>(\w+)</td><td[^>]*>(\w+)</td><td>(\d+) of (\d+)</td><td><a href='([^']+)'", text)
    assert [(table, outcome, int(all_) - int(met)) for table, outcome, met, all_, _ in rows] == [
        ("events", "failed", 1),
        ("items", "failed", 1),
        ("users", "success", 0),
    ]
    assert all((folder / page).is_file() for *_, page in rows)


def test_each_broken_row_is_set_aside_with_its_rule(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(
        window,
        "events",
        {
            (0, "event_type"): "purchased",
            (1, "item_id"): "item-99",
            (2, "value"): -1.0,
            (3, "user_id"): None,
            (4, "event_id"): "sale-00-00-0",
            (5, "event_timestamp"): NOW.replace(year=2027),
            (6, "event_timestamp"): NOW.replace(year=1971),
            (7, "item_id"): None,
            (8, "unreadable"): "value",
            (9, "propensity"): 1.5,
            (10, "position"): -3,
            (11, "value"): 2_000_000.0,
            (12, "event_timestamp"): None,
        },
    )
    report = validate(tables, window)
    assert report.accepted["events"] == 1487
    assert report.quarantined == {"events": 13}
    assert quarantine(tables, window, "events") == [
        (1, "event_type_known"),
        (2, "item_is_known"),
        (3, "value_believable"),
        (4, "user_id_given"),
        (5, "is_first"),
        (6, "event_timestamp_believable"),
        (7, "event_timestamp_believable"),
        (8, "has_subject"),
        (9, "readable"),
        (10, "propensity_believable"),
        (11, "position_believable"),
        (12, "value_believable"),
        (13, "event_timestamp_given"),
    ]
    assert report.reasons["events: item_id is not in items"] == 1
    with tables.connect() as connection:
        assert connection.sql("SELECT count(*) FROM events").fetchall() == [(1487,)]


def test_events_of_a_broken_item_go_with_it(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "items", {(0, "title"): "  ", (1, "price"): -2.0})
    sold = pq.read_table(window.folder / "events.parquet")["item_id"]
    gone = pc.sum(pc.is_in(sold, pa.array(["item-00", "item-01"]))).as_py()
    report = validate(tables, window)
    assert report.accepted == {"items": 58, "events": 1500 - gone, "users": 30}
    assert quarantine(tables, window, "items") == [(1, "title_text"), (2, "price_believable")]
    assert report.reasons["events: item_id is not in items"] == gone


def test_too_many_broken_rows_stop_the_run_and_are_named(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(row, "item_id"): "item-99" for row in range(3, 103)})
    with pytest.raises(DataError) as failure:
        validate(tables, window)
    sentence = str(failure.value)
    assert "100 of 1,500 rows are broken (6.7%, allowed: 5.0%)" in sentence
    assert "item_id is not in items: 100 rows, first at 4, 5, 6, 7, 8 of sales.csv" in sentence
    assert "\n" not in sentence
    index = Path(sentence.split("Details: ")[1])
    assert f"<td>{window.window}</td><td>events</td><td class='failed'>failed</td>" in index.read_text()
    assert tables.accepted_until() is None
    assert not tables.quarantine.exists()


def test_few_broken_rows_never_stop_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "users", {(row, "consent"): None for row in range(19)})
    assert validate(tables, window).quarantined == {"users": 19}


def test_table_with_nothing_left_stops_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "users", {(row, "consent"): None for row in range(30)})
    with pytest.raises(DataError, match=r"30 of 30 rows are broken .* Most often consent is missing"):
        validate(tables, window, min_quarantined_rows=100)


def test_column_that_is_gone_stops_the_run(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    path = window.folder / "events.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["value"]), path)
    with pytest.raises(DataError, match="The table events has no column `value`"):
        validate(tables, window)


def test_accepted_window_gives_its_report_again(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(0, "value"): -1.0})
    first = validate(tables, window)
    assert validate(tables, window) == first


def test_values_that_only_look_like_values_are_set_aside(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(
        window,
        "items",
        {
            (0, "price"): math.nan,
            (1, "price"): math.inf,
            (2, "title"): "x" * 1_000_000,
            (3, "brand"): "Mi\0ll",
            (4, "item_id"): "i" * 513,
        },
    )
    change(window, "events", {(0, "value"): math.nan, (1, "value"): -math.inf, (2, "event_id"): "e" * 513})
    report = validate(tables, window, max_quarantined_share=1)
    assert quarantine(tables, window, "items") == [
        (1, "price_believable"),
        (2, "price_believable"),
        (3, "title_short"),
        (4, "nul_free"),
        (5, "item_id_short"),
    ]
    assert [entry for entry in quarantine(tables, window, "events") if entry[1] != "item_is_known"] == [
        (1, "value_believable"),
        (2, "value_believable"),
        (3, "event_id_short"),
    ]
    assert report.data_docs is not None
    assert max(page.stat().st_size for page in report.data_docs.parent.rglob("*.html")) < 1_000_000


def test_reason_of_the_mapping_is_kept_with_each_row(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(0, "rejected_because"): "quantity < 0", (1, "rejected_because"): "test order"})
    report = validate(tables, window)
    assert report.reasons == {"events: quantity < 0": 1, "events: test order": 1}
    assert quarantine(tables, window, "events") == [(1, "rejected_by_mapping"), (2, "rejected_by_mapping")]


def test_events_out_of_their_time_are_set_aside(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    validate(tables, window)
    events = [
        {"created_timestamp": NOW, "event_timestamp": NOW},
        {"created_timestamp": NOW + timedelta(microseconds=1), "event_timestamp": NOW},
        {"created_timestamp": NOW + DAY},
        {"created_timestamp": NOW + 1.1 * DAY},
        {"event_timestamp": NOW - 30 * DAY},
        {"event_timestamp": NOW + 0.9 * DAY},
    ]
    later = next_window(tables, events)
    validate(tables, later)
    assert quarantine(tables, later, "events") == [
        (1, "created_timestamp_in_window"),
        (4, "created_timestamp_in_window"),
        (5, "not_too_late"),
        (6, "arrived_after_it_happened"),
    ]


def test_drifted_column_stops_the_run_and_is_named(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    validate(tables, window)
    before = state(tables.folder)
    later = next_window(tables, [{"value": 900.0}] * 200)
    with pytest.raises(DataError) as failure:
        validate(tables, later, compare_min_rows=100)
    sentence = str(failure.value)
    assert "events: the distribution of `value` is 1.00 away from that of the windows before" in sentence
    assert "allowed: 0.50 at most" in sentence and "raise validation.drift_stop" in sentence
    assert state(tables.folder) == before
    folder = Path(sentence.split("Details: ")[1]).parent
    assert "Not accepted: Window" in (folder / "overview.html").read_text()
    assert (
        f"<td>{later.window}</td><td>compared</td><td class='failed'>failed</td>" in (folder / "index.html").read_text()
    )
    # The person in charge says that it is real, or that so few rows prove nothing.
    assert validate(tables, later, compare_min_rows=100, drift_stop=1).accepted == {"events": 200}


def test_between_the_limits_is_a_warning(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    validate(tables, window)
    later = next_window(tables, [{"event_type": "view"}] * 30 + [{}] * 70)
    report = validate(tables, later, compare_min_rows=100, drift_warn=1, drift_stop=1)
    assert report.accepted == {"events": 100}
    assert [warning.split(",")[0] for warning in report.warnings] == [
        "events: `purchase` is the type of 70.0% of the rows",
        "events: `view` is the type of 30.0% of the rows",
    ]
    assert validate(tables, later) == report


def test_small_window_never_stops(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    validate(tables, window)
    later = next_window(tables, [{"value": 900.0, "event_type": "view"}] * 99)
    report = validate(tables, later, compare_min_rows=100)
    assert (report.accepted, report.warnings) == ({"events": 99}, ())


def test_volume_beyond_all_measure_stops(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    tables.accept(window, rejections={})
    usual = {"groups": {"events": Profile(rows=10).to_json()}}
    for _ in range(4):
        tables.accept(next_window(tables, [{}] * 10), rejections={}, profile=usual)
    later = next_window(tables, [{}] * 600)
    with pytest.raises(
        DataError, match=r"events: 600 rows a day, the median of the windows before is 10; allowed: 0 to"
    ):
        validate(tables, later, compare_min_rows=100)


def test_pages_of_old_windows_are_removed(tmp_path):
    tables, window = toy_window(tmp_path)
    folder = tmp_path / "great_expectations"
    for now in (window, None):
        validate_tables(
            now or next_window(tables, [{}]),
            tables=tables,
            great_expectations_dir=folder,
            config=ValidationConfig(docs_windows=1),
            progress=SilentProgress(),
        )
    checks, older = Judge(folder).checks(10)
    newest = tables.manifest().windows[-1].window
    assert ([(check.window, check.table) for check in checks], older) == ([(newest, "events")], 0)
    assert not list(folder.rglob(f"*{window.window}*"))
    assert (folder / "overview.png").stat().st_size > 10_000


def test_killed_after_quarantine_and_before_the_manifest(tmp_path, validate):
    tables, window = toy_window(tmp_path)
    change(window, "events", {(0, "value"): -1.0})
    report = validate(tables, window)
    undisturbed = state(tables.folder) | state(tables.quarantine)
    # As if the first call had been killed between the two: the quarantine is there, the manifest is not.
    (tables.folder / "manifest.json").unlink()
    assert tables.accepted_until() is None
    assert validate(tables, window) == report
    assert state(tables.folder) | state(tables.quarantine) == undisturbed


def test_mlflow_has_the_numbers_and_the_picture(tmp_path):
    tables, window = toy_window(tmp_path)
    tracker = ExperimentTracker(tmp_path / "mlflow")
    report = validate_tables(
        window,
        tables=tables,
        great_expectations_dir=tmp_path / "great_expectations",
        config=ValidationConfig(),
        progress=SilentProgress(),
        tracker=tracker,
    )
    assert report.warnings == ()
    run = tracker.parent("data")
    client = run._backend.client
    assert client.get_run(run.run_id).data.metrics["accepted.events"] == 1500
    assert {file.path for file in client.list_artifacts(run.run_id, "data")} == {
        "data/overview.html",
        "data/overview.png",
    }


def test_mlflow_that_does_not_answer_is_a_warning(tmp_path):
    tables, window = toy_window(tmp_path)
    report = validate_tables(
        window,
        tables=tables,
        great_expectations_dir=tmp_path / "great_expectations",
        config=ValidationConfig(),
        progress=SilentProgress(),
        tracker=ExperimentTracker(tmp_path / "mlflow", "http://127.0.0.1:9"),
    )
    assert report.accepted["events"] == 1500
    (warning,) = report.warnings
    assert warning.startswith("The numbers of this window are not in MLflow: http://127.0.0.1:9 does not answer")
