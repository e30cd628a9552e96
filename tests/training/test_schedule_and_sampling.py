"""Learning rate, early stopping and negative sampling against hand-computed values."""

import numpy as np
import pytest

from pipelines.training.early_stopping import EarlyStopping
from pipelines.training.negatives import NegativeSampler
from pipelines.training.schedule import warmup_then_linear


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        pytest.param(0, 0.5, id="first step of two warm-up steps"),
        pytest.param(1, 1.0, id="end of the warm-up"),
        pytest.param(2, 1.0, id="peak"),
        pytest.param(6, 0.5, id="half way down"),
        pytest.param(9, 0.125, id="last step"),
    ],
)
def test_learning_rate_rises_then_falls_in_a_line(step, factor):
    assert warmup_then_linear(step, steps=10, warmup_share=0.2) == pytest.approx(factor)


def test_stopping_after_two_validations_without_gain():
    stopping = EarlyStopping(patience=2)
    assert [stopping.observe(value) for value in (0.1, 0.3, 0.2)] == [True, True, False]
    assert not stopping.exhausted
    stopping.observe(0.3)
    assert stopping.exhausted
    assert EarlyStopping.replayed(2, [0.1, 0.3, 0.2, 0.3]).exhausted


def test_chance_of_being_drawn_at_least_once():
    sampler = NegativeSampler(np.array([0.9, 2.9]), n=2, exponent=1.0)  # chances 1/4 and 3/4
    assert np.exp(sampler.log_chances) == pytest.approx([1 - 0.75**2, 1 - 0.25**2], rel=1e-5)


def test_draws_are_distinct_and_follow_the_chances():
    sampler = NegativeSampler(np.array([0.0, 1.0, 100.0]), n=1, exponent=1.0)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([sampler.draw(rng) for _ in range(2_000)])
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    assert shares == pytest.approx(np.exp(sampler.log_chances), abs=0.01)
    many = NegativeSampler(np.ones(5), n=50).draw(rng)
    assert many.tolist() == [0, 1, 2, 3, 4]
