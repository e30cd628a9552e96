"""Items that arrived since a bundle was made, on disk: one JSON file names the folder that counts.

serving/new_items/<bundle>.json       which folder, and the SHA-256 of its files; replaced in one rename
serving/new_items/<bundle>.<digits>/  items.parquet, vectors.npy, lexical/

The folder before the one that counts stays, for a service that is reading it.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pipelines.errors import BundleError
from pipelines.inference.new_items import NewItems
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.schemas import Record
from pipelines.stores.files import file_sha256, replacing_folder, write_text


class NewItemsPointer(Record):
    """Which items stand beside a bundle's own."""

    bundle: str
    folder: str = Field(description="Name of the folder beside this file.")
    count: int
    fingerprint: str = Field(description="SHA-256 over what the items are.")
    files: dict[str, str] = Field(description="SHA-256 by name.")
    items_cursor: dict[str, Any] | None = Field(
        default=None, description="Place in the item log up to which the tables knew it."
    )


def pointer_path(store: Path, bundle: str) -> Path:
    """Return the file that says which items stand beside the bundle's own."""
    return store / f"{bundle}.json"


def find_pointer(store: Path, bundle: str) -> NewItemsPointer | None:
    """Return what stands beside the bundle; None where there is nothing, or nothing that can be read."""
    try:
        return NewItemsPointer.model_validate_json(pointer_path(store, bundle).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return None


def write_new_items(
    store: Path, bundle: str, new: NewItems, fingerprint: str, items_cursor: Mapping[str, Any] | None = None
) -> NewItemsPointer:
    """Put items beside the bundle's own, whole or not at all; they take the place of those that were there."""
    before = find_pointer(store, bundle)
    name = f"{bundle}.{fingerprint[:12]}"
    with replacing_folder(store / name) as folder:
        pq.write_table(new.items, folder / "items.parquet")
        np.save(folder / "vectors.npy", new.vectors.astype(np.float32), allow_pickle=False)
        new.lexical.save(folder / "lexical")
        files = {
            path.relative_to(folder).as_posix(): file_sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    pointer = NewItemsPointer(
        bundle=bundle,
        folder=name,
        count=new.items.num_rows,
        fingerprint=fingerprint,
        files=files,
        items_cursor=dict(items_cursor) if items_cursor else None,
    )
    write_text(pointer_path(store, bundle), pointer.model_dump_json(indent=2))
    kept = {name, before.folder if before else name}
    for path in store.iterdir():
        if path.is_dir() and path.name.startswith(f"{bundle}.") and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    return pointer


def remove_new_items(store: Path, bundle: str) -> None:
    """Let the bundle stand alone."""
    pointer_path(store, bundle).unlink(missing_ok=True)


def read_new_items(store: Path, bundle: str) -> NewItems | None:
    """Return what stands beside the bundle; None where nothing does.

    Raises:
        BundleError: the files are not those that were written.
    """
    pointer = find_pointer(store, bundle)
    if pointer is None:
        return None
    folder = store / pointer.folder
    try:
        changed = [name for name, sha256 in pointer.files.items() if file_sha256(folder / name) != sha256]
        if changed:
            raise BundleError(
                f"{changed[0]} of the new items in {folder} was changed after it was written: run "
                "`headrace embed_new_items`."
            )
        return NewItems(
            items=pq.read_table(folder / "items.parquet"),
            vectors=np.load(folder / "vectors.npy", allow_pickle=False),
            lexical=LexicalIndex.load(folder / "lexical"),
        )
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise BundleError(
            f"The new items in {folder} cannot be read ({str(error).splitlines()[0]}): run `headrace embed_new_items`."
        ) from error
