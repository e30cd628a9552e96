"""When a training is stopped, and when a rough patch is none."""

import numpy as np
import pytest
import torch

from pipelines.errors import DivergenceError
from pipelines.training.divergence import DivergenceWatch, refuse_broken_weights, start_batches

NOISE = 0.1 * np.random.default_rng(0).standard_normal(400)
START = (2.0 + NOISE[:8]).tolist()


def watch(losses, start=()) -> None:
    watching = DivergenceWatch("The tuning of the toy", "Lower it.", start)
    for loss in losses:
        watching.observe(float(loss))


@pytest.mark.parametrize(
    ("losses", "start", "reason"),
    [
        pytest.param([1.0, float("nan")], [], "at step 2: the loss is nan", id="not a number"),
        pytest.param([1.0, 1.0, float("inf")], [], "at step 3: the loss is inf", id="infinite"),
        pytest.param([], [1.0, float("nan")], "at step 0: the loss of the weights that it started from", id="before"),
        pytest.param([2.5] * 25, [2.0] * 8, r"at step 25: .*, 2\.500 over the last 25 .* against 2\.000", id="at once"),
        pytest.param([1.0] * 99 + [3.0] * 25, [2.0] * 8, "worse than at the start", id="after some success"),
        pytest.param(2.0 + NOISE + np.linspace(0, 4, 400), START, "worse than at the start", id="ever worse"),
    ],
)
def test_training_that_makes_it_worse_is_stopped(losses, start, reason):
    with pytest.raises(DivergenceError, match=rf"The tuning of the toy diverged .*{reason}.*champion stays\. Lower it"):
        watch(losses, start)


@pytest.mark.parametrize(
    ("losses", "start"),
    [
        pytest.param(np.full(400, 2.0), [2.0] * 8, id="nothing is learned"),
        pytest.param(2.0 + 20 * NOISE, 2.0 + 20 * NOISE[-8:], id="noise"),
        pytest.param([2.0] * 30 + [9.0] + [2.0] * 60, [2.0] * 8, id="a spike"),
        pytest.param(2.0 + NOISE + 0.3 * np.sin(np.linspace(0, np.pi, 400)), START, id="a learning rate that costs"),
        pytest.param([9.0] * 24, [1.0] * 8, id="too short to tell"),
        pytest.param(np.full(99, 0.09), [0.0] * 8, id="next to nothing"),
        pytest.param([9.0] * 99, [], id="nothing to compare with"),
    ],
)
def test_rough_patch_is_no_divergence(losses, start):
    watch(losses, start)


def test_a_short_training_is_not_measured_at_its_start():
    assert list(start_batches(24)) == []
    assert list(start_batches(300)) == list(range(300, 308))


def test_weight_that_is_no_number_is_named():
    layer = torch.nn.Linear(2, 2)
    refuse_broken_weights(layer, "The tuning of the toy")
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(DivergenceError, match=r"1 of 4 numbers of `weight` are not finite\. No model was written"):
        refuse_broken_weights(layer, "The tuning of the toy")
