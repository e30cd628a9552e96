"""Formats of forward passes, and the scaling that float16 needs, on the CPU."""

import pytest
import torch

from pipelines.training.precision import MixedPrecision, forward_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_format_on_a_cpu(wanted, dtype):
    assert forward_dtype(wanted, CPU) is dtype
    with MixedPrecision(wanted, CPU).forward_pass():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_one_step_is_that_of_the_formula_in_every_format(wanted):
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    precision = MixedPrecision(wanted, CPU)
    precision.backward((2.0 * weight).sum())  # gradient 2, clipped to norm 1
    precision.step(optimizer, [weight], max_norm=1.0)
    assert weight.tolist() == pytest.approx([2.5])


def test_gradient_that_overflows_is_left_out_and_the_scale_halved():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    precision = MixedPrecision("float16", CPU)
    before = precision.state()["scale"]
    precision.backward((1e38 * weight).sum())  # times the scale of 65,536 it is infinite
    precision.step(optimizer, [weight], max_norm=1.0)
    assert weight.tolist() == [3.0]
    assert precision.state()["scale"] == before / 2

    resumed = MixedPrecision("float16", CPU)
    resumed.load(precision.state())
    assert resumed.state() == precision.state()


def test_only_float16_scales():
    assert MixedPrecision("bfloat16", CPU).state() == {}
    scaled = MixedPrecision("float16", CPU)
    scaled.load({})
    assert scaled.state()["scale"] == 65_536.0
