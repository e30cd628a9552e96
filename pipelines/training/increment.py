"""How much an incremental run may cost: as much as its rows are of what a run from zero would read."""

import math

from pipelines.config import TrainingConfig

_MIN_STEPS = 10
_VALIDATIONS = 3
"""Validations at least, so that a run which only does harm ends with the weights it started from."""


def incremental_config(config: TrainingConfig, rows: int, window_rows: int) -> TrainingConfig:
    """Return the settings of a run that starts from the champion.

    Steps shrink with the rows, to `incremental_steps_share` of the steps from zero at most; the learning rates are
    lower, because the weights are good already.

    Args:
        rows: Training rows of this run, replayed ones included.
        window_rows: Rows that a run from zero would read.
    """
    share = min(config.incremental_steps_share, rows / max(window_rows, 1))
    steps = min(config.tower_steps, max(_MIN_STEPS, math.ceil(config.tower_steps * share)))
    return config.model_copy(
        update={
            "encoder_steps": config.incremental_encoder_steps,
            "tower_steps": steps,
            "validate_every": max(1, min(config.validate_every, steps // _VALIDATIONS)),
            "query_pairs": max(config.tower_batch, math.ceil(config.query_pairs * share)),
            "tower_learning_rate": config.tower_learning_rate * config.incremental_rate,
            "behavior_learning_rate": config.behavior_learning_rate * config.incremental_rate,
            "encoder_learning_rate": config.encoder_learning_rate * config.incremental_rate,
        }
    )
