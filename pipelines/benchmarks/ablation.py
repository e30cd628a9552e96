"""What each part of the model is worth: take one away, learn the ranking again, measure again."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.config import HeadraceConfig
from pipelines.inference.bundle import DENSE, Bundle, load_bundle
from pipelines.inference.preprocessing import Frozen, Fusion, RankerSettings
from pipelines.inference.ranker import Ranker
from pipelines.inference.sessions import open_session
from pipelines.progress import Progress
from pipelines.ranking.candidates import TRENDING
from pipelines.retrieval.dense import ItemVectors
from pipelines.retrieval.links import Links
from pipelines.retrieval.neighbors import NeighborTable
from pipelines.retrieval.trends import no_trends
from pipelines.stores.files import write_text
from pipelines.training.learned_ranking import RankingRows, learn_ranking

RANKER = "ranker"


def parts_of(bundle: Bundle) -> tuple[str, ...]:
    """Return the parts that can be taken away: each neighbor table, the user tower, the trends, the ranker if any."""
    return (*bundle.generators, TRENDING, *([] if bundle.ranker is None else [RANKER]))


def without(bundle: Bundle, part: str) -> Bundle:
    """Return the bundle as if it did not have the part; its features are 0 and it proposes nothing."""
    other = copy.copy(bundle)
    if part in bundle.links.names:
        other.links = Links.of_tables({**bundle.links.tables(), part: NeighborTable.empty(bundle.n_items)})
    elif part == DENSE:
        other.item_vectors = ItemVectors(np.zeros_like(bundle.item_vectors.codes), bundle.item_vectors.scales)
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
        folder: Where what is learned is kept.
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
        self._ranker_file = folder / f"ranker-without-{part}.onnx"
        self._ranking_file = folder / f"ranking-without-{part}.json"
        self._progress = progress
        self._bundle: Bundle | None = None

    def bundle(self) -> Bundle:
        """Return the bundle without the part."""
        if self._bundle is None:
            self._bundle = without(self._now, self._part)
            if self._part != RANKER:
                self._score_by(self._ranking(), self._bundle)
        return self._bundle

    def _score_by(self, ranking: "_Ranking", bundle: Bundle) -> None:
        settings = ranking.ranker
        changes = {"fusion": ranking.fusion, "ranker": settings}
        bundle.preprocessing = bundle.preprocessing.model_copy(update=changes)
        bundle.ranker = None
        if settings is not None:
            bundle.ranker = Ranker(open_session(self._ranker_file, "cpu"), settings.heads, settings.head_weights)

    def _ranking(self) -> "_Ranking":
        if self._ranking_file.is_file():
            return _Ranking.model_validate_json(self._ranking_file.read_text(encoding="utf-8"))
        learned = learn_ranking(
            without(load_bundle(self._then, verify=False), self._part),
            self._rows(),
            config=self._config.ranker,
            seed=self._config.training.seed,
            target=self._ranker_file,
            progress=self._progress,
        )
        ranking = _Ranking(fusion=learned.fusion, ranker=learned.ranker)
        write_text(self._ranking_file, ranking.model_dump_json())
        return ranking


class _Ranking(Frozen):
    """What was learned without a part, for a later run."""

    fusion: Fusion
    ranker: RankerSettings | None
    """None: the weights of the fusion decide. Else its ONNX file was written before this."""
