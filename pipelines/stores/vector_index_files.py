"""Indexes over the vectors of bundles, kept beside the bundles so that a restart and other workers are quick.

<bundles>/.vector_indexes/<bundle>.<digits>.v<version>.index   SHA-256 of the rest, then the index

The digits are of the vectors' SHA-256, the version is that of the codes. What is missing, damaged, of other vectors or
of another version is made again; the bundle itself stays as it was deployed.
"""

import hashlib
import logging
from pathlib import Path

from pipelines.errors import DataError
from pipelines.inference.bundle import Bundle
from pipelines.retrieval.dense import VECTORS
from pipelines.retrieval.product_codes import packed, unpacked
from pipelines.retrieval.typical_vectors import typical_vectors
from pipelines.retrieval.vector_index import (
    ASKERS,
    CODES_VERSION,
    FAST_SCAN_FROM,
    FastScanVectorIndex,
    build_fast_scan,
)
from pipelines.stores.files import keep_newest, replacing_file

FOLDER = ".vector_indexes"
_DIGEST_BYTES = 32
_KEPT = 8
"""Indexes that stay, the newest: those of bundles that do not answer any more go."""
_logger = logging.getLogger("headrace.serving")


def indexed(bundle: Bundle, *, fast_scan_from: int = FAST_SCAN_FROM) -> Bundle:
    """Return the bundle with the index that its size asks for: as it is below `fast_scan_from` items.

    A folder that cannot be written costs the start of a service five seconds for 92,000 items, nothing else.
    """
    if bundle.n_items < fast_scan_from:
        return bundle
    path = index_path(bundle)
    try:
        codes = unpacked(_read(path), ASKERS, bundle.item_vectors.shape)
    except (OSError, DataError) as error:
        if not isinstance(error, FileNotFoundError):
            _logger.warning("The vector index %s is made again: %s", path.name, error)
        codes = build_fast_scan(bundle.item_vectors, typical_vectors(bundle))
        _keep(path, packed(codes))
    return bundle.with_vector_index(FastScanVectorIndex(codes, bundle.item_vectors, bundle.vector_index))


def index_path(bundle: Bundle) -> Path:
    """Return where the index of a bundle is kept."""
    digest = bundle.manifest.files[VECTORS].sha256
    return bundle.folder.parent / FOLDER / f"{bundle.bundle_id}.{digest[:12]}.v{CODES_VERSION}.index"


def _read(path: Path) -> bytes:
    """Return the index of a file.

    Raises:
        DataError: it is not what was written.
    """
    content = path.read_bytes()
    digest, index = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(index).digest() != digest:
        raise DataError(f"{path.name} has {len(content):,} bytes with another SHA-256 than was written.")
    return index


def _keep(path: Path, index: bytes) -> None:
    try:
        with replacing_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(index).digest() + index)
        keep_newest(path.parent, ".index", _KEPT)
    except OSError as error:  # a disk that is full, or of others: the index is in memory all the same
        _logger.warning("The vector index %s is not kept: %s", path.name, error)
