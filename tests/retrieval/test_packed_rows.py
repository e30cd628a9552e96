"""Row numbers of two bytes and a few bits."""

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.retrieval.packed_rows import pack_rows, unpack_rows


@pytest.mark.parametrize(("n_items", "bits"), [(3, 0), (65_536, 0), (65_537, 1), (100_000, 1), (300_000, 3)])
def test_packed_rows_come_back_as_they_were(n_items, bits):
    rows = np.array([0, n_items - 1, n_items // 2, 1, 2, n_items - 2, 0, 1, n_items - 1], np.int32)
    low, planes = pack_rows(rows, n_items)
    assert low.dtype == np.uint16
    assert len(planes) == bits
    found = unpack_rows(low, planes, n_items)
    assert found.dtype == np.int32
    assert found.tolist() == rows.tolist()


def test_no_rows_are_packed_too():
    assert unpack_rows(*pack_rows(np.empty(0, np.int32), 100_000), 100_000).tolist() == []


@pytest.mark.parametrize("cut", [lambda planes: planes[:0], lambda planes: planes[:, :-1]])
def test_bits_that_are_missing_are_said(cut):
    low, planes = pack_rows(np.arange(90_000, 90_020), 100_000)
    with pytest.raises(DataError, match="bits of row numbers are missing"):
        unpack_rows(low, cut(planes), 100_000)
