"""The epochs of a ranker: which one stays, and what a step sees."""

import numpy as np
import pytest
import torch

from pipelines.config import SearchRankerConfig
from pipelines.model.ranker import Ranker
from pipelines.progress import SilentProgress
from pipelines.training.ranker_epochs import RankerEpochs, run_epochs

CONFIG = SearchRankerConfig(epochs=4, batch=4, learning_rate=1e-2)
FEATURES = torch.linspace(-1, 1, 20).reshape(10, 2)


class Watched:
    """A ranker with a loss that always pulls, measured after each epoch."""

    def __init__(self, qualities: list[float]) -> None:
        torch.manual_seed(0)
        self.ranker = Ranker(2, 4)
        self.first = self.ranker.heads.bias.detach().clone()
        self.batches: list[list[int]] = []
        self.after: list[torch.Tensor] = []
        self._qualities = iter(qualities)

    def loss_of(self, lists: np.ndarray) -> torch.Tensor:
        self.batches.append(lists.tolist())
        return self.ranker(FEATURES[lists]).square().mean()

    def quality(self) -> float:
        self.after.append(self.ranker.heads.bias.detach().clone())
        return next(self._qualities)

    def run(self, lists: np.ndarray) -> RankerEpochs:
        return run_epochs(
            self.ranker,
            lists,
            loss_of=self.loss_of,
            quality=self.quality,
            config=CONFIG,
            weight_decay=0.0,
            rng=np.random.default_rng(0),
            stage="toy steps",
            progress=SilentProgress(),
        )


def test_the_last_of_the_best_epochs_stays():
    watched = Watched([0.1, 0.5, 0.5, 0.2])
    went = watched.run(np.arange(10))
    assert went.best_epoch == 3
    assert went.quality == {1: 0.1, 2: 0.5, 3: 0.5, 4: 0.2}
    assert torch.equal(watched.ranker.heads.bias, watched.after[2])
    assert not torch.equal(watched.ranker.heads.bias, watched.after[3])
    assert not watched.ranker.training


def test_every_list_is_seen_once_an_epoch_in_another_order():
    watched = Watched([0.0] * 4)
    went = watched.run(np.arange(10))
    assert [len(batch) for batch in watched.batches] == [4, 4, 2] * 4
    epochs = np.concatenate(watched.batches).reshape(4, 10)
    assert np.sort(epochs, axis=1).tolist() == [list(range(10))] * 4
    assert len(np.unique(epochs, axis=0)) == 4
    assert went.losses[4] < went.losses[1]


def test_without_lists_the_weights_stay():
    watched = Watched([0.0] * 4)
    went = watched.run(np.empty(0, np.int64))
    assert torch.equal(watched.ranker.heads.bias, watched.first)
    assert all(np.isnan(loss) for loss in went.losses.values())


def test_a_steep_loss_is_clipped():
    watched = Watched([0.0] * 4)
    norms = []

    def steep(lists: np.ndarray) -> torch.Tensor:
        found = [value.grad for value in watched.ranker.parameters() if value.grad is not None]  # of the step before
        norms.extend([float(torch.nn.utils.get_total_norm(found))] if found else [])
        return 1e6 * Watched.loss_of(watched, lists)

    watched.loss_of = steep
    watched.run(np.arange(10))
    assert norms == pytest.approx([1.0] * 11, rel=1e-3)
