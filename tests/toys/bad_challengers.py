"""Bundles that must never go live, each made from a good one by changing its files; their manifests are in order."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from pipelines.evaluation.slices import tail_items
from pipelines.inference.preprocessing import Preprocessing
from pipelines.stores.files import file_sha256

Change = Callable[[Path], None]
_SLOW_WIDTH, _SLOW_PRODUCTS = 384, 12
"""About a gigaflop: some 20 ms on one core, where the toy's towers take a fraction of one."""


def change_bundle(source: Path, target: Path, change: Change) -> Path:
    """Copy a bundle, change its files, and write a manifest that says so."""
    shutil.copytree(source, target)
    change(target)
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    files = [path for path in sorted(target.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    manifest["bundle_id"] = target.name
    manifest["files"] = {
        path.relative_to(target).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in files
    }
    (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return target


def shuffled_weights(folder: Path) -> None:
    """Put the numbers of every matrix of the towers and of the ranker into another order."""
    rng = np.random.default_rng(1)
    for name in ("encoder.onnx", "user_tower.onnx", "ranker.onnx"):
        _change_weights(folder / name, lambda values: rng.permutation(values.reshape(-1)).reshape(values.shape))


def nan_weights(folder: Path) -> None:
    """Make every float matrix of the user tower NaN, as after a step with an infinite loss."""
    _change_weights(folder / "user_tower.onnx", lambda values: np.full_like(values, np.nan), kinds="f")


def nan_ranker(folder: Path) -> None:
    """Make every float matrix of the ranker NaN: the bundle opens, and its scores are no numbers."""
    _change_weights(folder / "ranker.onnx", lambda values: np.full_like(values, np.nan), kinds="f")


def all_popular(folder: Path) -> None:
    """Recommend the same popular items to everybody."""
    path = folder / "preprocessing.json"
    preprocessing = Preprocessing.model_validate_json(path.read_text(encoding="utf-8"))
    alone = {name: float(name == "popularity") for name in type(preprocessing.fusion.recommend).model_fields}
    recommend = type(preprocessing.fusion.recommend)(**alone)
    fusion = preprocessing.fusion.model_copy(update={"recommend": recommend})
    changed = preprocessing.model_copy(update={"fusion": fusion, "ranker": None})
    path.write_text(changed.model_dump_json(), encoding="utf-8")
    (folder / "ranker.onnx").unlink()


def ten_times_slower(folder: Path) -> None:
    """Multiply large matrices, which change nothing, beside every call of the towers."""
    for name, given, output in (
        ("encoder.onnx", "attention_mask", "sentence_embedding"),
        ("user_tower.onnx", "mask", "user_embedding"),
    ):
        _slow_down(folder / name, given, output)


def wrong_vocabulary(folder: Path) -> None:
    """Number the tokens the other way around, as the tokenizer of another encoder would."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    words = sorted((token for token in vocabulary if token not in special), key=vocabulary.__getitem__)
    numbers = [vocabulary[token] for token in words]
    vocabulary.update(zip(words, reversed(numbers), strict=True))
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def saturated_int8(folder: Path) -> None:
    """Clip the encoder's int8 weights at the end of their range, as with scales that are far too small."""
    _change_weights(folder / "encoder.onnx", _at_the_end_of_the_range, kinds="i")


def without_tail(folder: Path) -> None:
    """Show only the head of the catalogue, the items that make 80 % of what is popular."""
    path = folder / "items.parquet"
    table = pq.read_table(path)
    tail = tail_items(np.load(folder / "popularity.npy"))
    shown = pa.array((table["available"].to_numpy() & ~tail).tolist(), pa.bool_())
    place = table.column_names.index("available")
    pq.write_table(table.set_column(place, table.schema.field("available"), shown), path)


def _at_the_end_of_the_range(values: np.ndarray) -> np.ndarray:
    middle = 128 if values.dtype == np.uint8 else 0
    limits = np.iinfo(values.dtype)
    return np.clip((values.astype(np.int32) - middle) * 32 + middle, limits.min, limits.max).astype(values.dtype)


def _change_weights(path: Path, change: Callable[[np.ndarray], np.ndarray], kinds: str = "fi") -> None:
    """Change the matrices of an ONNX model: `f` floats, `i` eight bits; vectors, shapes and scales stay."""
    model = onnx.load(path)
    wanted = {TensorProto.FLOAT: "f", TensorProto.INT8: "i", TensorProto.UINT8: "i"}
    changed = 0
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.ndim == 2 and wanted.get(initializer.data_type, "-") in kinds:
            initializer.CopyFrom(numpy_helper.from_array(change(values), initializer.name))
            changed += 1
    assert changed, f"{path.name} has no such weights"
    onnx.save_model(model, path)


def _slow_down(path: Path, given: str, output: str) -> None:
    """Add to an output 0 times a chain of matrix products over a matrix that depends on an input."""
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [f"quick_{name}" if name == output else name for name in node.output]
        node.input[:] = [f"quick_{name}" if name == output else name for name in node.input]
    shape = np.asarray([_SLOW_WIDTH, _SLOW_WIDTH], np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, "slow_shape"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "slow_nothing"))
    nodes = [
        helper.make_node("Cast", [given], ["slow_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["slow_float"], ["slow_one"], keepdims=0),
        helper.make_node("Mul", ["slow_one", "slow_nothing"], ["slow_zero"]),
        helper.make_node("Expand", ["slow_zero", "slow_shape"], ["slow_0"]),
    ]
    for step in range(_SLOW_PRODUCTS):
        nodes.append(helper.make_node("MatMul", [f"slow_{step}", f"slow_{step}"], [f"slow_{step + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"slow_{_SLOW_PRODUCTS}"], ["slow_sum"], keepdims=0))
    nodes.append(helper.make_node("Add", [f"quick_{output}", "slow_sum"], [output]))
    graph.node.extend(nodes)
    onnx.save_model(model, path)
