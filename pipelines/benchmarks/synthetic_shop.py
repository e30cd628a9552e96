"""A made-up shop for benches that are not about quality: a catalogue, sales as files, and bundles with real models.

Words are random, so are vectors; sizes and the work per request are those of a real bundle.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.inference.bundle_writing import BundleParts, write_bundle
from pipelines.inference.manifest import Manifest
from pipelines.inference.preprocessing import Preprocessing
from pipelines.retrieval.neighbors import NeighborTable

MAPPING = """\
items:
  files: items.csv
  columns: {item_id: sku, title: name, category: kind, price: eur}
  constants: {updated_at: "2026-01-01T00:00:00+00:00"}
events:
  files: sales.csv
  columns: {event_id: line, user_id: customer, item_id: sku, event_timestamp: at, created_timestamp: at}
  constants: {event_type: purchase}
"""
_SYLLABLES = ("ba", "do", "fi", "ka", "lo", "mi", "nu", "pa", "ri", "su", "ta", "vo")
_CATEGORIES = 20
_NEIGHBORS = 20
_TITLE_WORDS = 4
Value = tuple[str, int, Sequence[str | int]]
"""Name, type and shape of a model's input or output."""


@dataclass(frozen=True)
class Shop:
    """A catalogue and its customers."""

    words: Sequence[str]
    titles: Sequence[str]
    users: Sequence[str]
    """Raw ids."""

    @property
    def item_ids(self) -> list[str]:
        """Ids of the items."""
        return [f"item-{number}" for number in range(len(self.titles))]


def make_shop(*, items: int, users: int, words: int, seed: int) -> Shop:
    """Return a shop; the same seed gives the same one."""
    chooser = random.Random(seed)  # noqa: S311 - not for secrets
    known = list(dict.fromkeys("".join(chooser.choices(_SYLLABLES, k=4)) for _ in range(words)))
    titles = [" ".join(chooser.choices(known, k=_TITLE_WORDS)) for _ in range(items)]
    return Shop(known, titles, [f"customer-{number}" for number in range(users)])


def write_files(shop: Shop, folder: Path, *, sales: int, now: datetime, seed: int) -> Path:
    """Write the shop as CSV files with their mapping; return the mapping's path."""
    chooser = random.Random(seed)  # noqa: S311 - not for secrets
    folder.mkdir(parents=True)
    items = [
        f"item-{number},{title},kind {number % _CATEGORIES},{1 + number % 50}"
        for number, title in enumerate(shop.titles)
    ]
    first = now - timedelta(days=30)
    lines = []
    for number in range(sales):
        at = first + timedelta(days=29) * (number / sales)
        customer, item = chooser.choice(shop.users), chooser.randrange(len(shop.titles))
        lines.append(f"sale-{number},{customer},item-{item},{at.isoformat()}")
    _write_lines(folder / "items.csv", "sku,name,kind,eur", items)
    _write_lines(folder / "sales.csv", "line,customer,sku,at", lines)
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    return folder / "mapping.yaml"


def write_shop_bundle(shop: Shop, folder: Path, *, dim: int, seed: int, available: bool = True) -> Manifest:
    """Write a bundle of the shop: word vectors are drawn from the seed, an item is the sum of its words.

    Args:
        shop: The catalogue.
        folder: Where the bundle goes.
        dim: Width of a vector.
        seed: Of the vectors, neighbors and popularity.
        available: Whether anything can be bought; a bundle of a shop that is sold out finds nothing.
    """
    generator = np.random.default_rng(seed)
    table = generator.standard_normal((len(shop.words) + 2, dim)).astype(np.float32)
    table[0] = 0
    rows = {word: number + 2 for number, word in enumerate(shop.words)}
    vectors = np.stack([table[[rows[word] for word in title.split()]].sum(axis=0) for title in shop.titles])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(shop.titles)
    sources = folder.parent / f".{folder.name}.sources"
    sources.mkdir(parents=True)
    parts = BundleParts(
        encoder=_write_encoder(sources / "encoder.onnx", table),
        encoder_name="synthetic",
        tokenizer=_write_tokenizer(sources / "tokenizer.json", shop.words),
        user_tower=_write_user_tower(sources / "user_tower.onnx", dim),
        item_vectors=vectors,
        items=_items(shop, available),
        neighbors={
            "item_to_item": NeighborTable.from_padded(
                generator.integers(0, n, (n, _NEIGHBORS)).astype(np.int32),
                np.sort(generator.random((n, _NEIGHBORS)).astype(np.float32), axis=1)[:, ::-1].copy(),
            )
        },
        popularity=generator.integers(0, 1_000, n).astype(np.float32),
        preprocessing=Preprocessing(),
    )
    return write_bundle(folder, parts=parts, created_at=datetime.now(UTC))


def _items(shop: Shop, available: bool) -> pa.Table:
    n = len(shop.titles)
    return pa.table(
        {
            "item_id": shop.item_ids,
            "title": list(shop.titles),
            "category": [f"kind {number % _CATEGORIES}" for number in range(n)],
            "brand": pa.nulls(n, pa.string()),
            "price": [float(1 + number % 50) for number in range(n)],
            "currency": ["EUR"] * n,
            "available": [available] * n,
        }
    )


def _write_tokenizer(path: Path, words: Sequence[str]) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {token: number for number, token in enumerate(("[PAD]", "[UNK]", *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of a text
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    return path


def _write_encoder(path: Path, table: np.ndarray) -> Path:
    """Write an encoder that adds up word vectors.

    Args:
        path: The file.
        table: float32 `(n_tokens, dim)`, row 0 is padding.
    """
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        *_masked_sum("tokens", "sentence_embedding"),
    ]
    texts: list[Value] = [
        ("input_ids", TensorProto.INT64, ["n", "t"]),
        ("attention_mask", TensorProto.INT64, ["n", "t"]),
    ]
    outputs: list[Value] = [("sentence_embedding", TensorProto.FLOAT, ["n", table.shape[1]])]
    return _write_model(path, nodes, texts, outputs, {"table": table})


def _write_user_tower(path: Path, dim: int) -> Path:
    """Write a user tower that adds up the items of the history."""
    from onnx import TensorProto, helper

    nodes = [
        *_masked_sum("item_vectors", "user_embedding"),
        helper.make_node("ReduceSum", ["mask", "middle"], ["events"], keepdims=1),
        helper.make_node("Div", ["mask", "events"], ["attention"]),
    ]
    inputs: list[Value] = [
        ("item_vectors", TensorProto.FLOAT, ["b", "t", dim]),
        ("event_types", TensorProto.INT64, ["b", "t"]),
        ("gap_buckets", TensorProto.INT64, ["b", "t"]),
        ("mask", TensorProto.FLOAT, ["b", "t"]),
        ("activity", TensorProto.FLOAT, ["b", "a"]),
    ]
    outputs: list[Value] = [
        ("user_embedding", TensorProto.FLOAT, ["b", dim]),
        ("attention", TensorProto.FLOAT, ["b", "t"]),
    ]
    return _write_model(path, nodes, inputs, outputs, {})


def _masked_sum(vectors: str, name: str) -> list[object]:
    from onnx import helper

    return [
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", [vectors, "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["total"], keepdims=0),
        helper.make_node("LpNormalization", ["total"], [name], axis=-1, p=2),
    ]


def _write_model(
    path: Path,
    nodes: Sequence[object],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray],
) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    known = {"last": np.array([2]), "middle": np.array([1]), **constants}
    graph = helper.make_graph(
        nodes,
        "synthetic",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in known.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    return path


def _write_lines(path: Path, header: str, lines: Sequence[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
