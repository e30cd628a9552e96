"""The contrastive loss against numbers worked out by hand."""

import math

import pytest
import torch

from pipelines.model.losses import sampled_softmax_loss

EAST, NORTH = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


def test_loss_of_one_right_and_one_orthogonal_item():
    loss = sampled_softmax_loss(EAST, EAST, NORTH, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 1)), abs=1e-6)


def test_temperature_divides_similarities():
    loss = sampled_softmax_loss(EAST, EAST, NORTH, temperature=0.5)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)), abs=1e-6)


def test_a_negative_that_is_a_positive_does_not_count():
    loss = sampled_softmax_loss(EAST, EAST, EAST, temperature=1.0, accidental=torch.tensor([[True]]))
    assert loss.item() == pytest.approx(0.0)


def test_an_item_that_is_drawn_twice_as_often_counts_half():
    log_q = torch.log(torch.tensor([0.5]))
    loss = sampled_softmax_loss(EAST, EAST, NORTH, temperature=1.0, positive_log_q=torch.zeros(1), negative_log_q=log_q)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)), abs=1e-6)


def test_equal_sampling_chances_change_nothing():
    log_q = torch.log(torch.tensor([0.25]))
    corrected = sampled_softmax_loss(EAST, EAST, NORTH, temperature=1.0, positive_log_q=log_q, negative_log_q=log_q)
    assert corrected.item() == pytest.approx(sampled_softmax_loss(EAST, EAST, NORTH, temperature=1.0).item())
