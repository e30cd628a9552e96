"""What the options of `headrace bench freshness` mean."""

import os
from pathlib import Path
from typing import Any

from pipelines.benchmarks.freshness import FreshnessPlan, bench_freshness
from pipelines.config import load_config
from pipelines.places import Places

_QUICK_PLAN = {"base_weeks": 4, "windows": 2, "users": 300, "query_pairs": 200}
_QUICK_TRAINING = {"tower_steps": 30, "validate_every": 10, "tower_batch": 32, "negatives": 128}


def run_freshness(
    *,
    data: str,
    windows: int,
    base_weeks: int,
    replay_share: float | None,
    users: int | None,
    tower_steps: int | None,
    seed: int,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
    work: Path | None,
) -> None:
    """Run the bench with the settings of the environment and what was asked for.

    Raises:
        HeadraceError: see `bench_freshness`.
    """
    settings = load_config(os.environ)
    chosen: dict[str, Any] = {"windows": windows, "base_weeks": base_weeks, "users": users}
    share = settings.training_set.replay_share if replay_share is None else replay_share
    plan = FreshnessPlan(**(chosen | (_QUICK_PLAN if quick else {})), replay_share=share, seed=seed)
    training = settings.training.model_copy(update=_QUICK_TRAINING if quick else {})
    if tower_steps:
        training = training.model_copy(update={"tower_steps": tower_steps})
    bench_freshness(
        data,
        work=(work or Places.from_environment().benchmarks) / "freshness",
        plan=plan,
        config=training,
        json_file=json_file,
        plot_file=plot_file,
    )
