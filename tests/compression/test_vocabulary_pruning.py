"""A smaller vocabulary reads its domain as before, and everything else in pieces."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipelines.compression.text_towers import token_batches
from pipelines.compression.vocabulary_pruning import (
    domain_tokens,
    is_prunable,
    prune_vocabulary,
    write_pruned_tokenizer,
)
from pipelines.errors import ConfigError
from pipelines.model.encoder import encode_texts, load_encoder
from pipelines.progress import SilentProgress

WORDS = ["apple", "pear", "tea", "##pot", "milk", "quick", "##silver"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def full(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(tmp_path / "full.json"))
    return tmp_path / "full.json"


@pytest.fixture
def pruned(full, tmp_path):
    kept = domain_tokens(full, ["Teapot", "milk tea"])
    write_pruned_tokenizer(full, kept, tmp_path / "pruned.json")
    return Tokenizer.from_file(str(tmp_path / "pruned.json"))


def test_texts_of_the_domain_fall_into_the_same_tokens(full, pruned):
    for text in ("teapot", "MILK tea", "tea teapot milk"):
        assert pruned.encode(text).tokens == Tokenizer.from_file(str(full)).encode(text).tokens


def test_words_whose_pieces_are_gone_fall_apart_and_are_not_unknown(pruned):
    assert pruned.encode("pear").tokens == ["[CLS]", "p", "##e", "##a", "##r", "[SEP]"]
    assert "[UNK]" not in pruned.encode("quicksilver apple pears").tokens


def test_characters_that_the_full_tokenizer_does_not_know_stay_unknown(pruned):
    assert pruned.encode("梨").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_numbers_are_consecutive_and_padding_keeps_its_own(pruned):
    vocabulary = pruned.get_vocab()
    assert sorted(vocabulary.values()) == list(range(4 + 3 + 2 * 26))  # special, "tea", "##pot" and "milk", letters
    short = pruned.encode_batch(["tea", "tea tea tea"])[0]
    assert [pruned.id_to_token(number) for number in short.ids] == ["[CLS]", "tea", "[SEP]", "[PAD]", "[PAD]"]


def test_rare_tokens_go_too(full):
    kept = domain_tokens(full, ["tea", "tea", "milk"], min_count=2)
    tokens = {Tokenizer.from_file(str(full)).id_to_token(number) for number in kept}
    assert "tea" in tokens
    assert "milk" not in tokens


def test_the_encoder_gives_the_same_vectors_with_fewer_tokens(tiny_encoder_folder, tmp_path):
    encoder, tokenizer = load_encoder(str(tiny_encoder_folder))
    texts = ["red tea", "cup"]
    source = tiny_encoder_folder / "tokenizer.json"
    kept = domain_tokens(source, texts)
    write_pruned_tokenizer(source, kept, tmp_path / "pruned.json")
    pruned = prune_vocabulary(encoder, kept).eval()
    expected = encode_texts(encoder, tokenizer, texts, max_tokens=16, progress=SilentProgress())
    found = pruned(*token_batches(tmp_path / "pruned.json", 16)(texts)).detach().numpy()
    assert found == pytest.approx(expected, abs=1e-6)


def test_another_kind_of_tokenizer_is_refused(tmp_path, tiny_encoder_folder):
    Tokenizer(models.BPE()).save(str(tmp_path / "bpe.json"))
    assert is_prunable(tiny_encoder_folder / "tokenizer.json")
    assert not is_prunable(tmp_path / "bpe.json")
    with pytest.raises(ConfigError, match="The vocabulary of a BPE tokenizer"):
        domain_tokens(tmp_path / "bpe.json", ["tea"])
