"""Vector indexes beside the bundles: made once, made again where they are not what they should be."""

import pytest

from pipelines.benchmarks.synthetic_shop import make_shop, write_shop_bundle
from pipelines.inference.bundle import load_bundle
from pipelines.retrieval.vector_index import CODES_VERSION, FAST_SCAN_FROM, ExactVectorIndex, FastScanVectorIndex
from pipelines.stores.vector_index_files import FOLDER, index_path, indexed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "b1"
    write_shop_bundle(make_shop(items=200, users=1, words=40, seed=1), folder, dim=16, seed=1)
    return load_bundle(folder)


@pytest.fixture
def bundle(made, tmp_path):
    """The bundle as if it lay in a folder of its own."""
    made.folder = tmp_path / "b1"
    return made


def nearest(bundle) -> list[int]:
    return bundle.vector_index.nearest(bundle.item_vectors[3], 5)[0].tolist()


def test_a_small_catalogue_is_compared_exactly(bundle):
    assert bundle.n_items < FAST_SCAN_FROM
    assert isinstance(indexed(bundle).vector_index, ExactVectorIndex)
    assert not (bundle.folder.parent / FOLDER).exists()


def test_an_index_is_made_once_and_read_from_then_on(bundle):
    first = indexed(bundle, fast_scan_from=1)
    assert isinstance(first.vector_index, FastScanVectorIndex)
    written = index_path(bundle).stat().st_mtime_ns
    again = indexed(bundle, fast_scan_from=1)
    assert index_path(bundle).stat().st_mtime_ns == written
    assert nearest(again) == nearest(first) == nearest(bundle)
    assert [path.name for path in index_path(bundle).parent.iterdir()] == [index_path(bundle).name]


def test_codes_of_another_version_are_not_read(bundle):
    indexed(bundle, fast_scan_from=1)
    path = index_path(bundle)
    other = path.with_name(path.name.replace(f".v{CODES_VERSION}.", f".v{CODES_VERSION - 1}."))
    path.rename(other)
    indexed(bundle, fast_scan_from=1)
    assert path.is_file()
    assert other.is_file()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:40] + b"x" + content[41:]])
def test_a_damaged_index_is_made_again(bundle, damage, caplog):
    indexed(bundle, fast_scan_from=1)
    sound = index_path(bundle).read_bytes()
    index_path(bundle).write_bytes(damage(sound))
    assert nearest(indexed(bundle, fast_scan_from=1)) == nearest(bundle)
    assert "is made again" in caplog.text
    assert index_path(bundle).read_bytes() == sound


def test_a_disk_that_cannot_be_written_stops_nothing(bundle, caplog):
    index_path(bundle).parent.write_text("in the way")
    assert nearest(indexed(bundle, fast_scan_from=1)) == nearest(bundle)
    assert "is not kept" in caplog.text


def test_indexes_of_bundles_long_gone_are_removed(bundle):
    folder = index_path(bundle).parent
    folder.mkdir()
    for number in range(10):
        (folder / f"old-{number}.index").write_bytes(b"")
    indexed(bundle, fast_scan_from=1)
    left = list(folder.iterdir())
    assert len(left) == 8
    assert index_path(bundle) in left
