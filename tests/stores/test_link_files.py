"""Links beside the bundles: one file for all workers, made again where it is not what the bundle says."""

import numpy as np
import pytest

from pipelines.inference.bundle import load_bundle
from pipelines.stores.link_files import FOLDER, links_path, shared
from tests.toys.toy_bundle import write_toy_bundle


@pytest.fixture
def bundle(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    return load_bundle(tmp_path / "b1")


def is_mapped(bundle) -> bool:
    base = bundle.links.records
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def test_few_links_stay_where_they_are(bundle):
    assert shared(bundle) is bundle
    assert not (bundle.folder.parent / FOLDER).exists()


def test_links_are_written_once_and_mapped_from_then_on(bundle):
    first = shared(bundle, shared_from=1)
    written = links_path(bundle).stat().st_mtime_ns
    again = shared(bundle, shared_from=1)
    assert links_path(bundle).stat().st_mtime_ns == written
    assert [is_mapped(one) for one in (bundle, first, again)] == [False, True, True]
    assert again.links.of("item_to_item", 0)[0].tolist() == [1, 3]
    assert again.links.records.tolist() == bundle.links.records.tolist()
    assert again.links.starts is bundle.links.starts


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""])
def test_a_damaged_file_is_made_again(bundle, damage):
    shared(bundle, shared_from=1)
    sound = links_path(bundle).read_bytes()
    links_path(bundle).write_bytes(damage(sound))
    assert shared(bundle, shared_from=1).links.records.tolist() == bundle.links.records.tolist()
    assert links_path(bundle).read_bytes() == sound


def test_a_folder_that_cannot_be_written_leaves_the_links_in_memory(bundle, caplog):
    (bundle.folder.parent / FOLDER).write_text("in the way")
    assert shared(bundle, shared_from=1) is bundle
    assert "are not kept" in caplog.text


def test_files_of_older_bundles_go(bundle):
    folder = bundle.folder.parent / FOLDER
    folder.mkdir()
    for number in range(4):
        (folder / f"old{number}.links").write_bytes(b"")
    shared(bundle, shared_from=1)
    assert len(list(folder.iterdir())) == 4
    assert links_path(bundle).is_file()
