import pytest

from pipelines.config import TrainingConfig
from pipelines.training.increment import incremental_config

CONFIG = TrainingConfig(
    encoder_steps=300,
    tower_steps=1_000,
    validate_every=150,
    tower_batch=8,
    query_pairs=1_000,
    tower_learning_rate=1e-3,
    incremental_steps_share=0.2,
    incremental_rate=0.5,
)


@pytest.mark.parametrize(
    ("rows", "window_rows", "steps", "validate_every", "pairs"),
    [
        pytest.param(100, 1_000, 100, 33, 100, id="as its rows to all rows"),
        pytest.param(900, 1_000, 200, 66, 200, id="at most the share"),
        pytest.param(1, 100_000, 10, 3, 8, id="at least ten"),
    ],
)
def test_an_incremental_run_takes_steps_for_its_rows(rows, window_rows, steps, validate_every, pairs):
    config = incremental_config(CONFIG, rows, window_rows)
    assert (config.tower_steps, config.validate_every, config.query_pairs) == (steps, validate_every, pairs)
    assert config.encoder_steps == 0
    assert config.tower_learning_rate == 5e-4


def test_it_never_takes_more_steps_than_a_run_from_zero():
    config = CONFIG.model_copy(update={"tower_steps": 4, "incremental_steps_share": 1.0})
    assert incremental_config(config, 10, 10).tower_steps == 4
