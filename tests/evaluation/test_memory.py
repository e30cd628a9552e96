"""Memory of a process of its own."""

import pytest

from pipelines.config import ServingConfig
from pipelines.errors import BundleError
from pipelines.evaluation.memory import bundle_memory_mib
from tests.toys.evaluation_rows import row, rows_of
from tests.toys.toy_bundle import ITEMS, write_toy_bundle

pytestmark = pytest.mark.slow


def test_a_fresh_process_grows_by_what_the_bundle_holds(tmp_path):
    rows = rows_of(tmp_path, ITEMS["item_id"].to_pylist(), row(1, "ann", history=["a"]), row(2, "bob", history=[]))
    write_toy_bundle(tmp_path / "toy")
    grown = bundle_memory_mib(tmp_path / "toy", rows, ["red apple"], ServingConfig(), requests=3)
    assert 0 < grown < 500


def test_a_bundle_that_ends_its_process_is_an_error_with_the_reason(tmp_path):
    rows = rows_of(tmp_path, ITEMS["item_id"].to_pylist(), row(1, "ann", history=["a"]))
    write_toy_bundle(tmp_path / "toy")
    (tmp_path / "toy" / "encoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"answers ended with 1 \(.*encoder\.onnx is missing"):
        bundle_memory_mib(tmp_path / "toy", rows, ["red apple"], ServingConfig(), requests=3)
