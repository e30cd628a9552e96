"""When a training is stopped, and when a rough patch is none."""

import numpy as np
import pytest
import torch

from pipelines.errors import DivergenceError
from pipelines.training.divergence import DivergenceWatch, refuse_broken_weights

NOISE = 0.1 * np.random.default_rng(0).standard_normal(400)


def watch(losses) -> None:
    watching = DivergenceWatch("The tuning of the toy", "Lower it.")
    for loss in losses:
        watching.observe(float(loss))


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        pytest.param([1.0, float("nan")], "at step 2: the loss is nan", id="not a number"),
        pytest.param([1.0, 1.0, float("inf")], "at step 3: the loss is inf", id="infinite"),
        pytest.param([2.0] * 25 + [3.0] * 25, r"3\.000 over the last 25 steps against 2\.000", id="worse"),
        pytest.param(2.0 + NOISE + np.linspace(0, 4, 400), "worse than at the start", id="ever worse"),
    ],
)
def test_training_that_makes_it_worse_is_stopped(losses, reason):
    with pytest.raises(DivergenceError, match=rf"The tuning of the toy diverged .*{reason}.*champion stays\. Lower it"):
        watch(losses)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(np.full(400, 3.0), id="nothing is learned"),
        pytest.param(2.0 + 20 * NOISE, id="noise"),
        pytest.param([2.0] * 30 + [9.0] * 2 + [2.0] * 60, id="a spike"),
        pytest.param(2.0 + NOISE + 0.3 * np.sin(np.linspace(0, np.pi, 400)), id="a rising learning rate costs some"),
        pytest.param([1.0] * 25 + [9.0] * 20, id="too short to tell"),
        pytest.param(np.zeros(100), id="nothing left to learn"),
    ],
)
def test_rough_patch_is_no_divergence(losses):
    watch(losses)


def test_weight_that_is_no_number_is_named():
    layer = torch.nn.Linear(2, 2)
    refuse_broken_weights(layer, "The tuning of the toy")
    with torch.no_grad():
        layer.weight[0, 0] = torch.nan
    with pytest.raises(DivergenceError, match=r"1 of 4 numbers of `weight` are not finite\. No model was written"):
        refuse_broken_weights(layer, "The tuning of the toy")
