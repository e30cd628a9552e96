"""How well an encoder finds the answers of judged queries that it does not learn from; its best weights stay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipelines.evaluation.graded import graded_ndcg
from pipelines.evaluation.ranks import NEVER, put_broken_last
from pipelines.model.encoder import SentenceEncoder, encode_texts
from pipelines.progress import Progress
from pipelines.ranking.ordering import top_rows
from pipelines.retrieval.lexical import LexicalIndex
from pipelines.training.judged_queries import JudgedQueries

MIN_QUERIES = 20
"""Fewer queries than this cannot tell which weights are better."""
_MAX_QUERIES = 200
_JUDGED, _RIVALS, _OTHERS = 8, 8, 1_000
"""Items of a query that were judged and that share words with it, and items drawn for all queries together."""
_ALL_TRIED = 4
"""With a pool of so many times fewer items, the whole corpus is ranked."""


@dataclass(frozen=True)
class EncoderQuality:
    """NDCG@10 of some judged queries over a pool of items, the same for every call.

    The pool holds judged items, items that share words with a query, and others: encoding a large corpus at every
    validation would cost more than the tuning.
    """

    queries: Sequence[str]
    items: Sequence[np.ndarray]
    """int64, places in the pool of each query's judged items."""
    gains: Sequence[np.ndarray]
    """float64, what each of them is worth."""
    pool: Sequence[str]
    """Texts."""
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    progress: Progress

    def __call__(self, encoder: SentenceEncoder) -> float:
        """Return the mean NDCG@10 in [0, 1]; the encoder is in training mode afterwards.

        An item whose score is no number is not found at all.
        """
        texts = [*self.queries, *self.pool]
        vectors = encode_texts(
            encoder,
            self.tokenizer,
            texts,
            max_tokens=self.max_tokens,
            progress=self.progress,
            stage="encoder validated",
        )
        encoder.train()
        scores = vectors[: len(self.queries)] @ vectors[len(self.queries) :].T
        put_broken_last(scores)
        values = []
        for scored, items, gains in zip(scores, self.items, self.gains, strict=True):
            own = scored[items]
            ranks = np.where(np.isfinite(own), 1 + (scored > own[:, None]).sum(axis=1), NEVER)
            values.append(graded_ndcg(ranks, gains))
        return float(np.nanmean(values))


def encoder_quality(
    judged: JudgedQueries,
    texts: Sequence[str],
    lexical: LexicalIndex | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    progress: Progress,
    seed: int = 0,
) -> EncoderQuality | None:
    """Return what measures an encoder; None where too few of the queries have an answer.

    Args:
        judged: Queries that the encoder does not learn from.
        texts: The items' texts; equal ones count as one.
        lexical: Index of the texts; built where there is none and it is needed.
    """
    rng = np.random.default_rng([seed, 9])
    answered = judged.answered
    if len(answered) < MIN_QUERIES:
        return None
    chosen = judged.at(np.sort(rng.permutation(answered)[:_MAX_QUERIES]))
    firsts = {text: row for row, text in reversed(list(enumerate(texts)))}
    pool = _pool(chosen, texts, lexical, rng)
    pool = np.unique([firsts[texts[row]] for row in pool])
    items, gains = [], []
    for rows, worth in zip(chosen.items, chosen.gains, strict=True):
        known = np.array([firsts[texts[row]] for row in rows], np.int64)
        inside = np.isin(known, pool)
        items.append(np.searchsorted(pool, known[inside]))
        gains.append(worth[inside])
    return EncoderQuality(chosen.queries, items, gains, [texts[row] for row in pool], tokenizer, max_tokens, progress)


def _pool(
    judged: JudgedQueries, texts: Sequence[str], lexical: LexicalIndex | None, rng: np.random.Generator
) -> np.ndarray:
    """Return rows of the corpus, int64: of each query its best judged items and others, and some of everything."""
    if len(texts) <= _ALL_TRIED * _OTHERS:
        return np.arange(len(texts))
    lexical = lexical or LexicalIndex.build(texts)
    parts = [rng.permutation(len(texts))[:_OTHERS]]
    for query, rows, gains in zip(judged.queries, judged.items, judged.gains, strict=True):
        order = np.argsort(-gains, kind="stable")
        parts.append(rows[order[: _JUDGED // 2]])
        parts.append(rng.permutation(rows[order[_JUDGED // 2 :]])[: _JUDGED // 2])
        scores = lexical.scores(query)
        parts.append(top_rows(scores, _RIVALS, scores > 0))
    return np.unique(np.concatenate(parts))
