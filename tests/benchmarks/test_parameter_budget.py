"""Parameters of one item tower and of two, worked out by hand for a small catalogue."""

import numpy as np
import pytest
from torch import nn

from pipelines.benchmarks.parameter_budget import LEAST_WIDTH, equal_widths, item_parameters, learning_parameters
from pipelines.training.catalog import Catalog

N_ITEMS, DIM = 10, 4
# text 4 · 4, categories 3 · 32, brands 2 · 32, structured (2 · 32 + 1) · 4
FIXED = 16 + 96 + 64 + 260
# a row of the table for each item, and a row of the projection for each number of the vector
OF_WIDTH = N_ITEMS + DIM


@pytest.fixture
def catalog():
    nothing = np.zeros(N_ITEMS, np.int64)
    names = [str(number) for number in range(N_ITEMS)]
    zeros = np.zeros(N_ITEMS, np.float32)
    return Catalog(
        item_ids=names, texts=names, titles=names, category_names=["", "x", "y"], categories=nothing,
        brand_names=["", "z"], brands=nothing, log_prices=zeros, event_counts=zeros, popularity=zeros,
    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 8, 64])
def test_an_item_tower_has_its_layers_and_a_width_for_behavior(catalog, width):
    assert item_parameters(catalog, DIM, width) == FIXED + width * OF_WIDTH


def test_two_towers_share_the_behavior_of_one_less_what_the_second_needs_besides(catalog):
    widths = equal_widths(65, catalog, DIM)
    # 436 + 65 · 14 = 1,346; twice 436 leaves 474 of it, which is 33 widths and 12 parameters
    assert (widths.joint, widths.apart) == (65, 33)
    assert widths.halves == (17, 16)
    assert widths.uneven == (33 - LEAST_WIDTH, LEAST_WIDTH)
    both = item_parameters(catalog, DIM, 17) + item_parameters(catalog, DIM, 16)
    assert item_parameters(catalog, DIM, 65) - both == 12


def test_in_a_small_catalogue_the_one_tower_grows_until_two_are_worth_having(catalog):
    # 8 · 14 would not pay for the other 436; 16 widths and 436 / 14 = 31.1 more do
    widths = equal_widths(8, catalog, DIM)
    assert (widths.joint, widths.halves) == (48, (LEAST_WIDTH, LEAST_WIDTH))


@pytest.mark.parametrize(("objective", "count"), [("joint", 21), ("alternating", 21), ("recommend", 21), ("search", 6)])
def test_search_alone_leaves_the_user_tower_as_it_is(objective, count):
    item, user = nn.Linear(2, 3, bias=False), nn.Linear(4, 3)
    assert learning_parameters(item, user, objective) == count
