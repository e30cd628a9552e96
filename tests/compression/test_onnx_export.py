"""The exported graphs give the numbers that torch gives, at any batch and length."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipelines.compression import graph_fusion
from pipelines.compression.graph_fusion import fused
from pipelines.compression.onnx_export import export_encoder, export_item_tower
from pipelines.compression.quantization import quantize_int8
from pipelines.compression.user_tower_graph import export_user_tower
from pipelines.inference.new_items import ItemTower, item_tower_fields
from pipelines.inference.text_encoder import TextEncoder
from pipelines.model.encoder import encode_texts, load_encoder
from pipelines.model.item_tower import ItemInputs
from pipelines.model.item_tower import ItemTower as RichItemTower
from pipelines.model.user_tower import UserTower
from pipelines.progress import SilentProgress

TEXTS = ["red apple", "a very long text about nothing at all", "tea"]


@pytest.mark.parametrize("n_activity", [2, 0])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (2, 50)])
def test_user_tower_in_onnx_gives_what_torch_gives(tmp_path, batch, length, n_activity):
    generator = torch.Generator().manual_seed(0)
    tower = UserTower(8, n_event_types=6, n_gap_buckets=12, n_activity=n_activity)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    export_user_tower(tower, tmp_path / "user_tower.onnx")
    mask = torch.ones(batch, length)
    mask[-1, length // 2 + 1 :] = 0
    inputs = {
        "item_vectors": torch.randn(batch, length, 8, generator=generator),
        "event_types": torch.randint(0, 6, (batch, length), generator=generator),
        "gap_buckets": torch.randint(0, 12, (batch, length), generator=generator),
        "mask": mask,
        "activity": torch.randn(batch, n_activity, generator=generator),
    }
    with torch.no_grad():
        expected = tower(*inputs.values())
    session = onnxruntime.InferenceSession(tmp_path / "user_tower.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["user_embedding", "attention"], {name: value.numpy() for name, value in inputs.items()})
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other.numpy(), abs=1e-5)


def test_encoder_in_onnx_gives_what_torch_gives_and_int8_stays_close(tmp_path, tiny_encoder_folder):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    expected = encode_texts(encoder, tokenizer, TEXTS, max_tokens=16, progress=SilentProgress())
    export_encoder(encoder, tmp_path / "float.onnx")
    quantize_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    vectors = {}
    for name in ("float", "int8"):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        vectors[name] = TextEncoder(session, tiny_encoder_folder / "tokenizer.json", 16).encode(TEXTS)
    assert vectors["float"] == pytest.approx(expected, abs=1e-5)
    assert np.min((vectors["int8"] * expected).sum(1)) > 0.98


def test_attention_of_int8_is_one_operator(tmp_path, tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    export_encoder(encoder, tmp_path / "float.onnx")
    quantize_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    layers = encoder.transformer.config.num_hidden_layers
    assert (found["QAttention"], found["SkipLayerNormalization"], found["Softmax"]) == (layers, 2 * layers, 0)


def test_an_encoder_of_another_kind_stays_as_it_is(tmp_path, tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    export_encoder(encoder, tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    del model.metadata_props[:]
    onnx.save_model(model, tmp_path / "odd.onnx")
    assert fused(tmp_path / "odd.onnx") == model


def test_fusion_that_gives_other_vectors_is_left_alone(tmp_path, tiny_encoder_folder, monkeypatch):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    export_encoder(encoder, tmp_path / "float.onnx")
    model = onnx.load(tmp_path / "float.onnx")
    assert fused(tmp_path / "float.onnx") != model
    monkeypatch.setattr(graph_fusion, "_LEAST_COSINE", 1.1)
    assert fused(tmp_path / "float.onnx") == model


def test_item_tower_that_looks_at_pictures_takes_them_or_none(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tower = RichItemTower(8, n_items=5, n_categories=1, n_brands=1, behavior_dim=2, image_dim=3)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    export_item_tower(tower, tmp_path / "item_tower.onnx", dim=8)
    fields = item_tower_fields([""], [""], np.array([1.0]), image_encoder="eyes", image_dim=3)
    session = onnxruntime.InferenceSession(tmp_path / "item_tower.onnx", providers=["CPUExecutionProvider"])
    text = torch.nn.functional.normalize(torch.randn(2, 8, generator=generator), dim=-1)
    image, nothing = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]), torch.zeros(2, dtype=torch.int64)

    def embedded(images):
        return ItemTower(session, fields).embed(text.numpy(), [None] * 2, [None] * 2, np.full(2, np.nan), images)

    with torch.no_grad():
        expected = tower(nothing, ItemInputs(text, nothing, nothing, torch.zeros(2), torch.zeros(2), image)).numpy()
    seen, unseen = embedded(image.numpy()), embedded(None)
    assert seen == pytest.approx(expected, abs=1e-5)
    assert unseen[1] == pytest.approx(expected[1], abs=1e-5)
    assert unseen[0] != pytest.approx(expected[0], abs=1e-2)


@pytest.mark.parametrize("n", [1, 3])
def test_item_tower_in_onnx_gives_what_torch_gives_an_item_nobody_has_touched(tmp_path, n):
    generator = torch.Generator().manual_seed(0)
    tower = RichItemTower(8, n_items=5, n_categories=3, n_brands=4, behavior_dim=2)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    export_item_tower(tower, tmp_path / "item_tower.onnx", dim=8)
    fields = item_tower_fields(["", "Fruit", "Dairy"], ["", "Mill", "House", "Inn"], np.array([1.0, 4.0]))
    session = onnxruntime.InferenceSession(tmp_path / "item_tower.onnx", providers=["CPUExecutionProvider"])
    text = torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1)
    categories, brands, prices = ["Dairy", None, "never seen"][:n], ["Inn", "Mill", None][:n], [4.0, np.nan, 1.0][:n]

    found = ItemTower(session, fields).embed(text.numpy(), categories, brands, np.array(prices))
    inputs = ItemInputs(
        text,
        torch.tensor([2, 0, 0][:n]),
        torch.tensor([3, 1, 0][:n]),
        torch.tensor([1.0, 0.0, -1.0][:n]),  # ln 1 and ln 4 are one deviation from their mean
        torch.zeros(n),
    )
    with torch.no_grad():
        expected = tower(torch.arange(n), inputs)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert (tmp_path / "item_tower.onnx").stat().st_size < 10_000
