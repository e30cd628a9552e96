"""From what a bundle ranks to what is shown: the ordering stage of a request, as the settings and rules say."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bentos.recommender.answering.cursors import BEGINNING, Position, item_mark
from bentos.recommender.answering.live_rules import LiveRules
from pipelines.config import AnswerCall, ServingConfig
from pipelines.inference.bundle import Bundle
from pipelines.ranking.answers import Ranking
from pipelines.ranking.arrangement import Arranged, Diversity, Page, arrange
from pipelines.ranking.business_rules import Effect, Occasion
from pipelines.ranking.exploration import Exploration
from pipelines.ranking.filtering import Filters
from pipelines.ranking.refusals import refusal

_DIVERSE = 5
"""Candidates for each item shown among which diversity chooses."""


@dataclass(frozen=True)
class Asked:
    """A request, apart from who asks and which bundle answers."""

    request_id: str
    call: AnswerCall
    k: int
    now_s: float
    position: Position = BEGINNING
    query: str | None = None
    """What is searched for."""
    seed_items: tuple[str, ...] = ()
    """Items of the moment of a recommendation."""
    item_id: str | None = None
    """What others are to be like, or to go with."""
    kind: Literal["similar", "goes_with"] = "similar"
    other_categories: bool = False
    filters: Filters | None = None
    context: Mapping[str, str] | None = None
    seed: str | None = None
    """Decides what exploration draws; None: nothing."""

    @property
    def occasion(self) -> Occasion:
        """What rules may ask of it."""
        return Occasion(self.call, self.now_s, self.query, self.context)

    def filters_over(self, bundle: Bundle) -> Filters | None:
        """Return the filters; those of other categories depend on the bundle."""
        row = bundle.row_of(self.item_id) if self.item_id is not None and self.other_categories else None
        category = bundle.display[row]["category"] if row is not None else None
        return self.filters if category is None else replace(self.filters or Filters(), excluded_categories=(category,))


@dataclass(frozen=True)
class Stage:
    """The ordering stage of one request to one bundle."""

    bundle: Bundle
    asked: Asked
    effect: Effect | None
    diversity: Diversity | None
    exploration: Exploration | None
    n_fresh: int
    pool: int

    @property
    def idle(self) -> bool:
        """Whether the ranking is shown as it is."""
        return self.effect is None and self.diversity is None and self.exploration is None and not self._n_shown

    @property
    def depth(self) -> int:
        """Number of items that it wants of the ranking."""
        is_set = self.effect is not None or self.diversity is not None or self.exploration is not None
        return self.asked.k + self._n_shown + (self.pool if is_set else 0)

    @property
    def reaches_beyond(self) -> bool:
        """Whether items may be shown that the ranking does not give."""
        return self.n_fresh > 0 or (self.effect is not None and bool(self.effect.pins))

    def arranged(self, ranking: Ranking, barred: Collection[int] = ()) -> tuple[Ranking, Arranged]:
        """Return what is shown, and how it came about.

        Args:
            barred: Rows that are not shown whatever a rule says: bought lately, or what the request is about.
        """
        marks, filters = self.asked.position.shown(), self.asked.filters_over(self.bundle)
        page = Page(
            k=self.asked.k,
            first=self._n_shown + 1,
            shown=self._shown([*ranking.rows.tolist(), *self._beyond()], marks) if marks else (),
            barred=lambda row: row in barred or refusal(self.bundle, row, filters) is not None,
        )
        arranged = arrange(
            ranking.rows,
            ranking.scores,
            page,
            effect=self.effect,
            diversity=self.diversity,
            exploration=self.exploration,
            fresh=self._fresh(),
            seed=self.asked.seed,
        )
        return _picked(ranking, arranged.rows, arranged.places), arranged

    def unordered(self, ranking: Ranking) -> Ranking:
        """Return the best of the ranking that no earlier page shows."""
        shown = set(self._shown(ranking.rows.tolist(), self.asked.position.shown()))
        left = [place for place, row in enumerate(ranking.rows.tolist()) if row not in shown]
        places = np.array(left[: self.asked.k], np.int64)
        return _picked(ranking, ranking.rows[places], places)

    def _beyond(self) -> list[int]:
        """Return the rows that may be shown although the ranking does not give them."""
        return [*self._fresh(), *(pin.row for pin in (self.effect.pins if self.effect is not None else ()))]

    def _shown(self, rows: list[int], marks: frozenset[bytes]) -> list[int]:
        """Return those of some rows that earlier pages show."""
        item_ids = self.bundle.item_ids
        return [row for row in rows if item_mark(item_ids[row]) in marks]

    @property
    def _n_shown(self) -> int:
        return self.asked.position.n_shown

    def _fresh(self) -> range:
        """Return the rows of the items that arrived last since the bundle was made, newest first."""
        n_items, n_old = self.bundle.n_items, self.bundle.manifest.n_items
        return range(n_items - 1, max(n_old, n_items - self.n_fresh) - 1, -1)


class Arranger:
    """Knows the settings of the ordering stage and the rules that hold now."""

    def __init__(self, settings: ServingConfig) -> None:
        """Read the rules.

        Raises:
            ConfigError: their file cannot be used.
        """
        self.rules = LiveRules(settings.rules_file)
        self._settings = settings
        self._exploration = Exploration(
            settings.exploration_share, settings.exploration_positions, settings.exploration_pool
        )

    def explores(self, call: AnswerCall) -> bool:
        """Whether slots of this call are explored."""
        return self._settings.exploration_share > 0 and call in self._settings.exploration_calls

    def _diversity(self, bundle: Bundle, k: int) -> Diversity:
        pool = min(_DIVERSE * k, k + self._settings.ordering_pool)
        return Diversity(self._settings.diversity, pool, bundle.item_vectors.__getitem__)

    def stage(self, bundle: Bundle, asked: Asked) -> Stage:
        """Return the ordering stage of a request to a bundle."""
        settings, rules = self._settings, self.rules.of(bundle)
        is_diverse = settings.diversity > 0 and asked.call in settings.diversity_calls
        explores = self.explores(asked.call)
        return Stage(
            bundle=bundle,
            asked=asked,
            effect=rules.effect(asked.occasion) if rules is not None else None,
            diversity=self._diversity(bundle, asked.k) if is_diverse else None,
            exploration=self._exploration if explores else None,
            n_fresh=settings.exploration_fresh if explores else 0,
            pool=settings.ordering_pool,
        )


def _picked(ranking: Ranking, rows: np.ndarray, places: np.ndarray) -> Ranking:
    """Return the ranking of what is shown; what was not scored (place −1) has the score 0."""
    scored = places >= 0
    every = bool(scored.all())

    def of_shown(values: np.ndarray) -> np.ndarray:
        if every:
            return values[places]
        return np.where(scored, values[places], np.float32(0)) if len(values) else np.zeros(len(places), np.float32)

    return replace(
        ranking,
        rows=rows,
        scores=of_shown(ranking.scores),
        parts={name: of_shown(part) for name, part in ranking.parts.items()},
    )
