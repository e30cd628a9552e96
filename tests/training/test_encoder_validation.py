"""The quality by which the encoder's weights are chosen, with vectors that are known."""

import math

import numpy as np
import pytest
import torch

from pipelines.model.encoder import load_encoder
from pipelines.progress import SilentProgress
from pipelines.training.encoder_validation import MIN_QUERIES, encoder_quality
from pipelines.training.judged_queries import JudgedQueries


class Words(torch.nn.Module):
    """An encoder whose vectors are the first word of a text, of `n` known words."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.ids = torch.tensor(ids)
        self.dim = len(ids)

    def forward(self, ids, mask):
        return (ids[:, 1:2] == self.ids).float()


@pytest.fixture
def quality_of(tiny_encoder_folder):
    _, tokenizer = load_encoder(str(tiny_encoder_folder))

    def quality_of(judged, texts):
        return encoder_quality(judged, texts, tokenizer=tokenizer, max_tokens=8, progress=SilentProgress())

    return tokenizer, quality_of


def queries(n, word="apple", items=(0, 1), gains=(2.0, 1.0)):
    return JudgedQueries(
        [f"{word} {place}" for place in range(n)], [np.array(items)] * n, [np.array(gains, np.float64)] * n
    )


def test_the_value_is_the_mean_ndcg_by_hand(quality_of):
    """The item of gain 1 reads like the query and is first; that of gain 2 ties with the other one behind it."""
    tokenizer, quality_of = quality_of
    texts = ["pear red", "apple red", "cherry red"]
    encoder = Words([tokenizer(word)["input_ids"][1] for word in ("apple", "pear", "cherry")])
    found = quality_of(queries(MIN_QUERIES), texts)(encoder)
    best = 3 / math.log2(2) + 1 / math.log2(3)
    assert found == pytest.approx((1 / math.log2(2) + 3 / math.log2(3)) / best)
    assert encoder.training


def test_equal_texts_are_one_item(quality_of):
    _, quality_of = quality_of
    quality = quality_of(queries(MIN_QUERIES, items=(3, 1)), ["apple", "pear", "cherry", "apple"])
    assert quality.pool == ["apple", "pear", "cherry"]
    assert quality.items[0].tolist() == [0, 1]


def test_few_queries_choose_nothing(quality_of):
    _, quality_of = quality_of
    assert quality_of(queries(MIN_QUERIES - 1), ["apple", "pear"]) is None
    assert quality_of(queries(50, gains=(0.0, 0.0)), ["apple", "pear"]) is None


def test_of_a_large_corpus_a_pool_is_ranked_that_holds_the_answers_and_what_shares_words(quality_of):
    _, quality_of = quality_of
    texts = [f"pear number{place}" for place in range(20_000)]
    texts[17_000], texts[17_001] = "apple tree", "apple pie"
    quality = quality_of(queries(30, items=(19_998, 19_999)), texts)
    assert len(quality.queries) == 30
    assert len(quality.pool) <= 1_000 + 30 * 16
    assert {"apple tree", "apple pie", "pear number19998", "pear number19999"} <= set(quality.pool)
    assert [quality.pool[place] for place in quality.items[0]] == ["pear number19998", "pear number19999"]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_vectors_that_are_no_numbers_find_nothing(quality_of, broken):
    tokenizer, quality_of = quality_of

    class Broken(Words):
        def forward(self, ids, mask):
            return super().forward(ids, mask) + broken

    encoder = Broken([tokenizer(word)["input_ids"][1] for word in ("apple", "pear", "cherry")])
    assert quality_of(queries(MIN_QUERIES), ["pear red", "apple red", "cherry red"])(encoder) == 0


def test_one_broken_item_is_behind_all_others(quality_of):
    tokenizer, quality_of = quality_of

    class Broken(Words):
        def forward(self, ids, mask):
            found = super().forward(ids, mask)
            return torch.where(ids[:, 1:2] == self.ids[1], torch.nan, found)

    encoder = Broken([tokenizer(word)["input_ids"][1] for word in ("apple", "pear", "cherry")])
    found = quality_of(queries(MIN_QUERIES), ["pear red", "apple red", "cherry red"])(encoder)
    assert found == pytest.approx(1 / (3 + 1 / math.log2(3)))  # gain 2 is lost with the pear, the apple comes first
