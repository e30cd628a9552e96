import pyarrow.parquet as pq
import pytest

from pipelines.config import FeatureConfig
from pipelines.errors import DataError, StoreError
from pipelines.progress import SilentProgress
from pipelines.schemas import FeatureBuild
from pipelines.steps.build_features import build_features
from pipelines.stores.feature_files import FEATURE_FILES, FeatureFiles
from pipelines.stores.table_store import TableStore
from tests.toys.event_tables import day, event, tables_with

EVENTS = [event("u", "a", day(1)), event("u", "b", day(2)), event("v", "a", day(2.5), kind="view")]


UNTIL = day(3)


def build(tables: TableStore, folder, *, until=UNTIL, **settings) -> FeatureBuild:
    return build_features(
        tables=tables, features_dir=folder, config=FeatureConfig(**settings), until=until, progress=SilentProgress()
    )


def contents(folder) -> dict[str, list]:
    return {name: sorted(pq.read_table(folder / f"{name}.parquet").to_pylist(), key=str) for name in FEATURE_FILES}


def modified(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_one_file_a_source_and_their_rows_counted(tmp_path):
    built = build(tables_with(tmp_path, EVENTS, until=day(3)), tmp_path / "features")

    assert built.rows == {"user_activity": 3, "user_history": 3, "item_popularity": 2}
    assert built.until == day(3)
    assert sorted(modified(tmp_path / "features")) == [
        "item_popularity.parquet",
        "manifest.json",
        "user_activity.parquet",
        "user_history.parquet",
    ]


def test_a_second_run_writes_nothing(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=day(3)), tmp_path / "features"
    first = build(tables, folder)
    before = modified(folder)

    assert build(tables, folder, until=day(4)) == first
    assert modified(folder) == before


def test_new_tables_and_other_settings_are_built_anew(tmp_path):
    folder = tmp_path / "features"
    first = build(tables_with(tmp_path, EVENTS, until=day(3)), folder)
    tables = tables_with(tmp_path, [event("u", "c", day(3.5))], until=day(4))
    second = build(tables, folder, until=day(4))
    third = build(tables, folder, until=day(4), history_length=1)

    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert second.rows["user_history"] == 4
    assert {len(row["item_ids"]) for row in contents(folder)["user_history"]} == {1}


def test_features_as_of_an_earlier_time_are_not_taken_for_the_newest(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=day(3)), tmp_path / "features"
    earlier = build(tables, folder, until=day(2))

    assert earlier.rows["user_history"] == 2
    assert build(tables, folder, until=day(3)).rows["user_history"] == 3


def test_a_killed_build_leaves_the_old_files_and_the_next_one_ends_the_same(tmp_path):
    tables, folder = tables_with(tmp_path, EVENTS, until=day(3)), tmp_path / "features"
    build(tables, folder)
    undisturbed = contents(folder)
    files = FeatureFiles(folder)
    with pytest.raises(KeyboardInterrupt), files.replacing() as paths:
        paths["user_activity"].write_bytes(b"half a file")
        raise KeyboardInterrupt

    assert contents(folder) == undisturbed
    assert files.load().rows["user_history"] == 3
    (folder / ".user_history.parquet.tmp").write_bytes(b"left by a kill")
    build(tables, folder, popularity_half_life_days=3)
    build(tables, folder)
    assert contents(folder) == undisturbed
    assert not list(folder.glob(".*"))


def test_between_two_renames_nobody_can_read(tmp_path):
    folder = tmp_path / "features"
    tables = tables_with(tmp_path, EVENTS, until=day(3))
    built = build(tables, folder)
    (folder / "manifest.json").unlink()  # as a kill between the renames and the manifest leaves it

    with pytest.raises(StoreError, match="run `headrace build_features`"):
        FeatureFiles(folder).load()
    assert build(tables, folder) == built


def test_without_tables_the_error_names_the_step(tmp_path):
    with pytest.raises(DataError, match="run `headrace ingest_tables`"):
        build(TableStore(tmp_path, quarantine=tmp_path / "q", ingested=tmp_path / "i"), tmp_path / "features")
