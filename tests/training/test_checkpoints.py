"""What is said of a checkpoint that is none, or that of another network."""

import pytest
import torch

from pipelines.errors import DataError
from pipelines.training.checkpoints import learning_weights, load_checkpoint, restore_weights, save_checkpoint


def test_what_is_saved_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 1)
    save_checkpoint(tmp_path / "c.pt", {"step": 3, "weights": learning_weights(layer)})
    other = torch.nn.Linear(2, 1)
    state = load_checkpoint(tmp_path / "c.pt")
    restore_weights(other, state["weights"], tmp_path / "c.pt")
    assert state["step"] == 3
    assert torch.equal(other.weight, layer.weight)
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_frozen_weights_are_not_kept():
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    layers[0].requires_grad_(False)
    assert sorted(learning_weights(layers)) == ["1.bias", "1.weight"]


@pytest.mark.parametrize(
    ("other", "found"),
    [
        pytest.param(torch.nn.Linear(3, 1), r"`weight` has shape \(1, 3\), \(1, 2\) is needed", id="wider"),
        pytest.param(torch.nn.Linear(2, 1, bias=False), r"`bias` has shape None, \(1,\) is needed", id="a weight less"),
        pytest.param(torch.nn.BatchNorm1d(1), r"`weight` has shape \(1,\), \(1, 2\)", id="another kind"),
    ],
)
def test_checkpoint_of_another_architecture_is_refused_and_nothing_is_copied(tmp_path, other, found):
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    with pytest.raises(DataError, match=rf"c\.pt is from another architecture: its {found}.*delete the file"):
        restore_weights(layer, learning_weights(other), tmp_path / "c.pt")
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("content", "reason"),
    [pytest.param(b"", "cannot be read", id="empty"), pytest.param(b"not a checkpoint", "cannot be read", id="text")],
)
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content, reason):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(DataError, match=rf"c\.pt {reason}.*delete the file, then run `headrace finetune_model`"):
        load_checkpoint(tmp_path / "c.pt")


def test_tensors_of_something_else_are_no_checkpoint(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="not one of our checkpoints"):
        load_checkpoint(tmp_path / "c.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"step": 1, "evil": Evil()}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="cannot be read"):
        load_checkpoint(tmp_path / "c.pt")
