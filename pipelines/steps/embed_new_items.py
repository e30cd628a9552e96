"""Step: give items that arrived since a bundle was made a vector, and put them beside it for the service."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.inference.bundle import ITEM_COLUMNS, Bundle, load_bundle
from pipelines.inference.bundle_writing import default_texts
from pipelines.inference.manifest import OtherVersionError
from pipelines.inference.new_items import NewItems, embed_items, item_text, read_fields
from pipelines.progress import Progress
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.schemas import ITEM_LOG, EmbeddedItems
from pipelines.stores.files import text_sha256
from pipelines.stores.new_items_store import find_pointer, remove_new_items, write_new_items
from pipelines.stores.table_store import TableStore
from pipelines.training.item_images import ItemImages

_BATCH = 256


def embed_new_items(
    bundle_folder: Path | None,
    *,
    tables: TableStore,
    new_items: Path,
    progress: Progress,
    images: ItemImages | None = None,
) -> EmbeddedItems:
    """Embed the items of the tables that the bundle does not have, from text, category, brand, price and picture.

    A service that answers from the bundle takes them over within seconds. Running it again without other items writes
    nothing; nothing stands beside a bundle that has them all, or that another version of Headrace wrote: the next
    training replaces that one.

    Args:
        bundle_folder: The bundle that is live, or is going to be; None before the first.
        new_items: Where they are kept.
        images: Reads pictures for a bundle that has learnt from pictures by the same encoder.

    Raises:
        BundleError: the bundle cannot be opened.
        ConfigError: the image encoder cannot be used.
        DataError: there are no tables yet.
    """
    if bundle_folder is None:
        return EmbeddedItems(bundle=None, items=0)
    try:
        bundle = load_bundle(bundle_folder)
    except OtherVersionError as error:
        return EmbeddedItems(bundle=bundle_folder.name, items=0, left_out=str(error))
    items_cursor = tables.source_state(ITEM_LOG) or None  # before the items: some may be taken twice, none is lost
    with tables.connect() as connection:
        connection.register("known", pa.table({"item_id": bundle.item_ids}))
        found = connection.sql(
            "SELECT * EXCLUDE (attributes) FROM items WHERE item_id NOT IN (SELECT item_id FROM known) ORDER BY item_id"
        ).to_arrow_table()
    if found.num_rows == 0:
        remove_new_items(new_items, bundle.bundle_id)
        return EmbeddedItems(bundle=bundle.bundle_id, items=0)
    items = found.select(ITEM_COLUMNS.names).cast(ITEM_COLUMNS)
    texts = [
        item_text(*pair) for pair in zip(items["title"].to_pylist(), found["description"].to_pylist(), strict=True)
    ]
    seen = _image_vectors(bundle, found["image"].to_pylist(), images, progress)
    pictures = [] if seen is None else [hashlib.sha256(seen.tobytes()).hexdigest()]
    fingerprint = text_sha256(bundle.bundle_id, *texts, str(items.to_pylist()), *pictures)
    known = find_pointer(new_items, bundle.bundle_id)
    if known is None or known.fingerprint != fingerprint:
        vectors = []
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            shown = None if seen is None else seen[part]
            vectors.append(embed_items(bundle, items.slice(start, _BATCH), texts[part], shown))
            progress.update("new items embedded", min(start + _BATCH, len(texts)), len(texts))
        lexical = LexicalIndex.build(default_texts(pa.concat_tables([bundle.items, items])))
        new = NewItems(items, np.concatenate(vectors), lexical)
        write_new_items(new_items, bundle.bundle_id, new, fingerprint, items_cursor)
    return EmbeddedItems(bundle=bundle.bundle_id, items=len(texts))


def _image_vectors(
    bundle: Bundle, names: Sequence[str | None], images: ItemImages | None, progress: Progress
) -> np.ndarray | None:
    """Return the vectors of pictures, float32 `(n, image_dim)`; None where the bundle cannot make use of any."""
    fields = read_fields(bundle.folder)
    if images is None or fields is None or not fields.image_encoder:
        return None
    found = images.vectors(names, progress)
    return found.vectors if found is not None and found.encoder == fields.image_encoder else None
