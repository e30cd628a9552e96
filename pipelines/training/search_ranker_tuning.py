"""Learning the ranker of search: lists of candidates, and what each is worth to its query."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config import SearchRankerConfig
from pipelines.errors import DataError
from pipelines.evaluation.graded import graded_ndcg
from pipelines.evaluation.paired_gain import PairedGain, mean_of_parts, paired_gain
from pipelines.inference.ranker_features import SEARCH_FEATURES
from pipelines.model.ranker import Ranker
from pipelines.progress import Progress
from pipelines.ranking.search_candidates import SearchCandidates, without_generator
from pipelines.ranking.search_ranker import RELEVANCE
from pipelines.training.ranker_epochs import run_epochs

LEXICAL_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights of words beside meaning that are tried."""
_K = 10
_FAR = -1e9
_MISSED = np.iinfo(np.int64).max // 2


@dataclass(frozen=True)
class SearchLists:
    """Candidates of `n` queries, and what is known of them."""

    candidates: list[SearchCandidates]
    items: list[np.ndarray]
    """int64, row numbers of the judged items of each query, candidates or not."""
    gains: list[np.ndarray]
    """float64, at least 0: their gains."""

    def __post_init__(self) -> None:
        if broken := [place for place, gains in enumerate(self.gains) if not (gains >= 0).all()]:
            raise DataError(
                f"{len(broken):,} of {len(self):,} queries have a gain that is negative or no number, first at "
                f"{', '.join(map(str, broken[:3]))}: grades have to be numbers from the lowest one on."
            )

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.candidates)

    def without(self, generator: str) -> "SearchLists":
        """Return the lists as if a generator of candidates were not there."""
        found = [without_generator(candidates, generator) for candidates in self.candidates]
        return SearchLists(found, self.items, self.gains)

    def column(self, name: str) -> list[np.ndarray]:
        """Return a feature of the candidates of each query, float32 `(c,)` each."""
        return [found.features[:, SEARCH_FEATURES.index(name)] for found in self.candidates]

    def worth(self, place: int) -> np.ndarray:
        """Return 2^gain − 1 of each candidate of a query, float32 `(c,)`; what nobody judged is worth nothing."""
        rows = self.candidates[place].rows
        out = np.zeros(len(rows), np.float32)
        at = np.searchsorted(rows, self.items[place])
        at[at == len(rows)] = 0
        known = np.flatnonzero(rows[at] == self.items[place]) if len(rows) else at[:0]
        out[at[known]] = np.exp2(self.gains[place][known]) - 1
        return out

    def useful(self) -> np.ndarray:
        """Return int64: the queries that have a candidate of some worth."""
        return np.array([place for place in range(len(self)) if self.worth(place).any()], np.int64)


@dataclass
class SearchRankerFit:
    """A learned ranker and how it went."""

    ranker: Ranker
    losses: dict[int, float]
    """Mean training loss by epoch."""
    validation_ndcg: dict[int, float]
    """NDCG@10 of the validation queries by epoch."""
    best_epoch: int


def fit_search_ranker(
    train: SearchLists, validation: SearchLists, *, config: SearchRankerConfig, seed: int, progress: Progress
) -> SearchRankerFit:
    """Learn to put what is worth more first; the epoch that is best on the validation queries stays.

        loss = −Σ p log softmax(scores),  p = worth / Σ worth over the candidates of a query

    Source: ListNet's top-one loss, https://doi.org/10.1145/1273496.1273513.

    Raises:
        DataError: fewer than `config.min_queries` training queries have a candidate of some worth, or no validation
            query has.
    """
    useful = train.useful()
    refuse_few_queries(len(useful), len(validation.useful()), config)
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 8])
    ranker = Ranker(len(SEARCH_FEATURES), config.width, (RELEVANCE,))
    ranker.standardize(torch.from_numpy(np.concatenate([train.candidates[place].features for place in useful])))
    went = run_epochs(
        ranker,
        useful,
        loss_of=lambda places: _loss(ranker, train, places),
        quality=lambda: lists_ndcg(validation, _scores(ranker, validation)),
        config=config,
        weight_decay=config.weight_decay,
        rng=rng,
        stage="search ranker steps",
        progress=progress,
    )
    return SearchRankerFit(ranker, went.losses, went.quality, went.best_epoch)


def refuse_few_queries(train: int, validation: int, config: SearchRankerConfig) -> None:
    """Stop where there is too little to learn from.

    Raises:
        DataError: see `fit_search_ranker`.
    """
    if train < config.min_queries or validation == 0:
        raise DataError(
            f"{train:,} training and {validation:,} validation queries have a relevant item among their candidates; "
            f"the ranker of search needs {config.min_queries:,} and 1: give more judged queries, or lower "
            "`search_ranker.min_queries`."
        )


def _scores(ranker: Ranker, lists: SearchLists) -> list[np.ndarray]:
    with torch.inference_mode():
        return [ranker(torch.from_numpy(found.features))[:, 0].numpy() for found in lists.candidates]


def choose_lexical_weight(lists: SearchLists) -> tuple[float, float]:
    """Return the weight of the lexical score, relative to the best item, beside a cosine of weight 1, and its NDCG@10.

    Of equally good weights, the smallest.
    """
    measured = [lists_ndcg(lists, _fused(lists, weight)) for weight in LEXICAL_WEIGHTS]
    best = int(np.argmax(measured))
    return LEXICAL_WEIGHTS[best], measured[best]


def gain_over_fusion(ranker: Ranker, lists: SearchLists, lexical_weight: float) -> PairedGain:
    """Return what the ranker gains in NDCG@10 over the fusion with this weight of the lexical score."""
    own, fused = (ndcg_values(lists, scores) for scores in (_scores(ranker, lists), _fused(lists, lexical_weight)))
    return paired_gain(own[None], fused[None], np.arange(len(lists)))


def _fused(lists: SearchLists, lexical_weight: float) -> list[np.ndarray]:
    cosines, words = lists.column("cosine"), lists.column("lexical_of_best")
    return [cosine + lexical_weight * word for cosine, word in zip(cosines, words, strict=True)]


def lists_ndcg(lists: SearchLists, scores: Sequence[np.ndarray]) -> float:
    """Return the mean of `ndcg_values` over the queries with any gain."""
    return mean_of_parts(ndcg_values(lists, scores)[None])


def ndcg_values(lists: SearchLists, scores: Sequence[np.ndarray]) -> np.ndarray:
    """Return NDCG@10 of each query, float64 `(n,)`, NaN for one without any gain.

    Judged items that are no candidates rank nowhere.

    Args:
        scores: float32 `(c,)` for the candidates of each query.
    """
    values = []
    for found, scored, items, gains in zip(lists.candidates, scores, lists.items, lists.gains, strict=True):
        ranks = np.full(len(items), _MISSED)
        for rank, row in enumerate(found.rows[np.argsort(-scored, kind="stable")[:_K]].tolist(), start=1):
            ranks[items == row] = rank
        values.append(graded_ndcg(ranks, gains))
    return np.array(values, np.float64)


def _loss(ranker: Ranker, lists: SearchLists, places: Sequence[int] | np.ndarray) -> Tensor:
    longest = max(len(lists.candidates[place].rows) for place in places)
    features = np.zeros((len(places), longest, len(SEARCH_FEATURES)), np.float32)
    worth = np.zeros((len(places), longest), np.float32)
    inside = np.zeros((len(places), longest), bool)
    for row, place in enumerate(places):
        count = len(lists.candidates[place].rows)
        features[row, :count] = lists.candidates[place].features
        worth[row, :count] = lists.worth(place)
        inside[row, :count] = True
    scores = ranker(torch.from_numpy(features))[..., 0].masked_fill(~torch.from_numpy(inside), _FAR)
    wanted = torch.from_numpy(worth / worth.sum(axis=1, keepdims=True))
    return -(wanted * scores.log_softmax(-1)).sum(-1).mean()
