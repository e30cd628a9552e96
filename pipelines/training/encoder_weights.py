"""Which weights of the encoder learn: all, those of the upper layers, adapters beside them, or none."""

from torch import nn

from pipelines.config import TrainingConfig
from pipelines.errors import ConfigError
from pipelines.model.encoder import SentenceEncoder
from pipelines.training.lora import add_adapters


def choose_weights(encoder: SentenceEncoder, config: TrainingConfig) -> list[nn.Parameter]:
    """Mark the weights that `encoder_tuning` names as those that learn, and return them.

    Raises:
        ConfigError: every layer would be frozen.
    """
    encoder.requires_grad_(config.encoder_tuning in ("full", "top_layers"))
    if config.encoder_tuning == "lora":
        add_adapters(encoder, config.lora_rank, config.seed)
    elif config.encoder_tuning == "top_layers":
        layers = encoder.transformer.config.num_hidden_layers
        if config.frozen_layers >= layers:
            raise ConfigError(
                f"`training.frozen_layers` is {config.frozen_layers}, but the encoder has {layers} layers, so none "
                f"would learn: set it to {layers - 1} at most, or `training.encoder_tuning` to frozen."
            )
        encoder.freeze_layers(config.frozen_layers)
    return [weight for weight in encoder.parameters() if weight.requires_grad]
