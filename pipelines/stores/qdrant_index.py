"""Dense retrieval by Qdrant, for those whose vectors outgrow one machine: one collection a bundle.

`qdrant:http://host:6333` is a server, `qdrant:/folder` or `qdrant:relative/folder` Qdrant's own embedded mode. A
collection that is missing or incomplete is filled when the bundle is opened; point ids are row numbers. Whatever the
engine does, an answer is given: where it is slow, down or wrong, the index in this process answers, and it is left
alone for a few seconds.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, StoreError
from pipelines.inference.bundle import Bundle
from pipelines.retrieval.dense import ItemVectors
from pipelines.retrieval.vector_index import Asker, VectorIndex

VARIABLE = "HEADRACE_VECTOR_INDEX"
KEY_VARIABLE = "HEADRACE_QDRANT_API_KEY"
PREFIX = "qdrant:"
_TIMEOUT_S = 0.05
"""Longest wait for one answer; the budget of a whole request is a few times that."""
_UPLOAD_TIMEOUT_S = 60
_LEFT_ALONE_S = 5.0
_UPLOADED = 1_024
"""Vectors sent at once."""
_FEW, _PER_ALLOWED, _MOST_ASKED = 2_048, 1.5, 4_096
"""Allowed items that this process scores itself; items asked for each that a filter lets pass, and at most."""
_THREADS = 4
_logger = logging.getLogger("headrace.serving")


class QdrantVectorIndex:
    """Asks Qdrant; the index in this process where that does not answer."""

    def __init__(
        self,
        client: Any,
        collection: str,
        vectors: ItemVectors,
        otherwise: VectorIndex,
        *,
        timeout_s: float = _TIMEOUT_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take an open `qdrant_client.QdrantClient` and a filled collection.

        Args:
            vectors: What the collection holds, by row.
            otherwise: What answers where Qdrant does not.
        """
        self._client, self._collection, self._vectors, self._otherwise = client, collection, vectors, otherwise
        self._timeout_s, self._now_s = timeout_s, now_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="qdrant")
        self._lock = threading.Lock()
        self._alone_until_s = -np.inf
        self._problem = ""

    @property
    def problem(self) -> str | None:
        """Why Qdrant is not asked at the moment; None where it is."""
        return self._problem if self._now_s() < self._alone_until_s else None

    def nearest(
        self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None, *, asker: Asker = "query"
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `VectorIndex.nearest`."""
        n = len(self._vectors)
        left = n if allowed is None else int(np.count_nonzero(allowed))
        asked = k if left == n else int(_PER_ALLOWED * k * n / max(left, 1)) + 1
        if left <= _FEW or asked > _MOST_ASKED or self.problem is not None:
            return self._otherwise.nearest(vector, k, allowed, asker=asker)
        future = self._pool.submit(self._ask, vector, asked)
        try:
            rows = future.result(timeout=self._timeout_s)
            rows = rows if allowed is None else rows[allowed[rows]]
        except FutureTimeoutError:
            future.cancel()
            self._leave_alone(f"the vector engine did not answer within {1e3 * self._timeout_s:.0f} ms")
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, the request is answered
            _logger.warning("Qdrant: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
            self._leave_alone("the vector engine failed")
        else:
            if len(rows) >= min(k, left):
                scores = self._vectors.products(rows, vector)
                best = np.lexsort((rows, -scores))[:k]
                return rows[best], scores[best]
        return self._otherwise.nearest(vector, k, allowed, asker=asker)

    def _ask(self, vector: np.ndarray, most: int) -> np.ndarray:
        found = self._client.query_points(
            self._collection, query=vector.tolist(), limit=most, with_payload=False, with_vectors=False
        ).points
        rows = np.array([point.id for point in found], np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self._vectors):
            raise StoreError(f"The collection {self._collection} gives items that the bundle does not have.")
        return rows

    def _leave_alone(self, problem: str) -> None:
        with self._lock:
            self._problem, self._alone_until_s = problem, self._now_s() + _LEFT_ALONE_S


def with_vector_engine(bundle: Bundle, environment: Mapping[str, str] = os.environ) -> Bundle:
    """Return the bundle with the vector engine that `HEADRACE_VECTOR_INDEX` names; as it is where none is named.

    Where the engine does not answer, the bundle stays as it is, and the log says why.

    Raises:
        ConfigError: the setting names no engine that there is, or the package is not installed.
    """
    named = environment.get(VARIABLE)
    if not named:
        return bundle
    place = named.removeprefix(PREFIX)
    if place == named or not place:
        raise ConfigError(
            f"{VARIABLE} is {named!r}: name a server or a folder, such as {PREFIX}http://localhost:6333, or unset it."
        )
    try:
        client = _client(place, environment.get(KEY_VARIABLE))
        fill_collection(client, bundle.bundle_id, bundle.item_vectors)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - the service starts all the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        _logger.error("Qdrant is not asked for the bundle %s: %s", bundle.bundle_id, reason)
        return bundle
    engine = QdrantVectorIndex(client, bundle.bundle_id, bundle.item_vectors, bundle.vector_index)
    return bundle.with_vector_index(engine)


@cache
def _client(place: str, api_key: str | None) -> Any:
    """Open Qdrant, once: its embedded mode allows a folder to be open once."""
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ConfigError(
            f"{VARIABLE} asks for Qdrant, and its client is not installed: pip install 'headrace[qdrant]'."
        ) from error
    if place.startswith(("http://", "https://")):
        return QdrantClient(url=place, api_key=api_key, timeout=_UPLOAD_TIMEOUT_S, check_compatibility=False)
    return QdrantClient(path=place, force_disable_check_same_thread=True)


def fill_collection(client: Any, name: str, vectors: ItemVectors) -> bool:
    """Send the vectors to a collection that has not all of them; return whether it was necessary."""
    from qdrant_client import models

    n, dim = vectors.shape
    if client.collection_exists(name):
        if client.count(name, exact=True).count == n:
            return False
    else:
        client.create_collection(
            name, vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT, on_disk=True)
        )
    for start in range(0, n, _UPLOADED):
        stop = min(start + _UPLOADED, n)
        client.upsert(
            name, points=models.Batch(ids=list(range(start, stop)), vectors=vectors[start:stop].tolist()), wait=True
        )
    return True
