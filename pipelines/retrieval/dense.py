"""Dense retrieval: a vector against every item, exactly in float32 or several times faster in int8.

One exact product reads all float32 vectors (140 MB for 92,000 items of 384 dimensions, 10 to 20 ms on one core), which
is too slow for a request. Items are kept in int8, each with its own scale, and that one matrix serves twice: ONNX
Runtime multiplies it with a vector of seven bits (off by about 0.002 in cosine), and what is asked for by row is
multiplied with the exact vector (off by about 0.0003), so requests take a few hundred candidates from the first and
score them with the second.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError

VECTORS, SCALES, INDEX = "item_vectors.npy", "item_scales.npy", "dense_index.onnx"
"""Files of a folder that holds quantized vectors and their index."""
_LEVELS, _QUERY_LEVELS = 127, 63
"""int8 range used of the items, and of the vector asked for: with ±63, pairs of products fit 16 bits, and CPUs without
VNNI do not saturate."""
_ZERO = 64
_BLOCK = 8_192
"""Rows that are turned into float32 at a time."""
_CACHED = 128
"""Rows asked for that are turned into float32 at a time: so many stay in the cache that a core has to itself."""


class ItemVectors:
    """`n` vectors in int8, each with a scale; rows that are asked for come back as float32."""

    def __init__(self, codes: np.ndarray, scales: np.ndarray) -> None:
        """Take int8 `(n, dim)`, also memory-mapped, and float32 `(n,)`."""
        self.codes = np.asarray(codes)
        self.scales = scales

    @classmethod
    def quantized(cls, vectors: np.ndarray) -> "ItemVectors":
        """Quantize float `(n, dim)`; each row keeps its length, and its direction up to a cosine of about 0.9999."""
        vectors = vectors.astype(np.float32, copy=False)
        steps = np.maximum(np.abs(vectors).max(axis=1, initial=0), np.float32(1e-12)) / np.float32(_LEVELS)
        codes = np.rint(vectors / steps[:, None]).astype(np.int8)
        lengths = np.linalg.norm(codes.astype(np.float32), axis=1)
        scales = np.linalg.norm(vectors, axis=1) / np.maximum(lengths, 1)
        return cls(codes, scales.astype(np.float32))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors, and their width."""
        return self.codes.shape[0], self.codes.shape[1]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by number, slice or array of any shape: float32 `(*shape, dim)`, each row L2 norm 1."""
        out: np.ndarray = self.codes[rows].astype(np.float32)
        out *= self.scales[rows, ..., None]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all vectors, float32 `(n, dim)`; four times the memory, so not for a request."""
        return self[:].astype(dtype or np.float32, copy=False)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the products of float32 `(b, dim)` with all items, float32 `(b, n)`."""
        out = np.empty((len(vectors), len(self)), np.float32)
        for start in range(0, len(self), _BLOCK):
            out[:, start : start + _BLOCK] = vectors @ self[start : start + _BLOCK].T
        return out

    def products(self, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the products of the rows asked for, int64 `(c,)`, with one vector or several.

        Args:
            vectors: float32 `(dim,)` gives float32 `(c,)`, float32 `(dim, b)` gives float32 `(c, b)`.
        """
        products = np.empty((len(rows), *vectors.shape[1:]), np.float32)
        for start in range(0, len(rows), _CACHED):
            np.matmul(self.codes_of(rows[start : start + _CACHED]), vectors, out=products[start : start + _CACHED])
        scales = self.scales[rows]
        products *= scales if vectors.ndim == 1 else scales[:, None]
        return products

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Return float32 `(c, dim)`: the rows asked for, int64 `(c,)`, each divided by its scale."""
        codes: np.ndarray = self.codes.take(rows, axis=0, mode="clip")  # without clip NumPy checks, and copies twice
        return codes.astype(np.float32)

    def grown(self, vectors: np.ndarray) -> "ItemVectors":
        """Return these vectors and others, float `(k, dim)`, behind them."""
        more = ItemVectors.quantized(vectors)
        return ItemVectors(np.concatenate([self.codes, more.codes]), np.concatenate([self.scales, more.scales]))

    def save(self, folder: Path) -> None:
        """Write the vectors, and the index that reads them where they lie."""
        np.save(folder / VECTORS, np.ascontiguousarray(self.codes), allow_pickle=False)
        np.save(folder / SCALES, self.scales, allow_pickle=False)
        (folder / INDEX).write_bytes(dense_index_over(folder))

    @classmethod
    def load(cls, folder: Path) -> "ItemVectors":
        """Map the vectors of a folder into memory.

        Raises:
            DataError: the files are of another type, or do not fit together.
        """
        codes = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        scales = np.load(folder / SCALES, allow_pickle=False)
        if codes.dtype != np.int8 or codes.ndim != 2 or scales.dtype != np.float32 or scales.shape != codes.shape[:1]:
            raise DataError(
                f"{VECTORS} holds {codes.dtype} {codes.shape} and {SCALES} {scales.dtype} {scales.shape}; int8 "
                "(n, dim) and float32 (n,) are needed"
            )
        return cls(codes, scales)


def dense_scores(vectors: np.ndarray, item_vectors: "np.ndarray | ItemVectors") -> np.ndarray:
    """Return exact cosines, float32 `(b, n_items)` in [-1, 1].

    Args:
        vectors: float32 `(b, dim)`, each row L2 norm 1.
        item_vectors: float32 `(n_items, dim)`, each row L2 norm 1, or the same in int8.
    """
    if isinstance(item_vectors, ItemVectors):
        return item_vectors.scores(vectors)
    scores: np.ndarray = vectors @ item_vectors.T
    return scores


def dense_index_over(folder: Path) -> bytes:
    """Return the index as an ONNX model that holds no vector: it reads the files that `ItemVectors.save` wrote.

    uint8 `query` `(b, dim)` around 64 and float32 `query_scale` `(b, 1)` to float32 `scores` `(b, n_items)`.
    """
    from onnx import TensorProto, helper, numpy_helper

    (n_items, dim) = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False).shape
    graph = helper.make_graph(
        [
            # Folded when the model is opened; the multiplication packs what comes out, so nothing of it stays.
            helper.make_node("Transpose", ["items"], ["columns"], perm=[1, 0]),
            helper.make_node("MatMulInteger", ["query", "columns", "zero"], ["products"]),
            helper.make_node("Cast", ["products"], ["float_products"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["item_scales", "query_scale"], ["scales"]),
            helper.make_node("Mul", ["float_products", "scales"], ["scores"]),
        ],
        "dense_index",
        [
            helper.make_tensor_value_info("query", TensorProto.UINT8, ["b", dim]),
            helper.make_tensor_value_info("query_scale", TensorProto.FLOAT, ["b", 1]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", n_items])],
        [
            _outside("items", TensorProto.INT8, folder / VECTORS),
            _outside("item_scales", TensorProto.FLOAT, folder / SCALES),
            numpy_helper.from_array(np.array(_ZERO, np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


def _outside(name: str, data_type: int, file: Path) -> Any:
    """Return a tensor whose values are those of a `.npy` file beside the model."""
    from onnx import TensorProto

    array = np.load(file, mmap_mode="r", allow_pickle=False)
    tensor = TensorProto(name=name, data_type=data_type, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file.name), ("offset", array.offset), ("length", array.nbytes)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


class DenseIndex:
    """An opened int8 index."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def n_items(self) -> int:
        """Number of indexed vectors."""
        return int(self._session.get_outputs()[0].shape[1])

    def scores(self, vector: np.ndarray) -> np.ndarray:
        """Return cosines to every item, float32 `(n_items,)`, off by about 0.002.

        Args:
            vector: float32 `(dim,)`, L2 norm 1.
        """
        scale = max(float(np.abs(vector).max()), 1e-12) / _QUERY_LEVELS
        query = (np.rint(vector / scale) + _ZERO).astype(np.uint8)
        scores: np.ndarray = self._session.run(
            ["scores"], {"query": query[None], "query_scale": np.array([[scale]], np.float32)}
        )[0][0]
        return scores
