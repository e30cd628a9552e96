"""What the processes of a distributed test do: `pipelines.training.processes` starts them by these names."""

import json
from pathlib import Path

import numpy as np
import torch

from pipelines.config import TrainingConfig
from pipelines.model.encoder import SentenceEncoder, load_encoder
from pipelines.progress import SilentProgress
from pipelines.training.catalog import Catalog
from pipelines.training.distributed import ALONE, TrainingGroup
from pipelines.training.encoder_tuning import tune_encoder
from pipelines.training.rivals import Rivals

TITLES = [f"{color} {fruit}" for color in ("red", "green", "blue") for fruit in ("apple", "pear", "plum")]
CONFIG = TrainingConfig(
    encoder_steps=12, encoder_batch=9, encoder_learning_rate=1e-2, frozen_layers=1, validate_every=4, max_tokens=16
)
LONG = CONFIG.model_copy(update={"encoder_steps": 80, "validate_every": 4, "encoder_learning_rate": 1e-3})
"""Long enough to be killed in the middle."""


class KilledError(Exception):
    pass


class KilledAt:
    """Somebody who watches, until a step at which the run dies."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, stage, done, total=None, note=""):
        if done == self.step:
            raise KilledError


def toy_catalog() -> Catalog:
    n = len(TITLES)
    zeros = np.zeros(n, np.int64)
    return Catalog([str(i) for i in range(n)], TITLES, TITLES, [""], zeros, [""], zeros, *[zeros.astype("f4")] * 3)


def toy_rivals(queries, rows, rng) -> Rivals:
    """Draw three items that are compared with all pairs of a batch, and answer none."""
    return Rivals(rng.integers(0, len(TITLES), 3), np.zeros((len(rows), len(rows) + 3), bool))


def tune_toy_encoder(
    folder: Path, checkpoint: Path, *, config: TrainingConfig = CONFIG, group: TrainingGroup = ALONE, progress=None
) -> tuple[SentenceEncoder, dict[int, float]]:
    """Tune a tiny encoder without dropout, which no two processes share."""
    encoder, tokenizer = load_encoder(str(folder))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fit = tune_encoder(
        encoder,
        tokenizer,
        toy_catalog(),
        config=config,
        checkpoint=checkpoint,
        progress=progress or SilentProgress(),
        rivals=toy_rivals,
        group=group,
    )
    return encoder, fit.losses


def tune_together(job: str, *, group: TrainingGroup, progress) -> None:
    """Tune undisturbed, then killed and resumed; the main process writes what came of it."""
    folder, out = (Path(part) for part in json.loads(job))
    encoder, losses = tune_toy_encoder(folder, out / "together.pt", group=group)
    try:
        tune_toy_encoder(folder, out / "killed.pt", group=group, progress=KilledAt(6))
    except KilledError:
        resumed, again = tune_toy_encoder(folder, out / "killed.pt", group=group)
        same = all(torch.equal(one, two) for one, two in zip(encoder.parameters(), resumed.parameters(), strict=True))
    answer = {"losses": losses, "resumed": again, "same": same, "size": group.size, "threads": torch.get_num_threads()}
    (out / f"answer-{group.rank}.json").write_text(json.dumps(answer))
