"""What a search loses when new items are read by something smaller, on vectors that can be looked through."""

import numpy as np
import pytest

from pipelines.benchmarks.compress_items import ALL, ARRIVED, ASKED_FOR, kept_by_kind
from pipelines.compression.measurement import HeldOutQueries
from pipelines.compression.study import Study
from pipelines.config import CompressionConfig
from pipelines.progress import SilentProgress

DIM = 20


class KnownVectors(Study):
    """A study whose queries have the vectors of the first items."""

    def vectors_of(self, texts, stage):
        return np.eye(DIM, dtype=np.float32)[: len(texts)]


def test_only_queries_for_new_items_lose_where_the_others_keep_their_vectors():
    """Item n answers query n. The small tower gives every item the vector of its neighbor, so that it is not found."""
    items = np.eye(DIM, dtype=np.float32)
    study = KnownVectors(
        full=None,
        tokenizer=None,
        item_vectors=items,
        served_vectors=items,
        queries=HeldOutQueries(
            ["a", "b", "c"], [np.array([n, 19]) for n in range(3)], [np.array([1.0, 0.0]) for _ in range(3)]
        ),
        lesson_texts=list,
        item_texts=[str(n) for n in range(DIM)],
        text_vectors=items,
        config=CompressionConfig(),
        seed=0,
        progress=SilentProgress(),
    )
    other = -items  # the last of all for its own query
    found = kept_by_kind(study, other, np.array([1, 19]))
    assert found[ALL][0].tolist() == [0, 0, 0]
    assert found[ARRIVED][0].tolist() == pytest.approx([1, 0, 1])
    assert found[ASKED_FOR][0].tolist() == [0]  # item 19 has no gain, so that nobody asks for it
    assert found[ARRIVED][1].tolist() == [1, 1, 1]
