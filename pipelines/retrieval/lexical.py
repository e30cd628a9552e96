"""Lexical retrieval: BM25 over item texts, with English stop words and plurals folded.

Source: BM25 as in Lucene, scores computed ahead of time (BM25S, https://arxiv.org/abs/2407.03618).
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_TOKEN = re.compile(r"(?u)\b\w\w+\b|\b\d\b")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
"""Lucene's English stop words."""


def tokens_of(text: str) -> list[str]:
    """Split a text into lower-case words without stop words and without plural endings."""
    return [_singular(token) for token in _TOKEN.findall(text.lower()) if token not in _STOP_WORDS]


def _singular(token: str) -> str:
    """Fold English plurals, so that "chip" finds "chips".

    Source: the S stemmer of Harman, How effective is suffixing? (1991).
    """
    if len(token) < 4:
        return token
    if token.endswith("ies") and not token.endswith(("eies", "aies")):
        return token[:-3] + "y"
    if token.endswith("es") and not token.endswith(("aes", "ees", "oes")):
        return token[:-1]
    if token.endswith("s") and not token.endswith(("us", "ss")):
        return token[:-1]
    return token


class LexicalIndex:
    """BM25 scores of every item for every known word."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer

    @classmethod
    def build(cls, texts: Sequence[str]) -> "LexicalIndex":
        """Index one text per item, in row order."""
        import bm25s

        vocabulary: dict[str, int] = {}
        documents = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokens_of(text)] for text in texts]
        if not vocabulary:
            vocabulary = {"": 0}  # texts without a single word: nothing is ever found
            documents[0] = [0]
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        scorer = bm25s.BM25(backend="numpy")
        scorer.index((documents, vocabulary), show_progress=False, create_empty_token=False)
        return cls(scorer)

    def save(self, folder: Path) -> None:
        """Write the index as `.npy` and JSON files."""
        self._scorer.save(folder, show_progress=False, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Read what `save` wrote; raises what NumPy and JSON raise where a file is not what it should be."""
        import bm25s

        return cls(bm25s.BM25.load(folder, show_progress=False, allow_pickle=False))

    @property
    def n_items(self) -> int:
        """Number of indexed texts."""
        return int(self._scorer.scores["num_docs"])

    def scores(self, query: str) -> np.ndarray:
        """Return BM25 scores, float32 `(n_items,)`, 0 where no word of the query occurs."""
        vocabulary = self._scorer.vocab_dict
        known = [vocabulary[token] for token in tokens_of(query) if token in vocabulary]
        if not known:
            return np.zeros(self.n_items, np.float32)
        scores: np.ndarray = self._scorer.get_scores_from_ids(known)
        return scores
