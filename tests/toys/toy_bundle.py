"""A bundle whose answers can be worked out by hand: one dimension a word, six items, three categories.

The encoder turns a text into the normalised sum of one-hot words, the user tower into the normalised sum of the
vectors of the items in the history.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pipelines.inference.bundle import ITEM_COLUMNS
from pipelines.inference.bundle_writing import BundleParts, write_bundle
from pipelines.inference.manifest import Manifest
from pipelines.inference.preprocessing import Preprocessing
from pipelines.retrieval.neighbors import NeighborTable

WORDS = ("red", "green", "apple", "pear", "bread", "milk", "oat", "rye")
DIM = len(WORDS)
CREATED_AT = datetime(2026, 1, 5, tzinfo=UTC)

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e", "f"],
        "title": ["red apple", "green apple", "green pear", "rye bread", "oat milk", "red bread"],
        "category": ["Fruit", "Fruit", "Fruit", "Bakery", "Dairy", "Bakery"],
        "brand": ["Orchard", "Orchard", None, "Mill", "Mill", None],
        "price": [1.0, 2.0, 3.0, 4.0, None, 6.0],
        "currency": ["USD"] * 6,
        "available": [True, True, True, True, True, False],
    }
)
POPULARITY = np.array([0.0, 1.0, 3.0, 7.0, 0.0, 0.0], np.float32)
NEIGHBOURS = np.array([[1, 3], [0, -1], [4, -1], [0, 5], [2, -1], [3, -1]], np.int32)
NEIGHBOUR_SCORES = np.array([[0.8, 0.4], [0.8, 0], [0.5, 0], [0.4, 0.2], [0.5, 0], [0.2, 0]], np.float32)


@dataclass(frozen=True)
class User:
    """User features as the online store gives them."""

    item_ids: list[str] = field(default_factory=list)
    event_types: list[str] = field(default_factory=list)
    event_times: list[int] = field(default_factory=list)
    activity: dict[str, float | None] = field(default_factory=dict)
    counts_until_us: int | None = None


def bought(*item_ids: str, at: int = 0) -> User:
    """Return a user who bought these items at once."""
    return User(list(item_ids), ["purchase"] * len(item_ids), [at] * len(item_ids))


def one_hot(text: str) -> np.ndarray:
    """Return float32 `(DIM,)`, the normalised sum of the one-hot words of the text."""
    vector = np.zeros(DIM, np.float32)
    for word in text.split():
        vector[WORDS.index(word)] += 1
    return vector / np.linalg.norm(vector)


def new_items_table(*titles: str) -> pa.Table:
    """Return items that the toy bundle does not have; an item's id is its title, it costs 5 and has no category."""
    n = len(titles)
    return pa.table(
        {
            "item_id": list(titles),
            "title": list(titles),
            "category": pa.nulls(n, pa.string()),
            "brand": pa.nulls(n, pa.string()),
            "price": [5.0] * n,
            "currency": ["USD"] * n,
            "available": [True] * n,
        },
        schema=ITEM_COLUMNS,
    )


def write_toy_bundle(folder: Path, items_cursor: dict | None = None, **changes: object) -> Manifest:
    """Write the toy bundle to `folder`; `changes` replace fields of its `BundleParts`."""
    sources = folder.parent / f"{folder.name}.sources"
    sources.mkdir(parents=True, exist_ok=True)
    parts = BundleParts(
        encoder=write_toy_encoder(sources / "encoder.onnx"),
        encoder_name="toy",
        tokenizer=write_toy_tokenizer(sources / "tokenizer.json"),
        user_tower=write_toy_user_tower(sources / "user_tower.onnx"),
        item_vectors=np.stack([one_hot(title) for title in ITEMS["title"].to_pylist()]),
        items=ITEMS,
        neighbors={"item_to_item": NeighborTable.from_padded(NEIGHBOURS, NEIGHBOUR_SCORES)},
        popularity=POPULARITY,
        preprocessing=Preprocessing(),
        metrics={"recall@10": 0.5},
    )
    return write_bundle(folder, parts=replace(parts, **changes), created_at=CREATED_AT, items_cursor=items_cursor)


def write_toy_tokenizer(path: Path, words: tuple[str, ...] = WORDS) -> Path:
    """Write a tokenizer that splits at white space: [PAD] 0, [UNK] 1, then the words."""
    vocabulary = {token: number for number, token in enumerate(("[PAD]", "[UNK]", *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    return path


def write_toy_encoder(path: Path, order: tuple[str, ...] = WORDS) -> Path:
    """Write an encoder that adds up one-hot words; unknown words point in the direction of all words.

    `order` is the place of each word's one among the dimensions.
    """
    places = np.eye(DIM)[[order.index(word) for word in WORDS]]
    table = np.concatenate([np.zeros((1, DIM)), np.full((1, DIM), 0.001), places]).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["tokens", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["total"], keepdims=0),
        helper.make_node("LpNormalization", ["total"], ["sentence_embedding"], axis=-1, p=2),
    ]
    return _write_model(
        path,
        nodes,
        inputs=[
            ("input_ids", TensorProto.INT64, ["n", "t"]),
            ("attention_mask", TensorProto.INT64, ["n", "t"]),
        ],
        outputs=[("sentence_embedding", TensorProto.FLOAT, ["n", DIM])],
        constants={"table": table, "last": np.array([2]), "middle": np.array([1])},
    )


def write_backward_tower(folder: Path) -> Path:
    """Write a text tower whose vectors are those of the toy encoder with the dimensions the other way round."""
    folder.mkdir(parents=True)
    write_toy_tokenizer(folder / "tokenizer.json")
    write_toy_encoder(folder / "model.onnx", order=WORDS[::-1])
    return folder


def write_toy_user_tower(path: Path, *, gain: float = 1.0) -> Path:
    """Write a user tower that adds up item vectors; `gain` ≠ 1 breaks the unit length on purpose."""
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["item_vectors", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["total"], keepdims=0),
        helper.make_node("LpNormalization", ["total"], ["unit"], axis=-1, p=2),
        helper.make_node("Mul", ["unit", "gain"], ["user_embedding"]),
        helper.make_node("ReduceSum", ["mask", "middle"], ["events"], keepdims=1),
        helper.make_node("Div", ["mask", "events"], ["attention"]),
    ]
    return _write_model(
        path,
        nodes,
        inputs=[
            ("item_vectors", TensorProto.FLOAT, ["b", "t", DIM]),
            ("event_types", TensorProto.INT64, ["b", "t"]),
            ("gap_buckets", TensorProto.INT64, ["b", "t"]),
            ("mask", TensorProto.FLOAT, ["b", "t"]),
            ("activity", TensorProto.FLOAT, ["b", "a"]),
        ],
        outputs=[("user_embedding", TensorProto.FLOAT, ["b", DIM]), ("attention", TensorProto.FLOAT, ["b", "t"])],
        constants={"last": np.array([2]), "middle": np.array([1]), "gain": np.array([gain], np.float32)},
    )


def _write_model(path, nodes, *, inputs, outputs, constants) -> Path:
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save_model(model, path)
    return path
