"""The int8 index against the exact product."""

import numpy as np
import onnxruntime

from pipelines.retrieval.dense import DenseIndex, build_dense_index, dense_scores


def test_the_index_is_within_a_hundredth_and_keeps_the_best(tmp_path):
    generator = np.random.default_rng(0)
    items = generator.normal(size=(2_000, 64)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    items[7] = -items[3]
    index = DenseIndex(onnxruntime.InferenceSession(build_dense_index(items)))
    assert index.n_items == 2_000
    exact = dense_scores(items[3:4], items)[0]
    fast = index.scores(items[3])
    assert np.abs(fast - exact).max() < 0.01
    assert fast.argmax() == 3
    assert fast.argmin() == 7
    assert set(np.argsort(-exact)[:10]) <= set(np.argsort(-fast)[:30])
