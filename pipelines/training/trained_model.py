"""The trained model on disk: what compression reads, and what the next run starts from.

encoder/              the tuned encoder and its tokenizer, Hugging Face format
towers.safetensors    item tower and user tower
tables.json           names behind the rows of the embedding tables, and the image encoder, where there are pictures
preprocessing.json    `Preprocessing`
history.json          loss and validation recall by step
receipt.json          `Receipt`: what it has read
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from pipelines.config import TrainingConfig
from pipelines.errors import DataError
from pipelines.inference.preprocessing import Preprocessing
from pipelines.model.encoder import SentenceEncoder, load_encoder, save_tokenizer
from pipelines.model.item_tower import ItemInputs, behavior_gate
from pipelines.model.towers import Towers, carry_rows, read_towers, save_towers
from pipelines.stores.files import replacing_folder
from pipelines.training.catalog import Catalog
from pipelines.training.encoder_tuning import EncoderFit
from pipelines.training.receipt import RECEIPT, Receipt
from pipelines.training.tower_tuning import TuningResult

_ROW_TABLES = {"item.behavior.weight": "items", "item.category.weight": "categories", "item.brand.weight": "brands"}
_ACTIVITY = "user.activity.weight"
_IMAGE, _IMAGE_ENCODER = "item.image.weight", "image_encoder"


@dataclass(frozen=True)
class TrainedFolder:
    """Paths inside the folder of a trained model."""

    folder: Path

    @property
    def encoder(self) -> Path:
        """The encoder in Hugging Face format."""
        return self.folder / "encoder"

    @property
    def towers(self) -> Path:
        """Weights of both towers."""
        return self.folder / "towers.safetensors"

    def preprocessing(self) -> Preprocessing:
        """Read the preprocessing that the towers were trained with."""
        return Preprocessing.model_validate_json((self.folder / "preprocessing.json").read_text(encoding="utf-8"))

    def tables(self) -> dict[str, list[str]]:
        """Read the names behind the rows of the embedding tables."""
        tables: dict[str, list[str]] = json.loads((self.folder / "tables.json").read_text(encoding="utf-8"))
        return tables

    def history(self) -> dict[str, dict[int, float]]:
        """Read curves by step: `encoder_loss`, `encoder_ndcg@10`, `tower_loss` and `validation_recall@10`."""
        values = json.loads((self.folder / "history.json").read_text(encoding="utf-8"))
        return {name: {int(step): float(value) for step, value in curve.items()} for name, curve in values.items()}

    @property
    def receipt(self) -> Path:
        """What was read; models of older versions have none."""
        return self.folder / RECEIPT

    def exists(self) -> bool:
        """Whether the folder was written to its end (it is renamed into place)."""
        return (self.folder / "tables.json").is_file()


def table_names(catalog: Catalog) -> dict[str, list[str]]:
    """Return the names behind the rows of the embedding tables of towers over `catalog`, and of its image encoder."""
    tables = {"items": catalog.item_ids, "categories": catalog.category_names, "brands": catalog.brand_names}
    return {**tables, _IMAGE_ENCODER: [catalog.images.encoder]} if catalog.images else tables


def new_towers(catalog: Catalog, dim: int, config: TrainingConfig, preprocessing: Preprocessing) -> Towers:
    """Build untrained towers for a catalogue; the seed decides the initial weights."""
    torch.manual_seed(config.seed)
    return Towers(
        dim=dim,
        n_items=len(catalog),
        n_categories=len(catalog.category_names),
        n_brands=len(catalog.brand_names),
        behavior_dim=config.behavior_dim,
        n_event_types=len(preprocessing.event_types),
        n_gap_buckets=preprocessing.n_gap_buckets,
        n_activity=len(preprocessing.activity_features),
        image_dim=catalog.images.dim if catalog.images else 0,
    )


def item_inputs(catalog: Catalog, text_vectors: torch.Tensor, gate_half_count: float) -> ItemInputs:
    """Return what the item tower knows of every item, on the CPU.

    Args:
        text_vectors: float32 `(n_items, dim)`, each row L2 norm 1.
    """
    return ItemInputs(
        text=text_vectors,
        category=torch.from_numpy(catalog.categories),
        brand=torch.from_numpy(catalog.brands),
        price=torch.from_numpy(catalog.log_prices),
        gate=behavior_gate(torch.from_numpy(catalog.event_counts), gate_half_count),
        image=torch.from_numpy(catalog.images.vectors) if catalog.images else None,
    )


def load_towers_into(towers: Towers, catalog: Catalog, source: TrainedFolder, activity_features: Sequence[str]) -> int:
    """Copy trained weights into towers over another catalogue: rows by name, everything else as it is.

    Where the source read other activity features, or pictures by another encoder, the towers start without any: that
    layer stays at zero.

    Returns:
        Number of items whose behaviour embedding was known.

    Raises:
        DataError: the shapes differ, so the weights cannot be carried over.
    """
    weights, names, wanted = read_towers(source.towers), source.tables(), table_names(catalog)
    state = towers.state_dict()
    if source.preprocessing().activity_features != tuple(activity_features):
        del state[_ACTIVITY]
    if _IMAGE in state and names.get(_IMAGE_ENCODER) != wanted[_IMAGE_ENCODER]:
        del state[_IMAGE]
    known = 0
    for name, value in state.items():
        found = weights.get(name)
        if found is None or found.shape[1:] != value.shape[1:]:
            shape = None if found is None else tuple(found.shape)
            raise DataError(
                f"`{name}` of the model in {source.folder} has shape {shape}, {tuple(value.shape)} is needed: "
                "settings that shape the model were changed; train from zero with "
                "`headrace loop --from-scratch`."
            )
        if table := _ROW_TABLES.get(name):
            if table != "items":
                value.zero_()  # a new category or brand is like an unknown one until it has learnt something
            copied = carry_rows(value, found, wanted[table], names[table])
            known = copied if table == "items" else known
        elif found.shape != value.shape:
            raise DataError(
                f"`{name}` of the model in {source.folder} has shape {tuple(found.shape)}, {tuple(value.shape)} is "
                "needed: settings that shape the model were changed; train from zero with "
                "`headrace loop --from-scratch`."
            )
        else:
            value.copy_(found)
    return known


def save_trained_model(
    folder: Path,
    *,
    encoder: SentenceEncoder,
    tokenizer: PreTrainedTokenizerBase,
    towers: Towers,
    catalog: Catalog,
    preprocessing: Preprocessing,
    encoder_fit: EncoderFit,
    tuning: TuningResult,
    receipt: Receipt,
) -> None:
    """Write the folder, whole or not at all."""
    with replacing_folder(folder) as temporary:
        encoder.transformer.save_pretrained(temporary / "encoder")
        save_tokenizer(tokenizer, temporary / "encoder", preprocessing.max_tokens)
        save_towers(temporary / "towers.safetensors", towers)
        (temporary / "preprocessing.json").write_text(preprocessing.model_dump_json(indent=2), encoding="utf-8")
        history = {
            "encoder_loss": encoder_fit.losses,
            "encoder_ndcg@10": encoder_fit.quality,
            "tower_loss": tuning.losses,
            "validation_recall@10": tuning.recall,
        }
        (temporary / "history.json").write_text(json.dumps(history), encoding="utf-8")
        (temporary / RECEIPT).write_text(receipt.model_dump_json(indent=2), encoding="utf-8")
        (temporary / "tables.json").write_text(json.dumps(table_names(catalog)), encoding="utf-8")


def load_trained_model(
    source: TrainedFolder, catalog: Catalog, config: TrainingConfig
) -> tuple[SentenceEncoder, PreTrainedTokenizerBase, Towers]:
    """Read a trained model for a catalogue; items that it never saw have an untrained behaviour embedding.

    Raises:
        DataError: it has learnt from pictures by another encoder, or none can be read any more.
    """
    learnt, found = source.tables().get(_IMAGE_ENCODER), table_names(catalog).get(_IMAGE_ENCODER)
    if learnt and learnt != found:
        raise DataError(
            f"The model in {source.folder} has learnt from pictures of the items by {learnt[0]}, and there are "
            f"{f'pictures by {found[0]}' if found else 'none that can be read'} now: set `training.image_encoder` and "
            "`training.image_folder` as they were, or train again."
        )
    encoder, tokenizer = load_encoder(str(source.encoder))
    towers = new_towers(catalog, encoder.dim, config, source.preprocessing())
    load_towers_into(towers, catalog, source, source.preprocessing().activity_features)
    return encoder, tokenizer, towers
