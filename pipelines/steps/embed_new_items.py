"""Step: give items that arrived since the live bundle was made a vector, and put them beside it for the service."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.inference.bundle import ITEM_COLUMNS, default_texts, load_bundle
from pipelines.inference.new_items import NewItems, embed_items
from pipelines.progress import Progress
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.schemas import EmbeddedItems
from pipelines.stores.files import text_sha256
from pipelines.stores.new_items_store import find_pointer, remove_new_items, write_new_items
from pipelines.stores.serving_pointer import read_pointer
from pipelines.stores.table_store import TableStore
from pipelines.training.catalog import item_text

_BATCH = 256


def embed_new_items(*, tables: TableStore, current_bundle: Path, new_items: Path, progress: Progress) -> EmbeddedItems:
    """Embed the items of the tables that the live bundle does not have, from text, category, brand and price.

    The running service takes them over within seconds. Running it again without other items writes nothing; once a
    bundle is live that has them, nothing stands beside it.

    Args:
        current_bundle: The pointer to the live bundle.
        new_items: Where they are kept.

    Raises:
        BundleError: the live bundle cannot be opened.
        DataError: there are no tables yet.
    """
    pointer = read_pointer(current_bundle)
    if pointer is None:
        return EmbeddedItems(bundle=None, items=0)
    bundle = load_bundle(pointer.folder)
    with tables.connect() as connection:
        connection.register("known", pa.table({"item_id": bundle.item_ids}))
        found = connection.sql(
            "SELECT * EXCLUDE (attributes) FROM items WHERE item_id NOT IN (SELECT item_id FROM known) ORDER BY item_id"
        ).to_arrow_table()
    if found.num_rows == 0:
        remove_new_items(new_items, pointer.bundle)
        return EmbeddedItems(bundle=pointer.bundle, items=0)
    items = found.select(ITEM_COLUMNS.names).cast(ITEM_COLUMNS)
    texts = [
        item_text(*pair) for pair in zip(items["title"].to_pylist(), found["description"].to_pylist(), strict=True)
    ]
    fingerprint = text_sha256(bundle.bundle_id, *texts, str(items.to_pylist()))
    known = find_pointer(new_items, pointer.bundle)
    if known is None or known.fingerprint != fingerprint:
        vectors = []
        for start in range(0, len(texts), _BATCH):
            part = slice(start, start + _BATCH)
            vectors.append(embed_items(bundle, items.slice(start, _BATCH), texts[part]))
            progress.update("new items embedded", min(start + _BATCH, len(texts)), len(texts))
        lexical = LexicalIndex.build(default_texts(pa.concat_tables([bundle.items, items])))
        write_new_items(new_items, pointer.bundle, NewItems(items, np.concatenate(vectors), lexical), fingerprint)
    return EmbeddedItems(bundle=pointer.bundle, items=len(texts))
