"""The static query tower: a vector a token, added up. No transformer.

Everything is one small ONNX graph with the inputs and the output of an encoder, so that whoever opens an encoder opens
this.

Source: weights of tokens by rarity as in Arora et al., A simple but tough-to-beat baseline for sentence embeddings
(2017).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

_SMOOTHING = 1e-3
"""Frequency at which a token counts half."""


class StaticTower(nn.Module):
    """Token ids in, sentence embeddings out: norm( Σ token[i_t] )."""

    def __init__(self, tokens: Tensor) -> None:
        """Start from vectors of tokens, float32 `(n_tokens, dim)`."""
        super().__init__()
        self.tokens = nn.Parameter(tokens.clone())

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.tokens.shape[1])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed a padded batch: int64 `(n, t)` each to float32 `(n, dim)`, each row L2 norm 1."""
        mask = attention_mask.unsqueeze(-1).to(self.tokens.dtype)
        total = (nn.functional.embedding(input_ids, self.tokens) * mask).sum(1)
        return nn.functional.normalize(total, dim=-1)


def rarity_weights(token_lists: Sequence[np.ndarray], n_tokens: int) -> np.ndarray:
    """Return a / (a + frequency) of each token, float32 `(n_tokens,)` in (0, 1]; 1 for a token that never occurs."""
    counts = np.bincount(np.concatenate(token_lists), minlength=n_tokens)
    frequency = counts / max(counts.sum(), 1)
    return (_SMOOTHING / (_SMOOTHING + frequency)).astype(np.float32)


def starting_vectors(token_lists: Sequence[np.ndarray], vectors: np.ndarray, n_tokens: int) -> np.ndarray:
    """Return vectors of tokens to start from, float32 `(n_tokens, dim)`; 0 for a token that no text has.

    A token starts as the mean of the teacher's vectors of the texts that have it, less the mean of all, times its
    rarity.

    Args:
        token_lists: int64 token ids of each text.
        vectors: float32 `(n, dim)`, the teacher's vectors of the texts.
    """
    from scipy.sparse import csr_matrix

    lengths = [len(ids) for ids in token_lists]
    places = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate(token_lists)
    occurs = csr_matrix((np.ones(len(ids), np.float32), ids, places), shape=(len(token_lists), n_tokens))
    counts = np.asarray(occurs.sum(axis=0)).ravel()
    sums = np.asarray(occurs.T @ vectors)
    means = sums / np.maximum(counts, 1)[:, None] - vectors.mean(axis=0) * (counts > 0)[:, None]
    return (means * rarity_weights(token_lists, n_tokens)[:, None]).astype(np.float32)


def static_tower_model(tower: StaticTower, pad_id: int) -> bytes:
    """Return the tower as an ONNX model: int64 `input_ids` and `attention_mask` `(n, t)` to `sentence_embedding`.

    Four operations, for each costs more than the arithmetic: padding has the vector 0, so nothing needs the mask, and
    one scale for the whole table disappears when the sum is brought to length 1.
    """
    from onnx import TensorProto, helper, numpy_helper

    table = tower.tokens.detach().numpy().copy()
    table[pad_id] = 0
    codes = np.rint(table * (127 / max(float(np.abs(table).max()), 1e-12))).astype(np.int8)
    nodes = [
        helper.make_node("Gather", ["codes", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "time"], ["total"], keepdims=0),
        helper.make_node("LpNormalization", ["total"], ["sentence_embedding"], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "static_tower",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", tower.dim])],
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(np.array([1]), "time")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized
