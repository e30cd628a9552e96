"""What each part of the model is worth: take one away, learn the ranking again, measure again."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.config import HeadraceConfig
from pipelines.inference.bundle import DENSE, Bundle, load_bundle
from pipelines.inference.ranker import Ranker
from pipelines.inference.sessions import open_session
from pipelines.progress import Progress
from pipelines.ranking.candidates import TRENDING
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.retrieval.trends import no_trends
from pipelines.training.learned_ranking import RankingRows, learn_ranking

RANKER = "ranker"


def parts_of(bundle: Bundle) -> tuple[str, ...]:
    """Return the parts that can be taken away: each neighbor table, the user tower, the trends, the ranker."""
    return (*bundle.generators, TRENDING, RANKER)


def without(bundle: Bundle, part: str) -> Bundle:
    """Return the bundle as if it did not have the part; its features are 0 and it proposes nothing."""
    other = copy.copy(bundle)
    if part in bundle.neighbors:
        other.neighbors = {**bundle.neighbors, part: NeighborTable.empty(bundle.n_items)}
    elif part == DENSE:
        other.item_vectors = np.zeros_like(bundle.item_vectors)
    elif part == TRENDING:
        other.trends = no_trends(bundle.n_items)
    elif part == RANKER:
        other.ranker = None
    return other


class Ablation:
    """The bundle without one part, learned when it is asked first and kept for a later run.

    Args:
        then: The bundle with what was known before `rows`.
        now: The bundle that is served.
        rows: What the ranking is learned from; read when it is needed.
        folder: Where the ranker is kept.
    """

    def __init__(
        self,
        part: str,
        *,
        then: Path,
        now: Bundle,
        rows: Callable[[], RankingRows],
        config: HeadraceConfig,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._part = part
        self._then = then
        self._now = now
        self._rows = rows
        self._config = config
        self._file = folder / f"ranker-without-{part}.onnx"
        self._progress = progress
        self._learned: Bundle | None = None

    def bundle(self) -> Bundle:
        """Return the bundle without the part."""
        if self._learned is None:
            self._learned = without(self._now, self._part)
            if self._part != RANKER:
                self._learned.ranker = self._ranker()
        return self._learned

    def _ranker(self) -> Ranker | None:
        settings = self._now.preprocessing.ranker
        if settings is None:
            return None
        if not self._file.is_file():
            learn_ranking(
                without(load_bundle(self._then, verify=False), self._part),
                self._rows(),
                config=self._config.ranker,
                seed=self._config.training.seed,
                target=self._file,
                progress=self._progress,
            )
        return Ranker(open_session(self._file, "cpu"), settings.heads, settings.head_weights)
