"""Users of the toy bundle who all had the same item and then took another by chance."""

import numpy as np

from pipelines.training.learned_ranking import RankingRows
from tests.toys.toy_bundle import bought

N_ROWS = 60


def chance_rows(seed: int, *, users: np.ndarray | None = None) -> RankingRows:
    """Return rows of users who had `a` and took `b`, `c` or `d`; `c` is no candidate, and nobody takes `a` again."""
    taken = np.random.default_rng(seed).choice([1, 2, 3], p=[0.35, 0.3, 0.35], size=N_ROWS)
    targets = [np.array([row]) for row in taken]
    return RankingRows(
        features=[bought("a")] * N_ROWS,
        now_s=np.arange(N_ROWS) * 60.0 + 86_400,
        users=np.arange(N_ROWS) if users is None else users,
        targets=targets,
        new_targets=targets,
        seen=[np.array([0])] * N_ROWS,
    )
