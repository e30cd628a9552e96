"""One update from many micro-batches: the same as from one batch where the negatives are shared."""

from pathlib import Path

import pytest
import torch

from pipelines.errors import DataError
from pipelines.model.losses import sampled_softmax_loss
from pipelines.training.precision import MixedPrecision
from pipelines.training.updates import Updater, micro_batches


def updater(weight: torch.nn.Parameter, peak: float = 0.25) -> Updater:
    optimizer = torch.optim.SGD([{"params": [weight], "peak": peak}], lr=1.0)
    return Updater(optimizer, MixedPrecision("float32", torch.device("cpu")))


@pytest.mark.parametrize(
    ("n", "count", "sizes"),
    [pytest.param(6, 3, [2, 2, 2], id="even"), pytest.param(7, 3, [2, 2, 3], id="uneven"), (2, 3, [1, 1])],
)
def test_micro_batches_cover_every_row_once(n, count, sizes):
    parts = micro_batches(n, count)
    assert [row for part in parts for row in range(n)[part]] == list(range(n))
    assert [part.stop - part.start for part in parts] == sizes


def test_two_halves_move_the_weights_like_the_whole():
    """Numbers that binary fractions hold exactly, so that equal means equal."""
    rows, targets = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([1.0, 0.0, -2.0, 0.5])
    whole, halves = (torch.nn.Parameter(torch.tensor([[0.5]])) for _ in range(2))

    def loss(weight, part):
        return ((rows[part] @ weight).squeeze(-1) - targets[part]).square().sum() / len(rows)

    assert updater(whole).update([loss(whole, slice(0, 4))]) == updater(halves).update(
        loss(halves, part) for part in micro_batches(4, 2)
    )
    assert whole.tolist() == halves.tolist()


def test_shared_negatives_give_the_same_update_from_any_number_of_micro_batches():
    generator = torch.Generator().manual_seed(0)
    users, positives, negatives = (torch.randn(n, 4, generator=generator) for n in (8, 8, 5))

    def updated(count: int) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.eye(4))

        def losses():
            for part in micro_batches(8, count):
                mean = sampled_softmax_loss(users[part] @ weight, positives[part], negatives, temperature=1.0)
                yield mean * (part.stop - part.start) / 8

        updater(weight).update(losses())
        return weight.detach()

    for count in (2, 3, 8):
        torch.testing.assert_close(updated(count), updated(1), atol=1e-6, rtol=0)


def test_measuring_changes_nothing():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    assert updater(weight).measure(2 * weight.sum() for _ in range(3)) == 6.0
    assert weight.grad is None


def test_learning_rate_is_the_peak_times_the_rate():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    updater(weight, peak=0.5).update([weight.sum()], rate=0.25)
    assert weight.tolist() == pytest.approx([1.0 - 0.5 * 0.25], abs=1e-5)


def test_optimizer_of_another_model_is_refused():
    one, two = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    state = Updater(
        torch.optim.SGD([{"params": [one, two], "peak": 1.0}]), MixedPrecision("float32", torch.device("cpu"))
    ).state()
    with pytest.raises(DataError, match=r"checkpoint encoder\.pt is that of another model .* delete the file"):
        updater(one).load(state, Path("encoder.pt"))
