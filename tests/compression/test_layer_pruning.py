"""Which layers stay, and that they are the ones that were there."""

import pytest
import torch

from pipelines.compression.layer_pruning import choose_layers, layer_count, prune_layers
from pipelines.errors import ConfigError
from pipelines.model.encoder import SentenceEncoder, load_encoder


@pytest.mark.parametrize(
    ("n_layers", "keep", "kept"), [(6, 6, (0, 1, 2, 3, 4, 5)), (6, 3, (0, 2, 5)), (6, 2, (0, 5)), (6, 1, (0,))]
)
def test_layers_stay_at_even_distances(n_layers, keep, kept):
    assert choose_layers(n_layers, keep) == kept


@pytest.mark.parametrize("keep", [0, 7])
def test_no_layer_and_more_than_there_are_are_refused(keep):
    with pytest.raises(ConfigError, match=f"{keep} layers are to stay of an encoder of 6: ask for 1 to 6"):
        choose_layers(6, keep)


def test_the_pruned_encoder_has_the_chosen_layer_and_the_full_one_is_as_it_was(tiny_encoder_folder):
    encoder, _ = load_encoder(str(tiny_encoder_folder))
    pruned = prune_layers(encoder, (1,))
    assert (layer_count(encoder), layer_count(pruned)) == (2, 1)
    for own, other in zip(
        pruned.transformer.encoder.layer[0].parameters(), encoder.transformer.encoder.layer[1].parameters(), strict=True
    ):
        assert torch.equal(own, other)
        assert own is not other


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(ConfigError, match="The layers of a Linear cannot be pruned"):
        prune_layers(SentenceEncoder(torch.nn.Linear(2, 2)), (0,))
