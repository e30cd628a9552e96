"""Row numbers on disk: two bytes each, and single bits for what lies above 65,535."""

import numpy as np

from pipelines.errors import DataError


def pack_rows(rows: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide row numbers below `n_items`, int `(m,)`, into what is stored.

    Returns:
        The low 16 bits, uint16 `(m,)`, and the bits above them that `n_items` needs, one plane a bit: uint8
        `(bits, ⌈m / 8⌉)`.
    """
    planes = [np.packbits((rows >> bit) & 1) for bit in range(16, 16 + _high_bits(n_items))]
    high = np.stack(planes) if planes else np.empty((0, 0), np.uint8)
    return (rows & 0xFFFF).astype(np.uint16), np.ascontiguousarray(high)


def unpack_rows(low: np.ndarray, planes: np.ndarray, n_items: int) -> np.ndarray:
    """Return the row numbers, int32 `(m,)`, from what `pack_rows` gave.

    Raises:
        DataError: the parts do not fit together.
    """
    if len(planes) != _high_bits(n_items) or (len(planes) and planes.shape[1] != -(-len(low) // 8)):
        raise DataError("bits of row numbers are missing")
    rows = low.astype(np.int32)
    for place, plane in enumerate(planes):
        rows |= np.unpackbits(plane, count=len(low)).astype(np.int32) << (16 + place)
    return rows


def _high_bits(n_items: int) -> int:
    return max(0, (n_items - 1).bit_length() - 16)
