"""Fixtures that several folders of tests share."""

import os
import shutil
from pathlib import Path

import pytest

# Toys are small: more threads only wait for each other, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SERVERS = {
    "tests/bentos",
    "tests/benchmarks/test_chaos.py",
    "tests/benchmarks/test_event_effect.py",
    "tests/benchmarks/test_http_load.py",
    "tests/benchmarks/test_soak.py",
    "tests/benchmarks/test_stress_promotion.py",
    "tests/benchmarks/test_stress_serving.py",
    "tests/test_loop.py",
}
"""Tests that start services: BentoML draws the ports of its workers without holding them, so only one at a time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each process whole files, and one process all that starts services, where tests run side by side."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        together = any(file.startswith(place) for place in SERVERS)
        item.add_marker(pytest.mark.xdist_group("servers" if together else file))


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory) -> Path:
    """A folder with an MLflow database that has its tables and nothing else: creating them takes 5 s."""
    from pipelines.stores.mlflow_client import MlflowBackend

    folder = tmp_path_factory.mktemp("empty_mlflow")
    assert MlflowBackend(folder).client
    return folder


@pytest.fixture
def mlflow_folder(empty_mlflow, tmp_path) -> Path:
    """A real, empty MLflow on SQLite for one test."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    shutil.copy(empty_mlflow / "mlflow.db", folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory) -> Path:
    """A BERT with two layers, 16 wide, with random weights and a vocabulary of single letters, on disk."""
    import string

    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    words += list(string.digits)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny_encoder")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        add_pooling_layer=False,
    ).save_pretrained(folder)
    return folder
