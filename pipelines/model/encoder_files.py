"""Reads an encoder in Hugging Face format, and refuses with a sentence what does not fit together.

transformers would go on: layers without weights become random, a folder without a tokenizer gets an empty one, and
a vocabulary from another model gives each word the vector of some other word.
"""

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from pipelines.errors import ConfigError

_KINDS = "Give the name of a packaged encoder, a folder in Hugging Face format or a hub name."


def read_transformer(name: str, source: str) -> nn.Module:
    """Read the network, without a pooler: mean pooling needs none, and where the file has none it would be random.

    Eager attention, because only that exports to a plain graph.

    Args:
        name: What the user called it.
        source: Folder or hub name.

    Raises:
        ConfigError: there is none, or its weights are not those that its config.json describes.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of missing weights is read below
    try:
        transformer, report = AutoModel.from_pretrained(
            source, attn_implementation="eager", use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"The encoder {name} cannot be loaded: {str(error).splitlines()[0]} {_KINDS}") from None
    except RuntimeError:
        raise ConfigError(
            f"The weights of the encoder {name} have other shapes than its config.json describes: they are from "
            "different models. Take both from the same one."
        ) from None
    finally:
        logging.set_verbosity(level)
    if hasattr(transformer, "pooler"):
        transformer.pooler = None
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"The encoder {name} lacks {len(missing)} of the weights that its config.json describes, first "
            f"`{missing[0]}`: the two are from different architectures. Take both from the same model."
        )
    _refuse_other_kinds(name, transformer)
    return transformer


def _refuse_other_kinds(name: str, transformer: nn.Module) -> None:
    settings = transformer.config
    if settings.is_encoder_decoder or not hasattr(settings, "hidden_size"):
        raise ConfigError(
            f"The encoder {name} is a {type(transformer).__name__}, but a BERT-like encoder is needed, which gives "
            "every token one vector: choose another one."
        )
    broken = [key for key, value in transformer.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ConfigError(
            f"{len(broken)} weights of the encoder {name} hold numbers that are not finite, first `{broken[0]}`: "
            "use another copy of it."
        )


def read_tokenizer(name: str, source: str, transformer: nn.Module) -> PreTrainedTokenizerBase:
    """Read the tokenizer that belongs to the network.

    Raises:
        ConfigError: there is none, or its vocabulary is not that of the embedding table.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(name, str(error).splitlines()[0]) from None
    words = tokenizer.get_vocab()
    if not set(words) - set(tokenizer.all_special_tokens):
        raise _no_tokenizer(name, "its vocabulary holds no word.")
    rows, needed = transformer.get_input_embeddings().num_embeddings, max(words.values()) + 1
    if not rows / 2 < needed <= rows:
        raise ConfigError(
            f"The tokenizer of the encoder {name} has {needed} tokens, but the embedding table has {rows} rows: they "
            "are from different models, and words would get the vectors of others. Take both from the same one."
        )
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"The tokenizer of the encoder {name} has no padding token, so texts of different lengths cannot share a "
            "batch: set `pad_token` in its tokenizer_config.json."
        )
    return tokenizer


def _no_tokenizer(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"The encoder {name} has no tokenizer ({reason.rstrip('.')}): put tokenizer.json and tokenizer_config.json of "
        "the model that it was made from beside its config.json."
    )


def refuse_long_texts(transformer: nn.Module, max_tokens: int) -> None:
    """Stop where `max_tokens` is more than the network has positions.

    Raises:
        ConfigError: names both numbers.
    """
    positions = getattr(transformer.config, "max_position_embeddings", max_tokens)
    if max_tokens > positions:
        raise ConfigError(
            f"`training.max_tokens` is {max_tokens}, but the encoder reads {positions} tokens at most: set it to that "
            "or less."
        )
