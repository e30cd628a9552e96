import json
import shutil
from datetime import datetime

import pyarrow.parquet as pq
import pytest

from pipelines.config import FeatureConfig
from pipelines.errors import DataError, StoreError
from pipelines.progress import SilentProgress
from pipelines.schemas import FeatureBuild
from pipelines.steps.build_features import build_features
from pipelines.stores import feature_builder
from pipelines.stores.feature_files import FEATURE_FILES, FeatureFiles
from pipelines.stores.table_store import TableStore
from tests.toys.event_tables import day, event, events_table, tables_with

EVENTS = [event("u", "a", day(1)), event("u", "b", day(2)), event("v", "a", day(2.5), kind="view")]
UNTIL = day(3)


def build(tables: TableStore, folder, *, until=UNTIL, **settings) -> FeatureBuild:
    return build_features(
        tables=tables, features_dir=folder, config=FeatureConfig(**settings), until=until, progress=SilentProgress()
    )


def contents(folder) -> dict[str, list]:
    """Return the rows of all day files by name and day."""
    return {
        f"{name}/{path.stem}": sorted(pq.read_table(path).to_pylist(), key=str)
        for name in FEATURE_FILES
        for path in sorted((folder / name).glob("*.parquet"))
    }


def histories(folder) -> dict[str, list[str]]:
    rows = pq.read_table(folder / "users").to_pylist()
    return {row["moment_id"]: row["item_ids"] for row in rows}


def modified(folder) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def daily(count: int, start: int = 0) -> list[dict]:
    """Return purchases of two users on each of so many days."""
    return [event(user, f"i{number}", day(number + 0.5)) for number in range(start, start + count) for user in "uv"]


def test_one_file_a_day_and_source_and_their_rows_counted(tmp_path):
    built = build(tables_with(tmp_path, EVENTS, until=UNTIL), tmp_path / "features")

    assert built.rows == {"users": 3, "item_statistics": 3, "item_prices": 0}
    assert (built.until, built.days_built, built.build) == (UNTIL, 2, 1)
    assert built.touched_since == {"users": day(1), "item_statistics": day(2)}
    assert sorted(modified(tmp_path / "features")) == [
        "item_prices/2026-01-04.parquet",
        "item_statistics/2026-01-02.parquet",
        "item_statistics/2026-01-03.parquet",
        "manifest.json",
        "users/2026-01-02.parquet",
        "users/2026-01-03.parquet",
    ]


def test_a_day_of_statistics_is_known_when_it_is_over(tmp_path):
    build(tables_with(tmp_path, EVENTS, until=UNTIL), tmp_path / "features")
    rows = pq.read_table(tmp_path / "features" / "item_statistics").to_pylist()

    assert {(row["item_id"], row["event_timestamp"], row["purchases"], row["views"]) for row in rows} == {
        ("a", day(2), 1, 0),
        ("b", day(3), 1, 0),
        ("a", day(3), 1, 1),
    }


def test_a_second_run_writes_nothing(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=UNTIL), tmp_path / "features"
    first = build(tables, folder)
    before = modified(folder)
    second = build(tables, folder, until=day(4))

    assert second == first.model_copy(update={"days_built": 0, "touched_since": {}})
    assert modified(folder) == before


def test_only_new_and_touched_days_are_built(tmp_path):
    folder = tmp_path / "features"
    build(tables_with(tmp_path, EVENTS, until=day(2.75)), folder)
    before = modified(folder)
    more = [event("v", "c", day(2.8)), event("u", "c", day(3.5))]
    built = build(tables_with(tmp_path, more, until=day(4)), folder, until=day(4))

    assert (built.days_built, built.build) == (2, 2)
    assert built.touched_since["users"] == day(2)  # day 2 is written anew, with u's row of then
    assert {path for path, at in modified(folder).items() if before.get(path) == at} == {
        "users/2026-01-02.parquet",
        "item_statistics/2026-01-02.parquet",
        "item_prices/2026-01-03.parquet",
    }
    assert histories(folder) == {"u:1": ["a"], "u:2": ["a", "b"], "v:1": ["a"], "v:2": ["a", "c"], "u:3": list("abc")}


def test_a_late_event_makes_a_row_on_its_arrival_and_changes_no_older_file(tmp_path):
    folder = tmp_path / "features"
    build(tables_with(tmp_path, EVENTS, until=UNTIL), folder)
    before = contents(folder)
    late = tables_with(tmp_path, [event("u", "late", day(1.5), arrived=day(3.5))], until=day(4))
    build(late, folder, until=day(4))

    assert {name: rows for name, rows in contents(folder).items() if name in before and "prices" not in name} == {
        name: rows for name, rows in before.items() if "prices" not in name
    }
    assert histories(folder)["u:3"] == ["a", "late", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("base_days", [0, 2, 7])
def test_day_by_day_gives_the_files_of_all_at_once(tmp_path, monkeypatch, base_days):
    monkeypatch.setattr(feature_builder, "BASE_DAYS", base_days)
    for number in range(6):
        tables = tables_with(tmp_path / "daily", daily(1, number), until=day(number + 1))
        build(tables, tmp_path / "daily" / "features", until=day(number + 1))
    for start, count in ((0, 4), (4, 2)):
        tables = tables_with(tmp_path / "bulk", daily(count, start), until=day(start + count))
        build(tables, tmp_path / "bulk" / "features", until=day(start + count))
    day_by_day, at_once = (
        {file: rows for file, rows in contents(tmp_path / name / "features").items() if "prices" not in file}
        for name in ("daily", "bulk")
    )

    assert day_by_day.keys() == at_once.keys()
    for file, rows in at_once.items():
        assert all(same(one, other) for one, other in zip(rows, day_by_day[file], strict=True)), file


def test_users_with_very_many_events_get_the_same_rows_in_portions(tmp_path, monkeypatch):
    crowd = [event("till", f"i{n}", day(n / 5 - n % 3 / 7), arrived=day(n / 5), value=1.0) for n in range(25)]
    tables = tables_with(tmp_path, [*crowd, *daily(5)], until=day(6))
    build(tables, tmp_path / "whole", until=day(6))
    monkeypatch.setattr(feature_builder, "PORTION_EVENTS", 4)
    build(tables, tmp_path / "portions", until=day(6))
    whole, portions = contents(tmp_path / "whole"), contents(tmp_path / "portions")

    assert whole.keys() == portions.keys()
    for file, rows in whole.items():
        assert all(same(one, other) for one, other in zip(rows, portions[file], strict=True)), file
    assert histories(tmp_path / "portions")["till:25"] == histories(tmp_path / "whole")["till:25"]


def same(one: dict, other: dict) -> bool:
    return all(
        value == pytest.approx(other[name], rel=1e-9) if isinstance(value, float) else value == other[name]
        for name, value in one.items()
    )


def test_a_changed_older_day_is_built_anew_with_all_days_after_it(tmp_path):
    folder = tmp_path / "features"
    tables = tables_with(tmp_path, daily(12), until=day(12))
    build(tables, folder, until=day(12))
    before = contents(folder)
    files = tables.event_days()
    path = tables.folder / files["2026-01-06"].path
    pq.write_table(events_table([event("u", "other", day(5.5))]), path)
    manifest = json.loads((tables.folder / "manifest.json").read_text())
    manifest["events"]["2026-01-06"] |= {"rows": 1, "sha256": "another"}
    (tables.folder / "manifest.json").write_text(json.dumps(manifest))
    built = build(tables, folder, until=day(12))

    assert built.days_built == 7
    assert histories(folder)["u:12"][4:7] == ["i4", "other", "i6"]
    assert "v:12" not in histories(folder)
    assert contents(folder)["users/2026-01-05"] == before["users/2026-01-05"]


def test_other_settings_build_everything_anew(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=UNTIL), tmp_path / "features"
    first = build(tables, folder)
    second = build(tables, folder, history_length=1)

    assert first.fingerprint != second.fingerprint
    assert (second.days_built, second.build) == (2, 2)
    assert {len(items) for items in histories(folder).values()} == {1}


def test_features_as_of_an_earlier_time_are_not_taken_for_the_newest(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=UNTIL), tmp_path / "features"
    earlier = build(tables, folder, until=day(2))

    assert earlier.rows["users"] == 2
    assert build(tables, folder, until=UNTIL).rows["users"] == 3
    assert build(tables, folder, until=day(1.5)).rows["users"] == 1
    assert list(histories(folder)) == ["u:1"]


def test_a_day_without_usable_events_has_empty_files(tmp_path):
    events = [event("u", "a", day(0)), event("u", None, day(1), kind="search"), event("u", "b", day(2))]
    built = build(tables_with(tmp_path, events, until=UNTIL), tmp_path / "features")

    assert built.days_built == 3
    assert pq.read_metadata(tmp_path / "features" / "users" / "2026-01-02.parquet").num_rows == 0
    assert histories(tmp_path / "features") == {"u:1": ["a"], "u:2": ["a", "b"]}


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["_stage", "_carry", "_refresh_base", "prices"])
def test_a_killed_build_leaves_the_old_files_and_the_next_one_ends_the_same(tmp_path, monkeypatch, stop):
    folder = tmp_path / "features"
    build(tables_with(tmp_path, daily(2), until=day(2)), folder, until=day(2))
    before = contents(folder)
    tables = tables_with(tmp_path, daily(12, 2), until=day(14))
    shutil.copytree(folder, tmp_path / "undisturbed")
    build(tables, tmp_path / "undisturbed", until=day(14))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(feature_builder.FeatureBuilder, stop, interrupt)
        build(tables, folder, until=day(14))

    assert contents(folder) == before
    assert FeatureFiles(folder).load().rows["users"] == 4
    build(tables, folder, until=day(14))
    assert contents(folder) == contents(tmp_path / "undisturbed")
    assert not list(folder.glob(".*"))


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_while_files_are_replaced_nobody_can_read_and_a_killed_replacement_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "features"
    build(tables_with(tmp_path, daily(2), until=day(2)), folder, until=day(2))
    tables = tables_with(tmp_path, daily(2, 2), until=day(4))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FeatureFiles, "_remove_strangers", interrupt)
        build(tables, folder, until=day(4))

    with pytest.raises(StoreError, match="run `headrace build_features`"):
        FeatureFiles(folder).load()
    again = build(tables, folder, until=day(4))
    assert again.days_built == 2
    assert FeatureFiles(folder).load().rows["users"] == 8


def test_touched_since_is_told_for_several_builds(tmp_path):
    folder = tmp_path / "features"
    for number in range(3):
        tables = tables_with(tmp_path, daily(1, number), until=day(number + 1))
        build(tables, folder, until=day(number + 1))
    manifest = FeatureFiles(folder).load()

    assert manifest.build == 3
    assert manifest.touched_since(3) == {}
    assert manifest.touched_since(2)["users"] == day(2.5)
    assert manifest.touched_since(1)["users"] == day(1.5)


def test_prices_are_kept_as_they_were_and_added_where_they_changed(tmp_path):
    folder = tmp_path / "features"
    build(priced(tmp_path, {"a": (1.0, day(0)), "b": (2.0, day(0))}, day(1)), folder, until=day(1))
    build(priced(tmp_path, {"a": (5.0, day(1.5))}, day(2)), folder, until=day(2))
    rows = pq.read_table(folder / "item_prices").to_pylist()

    assert {
        (row["item_id"], row["event_timestamp"], row["created_timestamp"], row["price"], row["price_position"])
        for row in rows
    } == {
        ("a", day(0), day(0), 1.0, 0.0),
        ("b", day(0), day(0), 2.0, 1.0),
        ("a", day(1.5), day(1.5), 5.0, 1.0),
        ("b", day(0), day(1.5), 2.0, 0.0),  # known since a costs more
    }


def priced(home, prices: dict[str, tuple[float, datetime]], until: datetime) -> TableStore:
    tables = tables_with(home, [event("u", "a", until, number=1)], until=until)
    manifest = json.loads((tables.folder / "manifest.json").read_text())
    file = manifest["current"]["items"]
    table = pq.read_table(tables.folder / file["path"])
    known = {row["item_id"]: row for row in table.to_pylist()}
    for item, (price, updated_at) in prices.items():
        one = known.get(item, {"item_id": item, "title": item, "available": True})
        known[item] = one | {"price": price, "updated_at": updated_at}
    pq.write_table(type(table).from_pylist(list(known.values()), schema=table.schema), tables.folder / file["path"])
    file["sha256"] = until.isoformat()
    (tables.folder / "manifest.json").write_text(json.dumps(manifest))
    return tables


def test_without_tables_the_error_names_the_step(tmp_path):
    with pytest.raises(DataError, match="run `headrace ingest_tables`"):
        build(TableStore(tmp_path, quarantine=tmp_path / "q", ingested=tmp_path / "i"), tmp_path / "features")
