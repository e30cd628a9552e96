"""Baselines of `bench search`: what a model has to beat; weights are chosen on validation queries.

bm25                 words of the query in the items' texts, English stop words, nothing folded
bm25_served          the same by the index that the service searches in, with plurals folded
tfidf                words and pairs of neighboring words
untouched_encoder    the pre-trained encoder's vectors of query and text
rank_fusion          bm25 and untouched_encoder by the places they give
linear_fusion        untouched_encoder + weight · bm25 relative to its best item
linear_fusion_served the same with bm25_served
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipelines.benchmarks.case_store import CHOICES, CaseStore
from pipelines.benchmarks.protocols import GradedQueries, SearchTask
from pipelines.benchmarks.untouched import TextEncoder
from pipelines.evaluation.baselines import TfIdf
from pipelines.evaluation.fusion_weights import candidate_table, choose_weights, joined_tables, relative
from pipelines.progress import Progress

BLOCK_SCORES = 4_000_000
"""Scores that one block of queries holds at most."""
VALIDATION_QUERIES = 2_000
NAMES = (
    "bm25",
    "bm25_folded",
    "tfidf",
    "untouched_encoder",
    "rank_fusion",
    "linear_fusion",
    "linear_fusion_folded",
)
_LEXICAL = {"linear_fusion": "bm25", "linear_fusion_folded": "bm25_folded"}
_RANK_OFFSET = 60
_WORD = re.compile(r"(?u)\b\w\w+\b|\b\d\b")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
"""Lucene's."""
QueryScorer = Callable[[Sequence[str]], np.ndarray]


class SearchBaselines:
    """Makes the scorers of the baselines when they are asked for.

    Args:
        encode: The untouched encoder; reads the corpus and the queries of validation and test once.
        store: Keeps what was chosen on validation.
        queries: Validation queries that choices are made on at most.
    """

    def __init__(
        self,
        task: SearchTask,
        encode: TextEncoder,
        store: CaseStore,
        progress: Progress,
        queries: int = VALIDATION_QUERIES,
    ) -> None:
        self._task = task
        self._encode = encode
        self._store = store
        self._progress = progress
        self._queries = sampled_queries(task.validation, queries)
        self._made: dict[str, QueryScorer] = {}

    def scorer(self, name: str) -> QueryScorer:
        """Return the scorer of one case."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def describe(self, name: str) -> str:
        """Return what was chosen for a case, in words; "" where there was nothing to choose."""
        if name not in _LEXICAL:
            return ""
        return f"{name} = " + " + ".join(f"{weight:g} · {part}" for part, weight in self._weights(name).items())

    def _make(self, name: str) -> QueryScorer:
        match name:
            case "bm25":
                return bm25(self._task.texts, plain_words)
            case "bm25_folded":
                return bm25(self._task.texts, folded_words)
            case "tfidf":
                return TfIdf(self._task.texts).search_scores
            case "untouched_encoder":
                return self._dense()
            case "rank_fusion":
                lexical, dense = self.scorer("bm25"), self.scorer("untouched_encoder")
                return lambda queries: _reciprocal_ranks(lexical(queries)) + _reciprocal_ranks(dense(queries))
            case _:
                return self._weighted(self._weights(name))

    def _weights(self, name: str) -> Mapping[str, float]:
        """Return the weights of a linear fusion, choosing them first where that was not done yet."""
        kept = dict(self._store.note(CHOICES) or {})
        if name not in kept:
            kept[name] = self._choose(("untouched_encoder", _LEXICAL[name]))
            self._store.write_note(CHOICES, kept)
        found: Mapping[str, float] = kept[name]  # type: ignore[assignment]  # what _choose wrote
        return found

    def _choose(self, parts: Sequence[str]) -> Mapping[str, float]:
        tables, done = [], 0
        for block in query_blocks(self._queries, self._task.n_items):
            scores = [self._part(part)(block.queries) for part in parts]
            worth = [np.exp2(gains) - 1 for gains in block.gains]
            nothing = [np.empty(0, np.int64)] * len(block)
            tables.append(candidate_table(scores, block.items, worth, nothing))
            done += len(block)
            self._progress.update("linear fusion, choosing weights on validation", done, len(self._queries))
        return choose_weights(joined_tables(tables), parts)

    def _weighted(self, weights: Mapping[str, float]) -> QueryScorer:
        parts = {part: self._part(part) for part, weight in weights.items() if weight}

        def score(queries: Sequence[str]) -> np.ndarray:
            total = np.zeros((len(queries), self._task.n_items), np.float32)
            for part, scorer in parts.items():
                total += np.float32(weights[part]) * scorer(queries)
            return total

        return score

    def _part(self, name: str) -> QueryScorer:
        """Return a part of a fusion: cosines as they are, lexical scores relative to the best item."""
        scorer = self.scorer(name)
        return scorer if name == "untouched_encoder" else lambda queries: relative(scorer(queries))

    def _dense(self) -> QueryScorer:
        task = self._task
        texts = [*task.validation.queries, *task.test.queries]
        found = self._encode([*task.texts, *texts])
        items, vectors = found[: task.n_items], found[task.n_items :]
        rows = {text: row for row, text in enumerate(texts)}
        return lambda queries: vectors[[rows[query] for query in queries]] @ items.T


def bm25(texts: Sequence[str], words_of: Callable[[Sequence[str]], list[list[str]]]) -> QueryScorer:
    """Return BM25 over the texts.

    Source: BM25 as in Lucene, scores computed ahead of time (BM25S, https://arxiv.org/abs/2407.03618).

    A score is 0 where no word is left of the query or of the text.

    Args:
        words_of: Splits texts into words.
    """
    import logging

    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    words = words_of(texts)
    if not any(words):
        return lambda queries: np.zeros((len(queries), len(texts)), np.float32)
    index = bm25s.BM25(backend="numpy")
    index.index(words, show_progress=False)
    known = index.vocab_dict

    def score(queries: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(queries), len(texts)), np.float32)
        for place, query in enumerate(words_of(queries)):
            if ids := [known[word] for word in query if word in known]:
                out[place] = index.get_scores_from_ids(ids)
        return out

    return score


def plain_words(texts: Sequence[str]) -> list[list[str]]:
    """Split as `bm25s` does when nothing more is asked of it than to leave English stop words out."""
    import bm25s

    words: list[list[str]] = bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)
    return words


def folded_words(texts: Sequence[str]) -> list[list[str]]:
    """Split without Lucene's English stop words, with plurals folded and single digits kept.

    Source: the S stemmer of Harman, How effective is suffixing? (1991).
    """
    return [[_singular(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS] for text in texts]


def _singular(word: str) -> str:
    if len(word) < 4:
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss")) else word


def sampled_queries(queries: GradedQueries, most: int) -> GradedQueries:
    """Return `most` queries at even distances, or all of them."""
    if len(queries) <= most:
        return queries
    return queries.at(np.linspace(0, len(queries) - 1, most).astype(np.int64).tolist())


def query_blocks(queries: GradedQueries, n_items: int) -> list[GradedQueries]:
    """Return the queries in blocks whose scores stay within memory."""
    size = int(np.clip(BLOCK_SCORES // max(n_items, 1), 8, 256))
    places = range(len(queries))
    return [queries.at(places[start : start + size]) for start in range(0, len(queries), size)]


def _reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """Return 1 / (60 + rank), float32 of the same shape.

    Source: Cormack, Clarke and Büttcher, Reciprocal rank fusion (2009).
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    worth = (1 / (_RANK_OFFSET + np.arange(1, scores.shape[1] + 1))).astype(np.float32)
    out = np.empty(scores.shape, np.float32)
    np.put_along_axis(out, order, np.broadcast_to(worth, scores.shape), axis=1)
    return out
