"""Whether a learned ranker is kept, on users of the toy bundle who all had the same item."""

import numpy as np
import pytest

from pipelines.config import RankerConfig
from pipelines.inference.bundle import load_bundle
from pipelines.progress import SilentProgress
from pipelines.training.learned_ranking import LearnedRanking, learn_ranking
from tests.toys.chance_rows import N_ROWS, chance_rows
from tests.toys.toy_bundle import write_toy_bundle

CONFIG = RankerConfig(min_rows=20, epochs=4, min_steps=0, width=8, batch=8, learning_rate=2e-2)
OWN, FUSED = "ranker_holdout_ndcg@10", "fusion_holdout_ndcg@10"
ERROR = "ranker_holdout_gain_standard_error"


@pytest.fixture
def learn(tmp_path):
    write_toy_bundle(tmp_path / "toy")
    bundle = load_bundle(tmp_path / "toy")

    def learned(seed: int, *, users: np.ndarray | None = None) -> LearnedRanking:
        rows = chance_rows(seed, users=users)
        target = tmp_path / "ranker.onnx"
        return learn_ranking(bundle, rows, config=CONFIG, seed=0, target=target, progress=SilentProgress())

    return learned


def test_a_ranker_that_is_better_by_chance_alone_is_not_kept(learn):
    learned = learn(3)
    assert 0 < learned.metrics[OWN] - learned.metrics[FUSED] < learned.metrics[ERROR]
    assert (learned.ranker, learned.file) == (None, None)


def test_a_ranker_that_is_clearly_better_is_kept(learn):
    learned = learn(0)  # nobody takes `a` again, which the fusion puts first
    assert learned.metrics[OWN] - learned.metrics[FUSED] > learned.metrics[ERROR] > 0
    assert learned.ranker is not None
    assert learned.file is not None
    assert learned.file.is_file()


def test_one_user_held_out_says_nothing_of_chance(learn):
    learned = learn(0, users=np.arange(N_ROWS) % 3)
    assert learned.metrics[OWN] > learned.metrics[FUSED]
    assert ERROR not in learned.metrics
    assert learned.ranker is None
