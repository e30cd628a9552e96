"""From torch to ONNX: encoder, item tower and rankers as plain graphs with free batch and sequence sizes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pipelines.compression.graph_fusion import DIM, HEADS
from pipelines.model.encoder import SentenceEncoder
from pipelines.model.item_tower import ItemTower
from pipelines.model.ranker import Ranker

_OPSET = 17


def export_encoder(encoder: SentenceEncoder, target: Path) -> None:
    """Write the encoder: int64 `input_ids` and `attention_mask` `(n, t)` to float32 `sentence_embedding` `(n, dim)`."""
    ids = torch.ones(2, 8, dtype=torch.int64)
    _export(
        encoder,
        (ids, ids),
        target,
        inputs={"input_ids": ("n", "t"), "attention_mask": ("n", "t")},
        outputs={"sentence_embedding": ("n",)},
    )
    _tell_shape(encoder, target)


def _tell_shape(encoder: SentenceEncoder, target: Path) -> None:
    """Write into the model what cannot be seen in its graph: how wide a head of attention is."""
    import onnx

    heads = getattr(encoder.transformer.config, "num_attention_heads", None)
    if heads is None:
        return
    model = onnx.load(target)
    onnx.helper.set_model_props(model, {HEADS: str(heads), DIM: str(encoder.dim)})
    onnx.save_model(model, target)


def export_item_tower(tower: ItemTower, target: Path, *, dim: int) -> None:
    """Write the item tower for items without behaviour.

    float32 `text` `(n, dim)`, int64 `category` and `brand` `(n,)`, float32 `price` `(n,)` and, of a tower that looks at
    pictures, float32 `image` `(n, image_dim)`, all as in `ItemInputs`, to float32 `item_vector` `(n, dim)`, each row L2
    norm 1.
    """
    numbers = torch.zeros(2, dtype=torch.int64)
    example = {"text": torch.randn(2, dim), "category": numbers, "brand": numbers, "price": torch.zeros(2)}
    if tower.image is not None:
        example["image"] = torch.zeros(2, tower.image.in_features)
    _export(
        _DescribedItems(tower),
        tuple(example.values()),
        target,
        inputs=dict.fromkeys(example, ("n",)),
        outputs={"item_vector": ("n",)},
    )


def export_image_encoder(network: nn.Module, target: Path, *, size: tuple[int, int]) -> None:
    """Write an image encoder: float32 `image` `(n, 3, height, width)` to float32 `image_vector` `(n, dim)`."""
    _export(network, (torch.zeros(2, 3, *size),), target, inputs={"image": ("n",)}, outputs={"image_vector": ("n",)})


class _DescribedItems(nn.Module):
    """The item tower with its gate at 0: the table of behaviour embeddings stays out of the graph."""

    def __init__(self, tower: ItemTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self,
        text: torch.Tensor,
        category: torch.Tensor,
        brand: torch.Tensor,
        price: torch.Tensor,
        image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return nn.functional.normalize(self.tower.described(text, category, brand, price, image), dim=-1)


def export_ranker(ranker: Ranker, target: Path) -> None:
    """Write the ranker: float32 `features` `(c, n_features)` to float32 `logits` `(c, n_heads)`."""
    example = (torch.zeros(2, len(ranker.mean)),)
    _export(ranker, example, target, inputs={"features": ("c",)}, outputs={"logits": ("c",)})


def _export(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    target: Path,
    *,
    inputs: dict[str, Sequence[str]],
    outputs: dict[str, Sequence[str]],
) -> None:
    module = module.cpu().eval()
    with warnings.catch_warnings(), torch.no_grad():
        # The TorchScript exporter is deprecated; the newer one takes 13 s instead of 2 s and its graph does not fuse.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.onnx")
        torch.onnx.export(
            module,
            example,
            str(target),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(enumerate(axes)) for name, axes in {**inputs, **outputs}.items()},
        )
