"""The pointer to the live bundle."""

import shutil
from datetime import UTC, datetime

import pytest

from pipelines.errors import BundleError
from pipelines.stores.serving_pointer import ServingPointer, read_pointer, write_pointer

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_nothing_deployed_is_no_pointer(tmp_path):
    assert read_pointer(tmp_path / "serving" / "current.json") is None


def test_a_pointer_survives_a_moved_home(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "bundles" / "b1").mkdir(parents=True)
    pointer = ServingPointer(bundle="b1", folder=old / "bundles" / "b1", deployed_at=NOW)
    write_pointer(old / "serving" / "current.json", pointer)
    assert read_pointer(old / "serving" / "current.json") == pointer
    old.rename(new)
    moved = read_pointer(new / "serving" / "current.json")
    assert moved is not None
    assert moved.folder == new / "bundles" / "b1"


def test_a_copied_home_serves_its_own_files(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    (original / "bundles" / "b1").mkdir(parents=True)
    pointer = ServingPointer(bundle="b1", folder=original / "bundles" / "b1", deployed_at=NOW)
    write_pointer(original / "serving" / "current.json", pointer)
    shutil.copytree(original, copy)
    copied = read_pointer(copy / "serving" / "current.json")
    assert copied is not None
    assert copied.folder == copy / "bundles" / "b1"


def test_a_broken_pointer_names_the_command(tmp_path):
    path = tmp_path / "serving" / "current.json"
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(BundleError, match="run `headrace deploy_bundle`"):
        read_pointer(path)
