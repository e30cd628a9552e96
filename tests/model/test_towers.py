"""Item tower and user tower: what an untrained one returns, and what must not change an answer."""

import pytest
import torch

from pipelines.model.item_tower import ItemInputs, ItemTower, behavior_gate
from pipelines.model.towers import Towers, carry_rows, read_towers, save_towers
from pipelines.model.user_tower import UserTower

DIM = 8


def unit_rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def inputs(n: int, gate: float) -> ItemInputs:
    zeros = torch.zeros(n, dtype=torch.int64)
    return ItemInputs(unit_rows(n), zeros, zeros, torch.zeros(n), torch.full((n,), gate))


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def test_gate_is_zero_for_an_untouched_item_and_a_half_at_the_half_count():
    assert behavior_gate(torch.tensor([0.0, 10.0, 30.0]), 10.0).tolist() == [0.0, 0.5, 0.75]


def test_untouched_item_of_an_untrained_tower_is_its_text():
    tower = ItemTower(DIM, n_items=3, n_categories=1, n_brands=1, behavior_dim=4)
    torch.testing.assert_close(tower(torch.arange(3), inputs(3, gate=0.0)), unit_rows(3))


def test_untouched_item_does_not_depend_on_the_behavior_table():
    tower = randomized(ItemTower(DIM, n_items=3, n_categories=1, n_brands=1, behavior_dim=4))
    before = tower(torch.arange(3), inputs(3, gate=0.0))
    with torch.no_grad():
        tower.behavior.weight.add_(1.0)
    torch.testing.assert_close(tower(torch.arange(3), inputs(3, gate=0.0)), before)
    assert not torch.allclose(tower(torch.arange(3), inputs(3, gate=0.5)), before)


def test_untrained_user_is_the_mean_of_the_history():
    tower = UserTower(DIM, n_event_types=3, n_gap_buckets=4, n_activity=2).eval()
    items = unit_rows(4).unsqueeze(0)
    numbers = torch.zeros(1, 4, dtype=torch.int64)
    user, attention = tower(items, numbers, numbers, torch.ones(1, 4), torch.zeros(1, 2))
    torch.testing.assert_close(user[0], torch.nn.functional.normalize(items[0].mean(0), dim=0))
    assert attention[0].tolist() == pytest.approx([0.25] * 4)


def test_a_user_is_what_the_words_of_the_tower_say():
    tower = randomized(UserTower(DIM, n_event_types=3, n_gap_buckets=4, n_activity=2))
    items, types, gaps = unit_rows(5).unsqueeze(0), torch.tensor([[1, 2, 1, 0, 2]]), torch.tensor([[3, 2, 2, 1, 0]])
    mask, activity = torch.ones(1, 5), torch.tensor([[0.5, 2.0]])
    user, attention = tower(items, types, gaps, mask, activity)
    events = items + tower.event_type(types) + tower.gap(gaps)
    states = events + tower.up(tower.block(tower.down(events), mask))
    expected = (tower.pool(states) + tower.gap_bias(gaps)).squeeze(-1).softmax(-1)
    torch.testing.assert_close(attention, expected)
    pooled = (expected.unsqueeze(-1) * states).sum(1) + tower.activity(activity)
    torch.testing.assert_close(user, torch.nn.functional.normalize(pooled, dim=-1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    tower = randomized(UserTower(DIM, n_event_types=3, n_gap_buckets=4, n_activity=2))
    items, numbers, activity = unit_rows(3).unsqueeze(0), torch.tensor([[1, 2, 1]]), torch.ones(1, 2)
    alone, _ = tower(items, numbers, numbers, torch.ones(1, 3), activity)
    pad = (2, 0) if side == "left" else (0, 2)
    wide = torch.nn.functional.pad
    padded, attention = tower(
        wide(items, (0, 0, *pad)), wide(numbers, pad), wide(numbers, pad), wide(torch.ones(1, 3), pad), activity
    )
    torch.testing.assert_close(padded, alone)
    assert attention.sum().item() == pytest.approx(1.0)
    assert attention[0, :2].sum().item() == pytest.approx(0.0) if side == "left" else True


def test_an_older_event_does_not_see_a_newer_one():
    tower = randomized(UserTower(DIM, n_event_types=3, n_gap_buckets=4, n_activity=2))
    states, mask = torch.randn(1, 3, 128, generator=torch.Generator().manual_seed(2)), torch.ones(1, 3)
    changed = states.clone()
    changed[0, 2] += 1.0
    before, after = tower.block(states, mask), tower.block(changed, mask)
    torch.testing.assert_close(before[0, :2], after[0, :2])
    assert not torch.allclose(before[0, 2], after[0, 2])


def test_embedding_rows_are_carried_over_by_name():
    target, source = torch.zeros(3, 2), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert carry_rows(target, source, ["new", "b", "a"], ["a", "b"]) == 2
    assert target.tolist() == [[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]]


def test_saved_towers_read_back_the_same(tmp_path):
    towers = Towers(
        dim=DIM, n_items=3, n_categories=2, n_brands=2, behavior_dim=4, n_event_types=3, n_gap_buckets=4, n_activity=2
    )
    save_towers(tmp_path / "towers.safetensors", towers)
    for name, value in read_towers(tmp_path / "towers.safetensors").items():
        torch.testing.assert_close(value, towers.state_dict()[name])
