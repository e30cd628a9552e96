"""Links of bundles, kept beside the bundles so that all workers of a machine have one copy of them in memory.

<bundles>/.neighbor_links/<bundle>.<digits>.links   the records of `Links`, as they lie in memory

The digits are of the SHA-256 of the tables. A bundle keeps its tables in less than half of the space; what is kept here
is compared with them whenever it is opened, and made again where it is missing or something else.
"""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.inference.bundle import Bundle
from pipelines.retrieval.links import LINK
from pipelines.stores.files import keep_newest, replacing_file

FOLDER = ".neighbor_links"
SHARED_FROM = 100_000
"""Links from which on they are shared: fewer take less than a MiB."""
_BLOCK = 2**17
"""Records that are compared at a time."""
_KEPT = 4
"""Files that stay, the newest: those of bundles that do not answer any more go."""
_logger = logging.getLogger("headrace.serving")


def shared(bundle: Bundle, *, shared_from: int = SHARED_FROM) -> Bundle:
    """Return the bundle with its links mapped into memory from a file; as it is where they are few.

    A folder that cannot be written costs each worker 70 MiB for 92,000 items, nothing else.
    """
    records = bundle.links.records
    if len(records) < shared_from:
        return bundle
    path = links_path(bundle)
    found = _mapped(path, records)
    if found is None:
        _keep(path, records)
        found = _mapped(path, records)
    return bundle if found is None else bundle.with_links(replace(bundle.links, records=found))


def links_path(bundle: Bundle) -> Path:
    """Return where the links of a bundle are kept."""
    tables = [entry.sha256 for name, entry in sorted(bundle.manifest.files.items()) if name.startswith("neighbors/")]
    digest = hashlib.sha256("".join(tables).encode()).hexdigest()
    return bundle.folder.parent / FOLDER / f"{bundle.bundle_id}.{digest[:12]}.links"


def _mapped(path: Path, records: np.ndarray) -> np.ndarray | None:
    """Return the records of a file, mapped into memory; None where they are not these.

    They are compared by reading: a page that is mapped counts as the process's own once it is touched.
    """
    try:
        return np.asarray(np.memmap(path, LINK, mode="r")) if _holds(path, records) else None
    except OSError:  # missing, or not to be read
        return None


def _holds(path: Path, records: np.ndarray) -> bool:
    if path.stat().st_size != records.nbytes:
        return False
    with path.open("rb") as file:
        blocks = (records[start : start + _BLOCK].tobytes() for start in range(0, len(records), _BLOCK))
        return all(file.read(len(block)) == block for block in blocks)


def _keep(path: Path, records: np.ndarray) -> None:
    try:
        with replacing_file(path) as temporary:
            records.tofile(temporary)
        keep_newest(path.parent, ".links", _KEPT)
    except OSError as error:  # a disk that is full, or of others: the links are in memory all the same
        _logger.warning("The links %s are not kept: %s", path.name, error)
