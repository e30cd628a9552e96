"""Lexical retrieval: BM25 over item texts that forgives how people type.

Letters and digits part ("12x6" finds "12 in. x 6 in."), plurals fold, compounds are found both ways ("door bell",
"doorbell"), and a word that no item has stands for the most frequent one that is a typing error away.
What a word may mean is read off the items themselves; nothing is fitted to queries.

Source: BM25 as in Lucene, scores computed ahead of time (BM25S, https://arxiv.org/abs/2407.03618).
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.retrieval.packed_rows import pack_rows, unpack_rows
from pipelines.retrieval.words import compounds, one_error_away, tokens_of, words_of

__all__ = ["LexicalIndex", "QueryWords", "tokens_of"]

_K1, _B = 0.6, 0.6
"""How slowly a repeated word stops counting, and how much a long text is discounted: titles repeat little and are of
much the same length, so both are lower than in Lucene (1.2 and 0.75)."""
_ITEM_WORDS, _WORD_COUNTS = "item_words.npy", "item_word_counts.npy"
_SCORES, _SCORED_ITEMS, _HIGH_BITS = "data.csc.index.npy", "indices.csc.index.npy", "high_bits.npy"
"""The names that `bm25s` gives to scores, of which two bytes each are enough for an order, and to whose they are."""
_MAX_ITEM_WORDS = 24
_FREQUENT = 0.25
"""Share of the items that have a frequent word."""
_MIN_COMPOUND, _MIN_PART = 6, 3
"""Letters of a compound and of each of its parts at least."""
_MIN_TOGETHER = 3
"""Items in which both parts of a compound occur at least."""
_RARE = 5
"""A word of fewer items than this may be a compound of two words that occur more often."""
_MIN_MISSPELT = 4
_MAX_MISSPELT = 20
"""Letters of a word that is looked up with typing errors; one of 20 letters takes a millisecond."""
_MAX_LETTERS = 40
"""Letters that a typing error may have left out or replaced: the most frequent ones of the vocabulary."""


@dataclass(frozen=True)
class QueryWords:
    """What a query looks for."""

    numbers: tuple[int, ...]
    """Numbers of words: its own, compounds and parts of them, mended ones; a word that is said twice is there twice."""
    unknown_share: float
    """Share of its words that no item has, in [0, 1]; 0 for a query without words."""


class LexicalIndex:
    """BM25 scores of every item for every known word, and the words of each item in order."""

    def __init__(self, scorer: Any, item_words: np.ndarray) -> None:
        self._scorer = scorer
        self.item_words = item_words
        """int32 `(n_items, 24)`, numbers of the first words of each text, padded with −1."""

    @classmethod
    def build(cls, texts: Sequence[str]) -> "LexicalIndex":
        """Index one text per item, in row order."""
        import bm25s

        words = [words_of(text) for text in texts]
        vocabulary: dict[str, int] = {}
        numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in text] for text in words]
        documents = [
            [*known, *(vocabulary[word] for word in compounds(text, vocabulary))]
            for known, text in zip(numbers, words, strict=True)
        ]
        if not vocabulary:
            vocabulary = {"": 0}  # texts without a single word: nothing is ever found
            documents[0] = [0]
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        scorer = bm25s.BM25(k1=_K1, b=_B, backend="numpy")
        scorer.index((documents, vocabulary), show_progress=False, create_empty_token=False)
        return cls(scorer, _padded(numbers))

    def save(self, folder: Path) -> None:
        """Write the index as `.npy` and JSON files: scores as float16, row numbers packed, words without padding."""
        self._scorer.save(folder, show_progress=False, allow_pickle=False)
        scores = folder / _SCORES
        np.save(scores, np.load(scores, allow_pickle=False).astype(np.float16), allow_pickle=False)
        low, high_bits = pack_rows(np.load(folder / _SCORED_ITEMS, allow_pickle=False), self.n_items)
        np.save(folder / _SCORED_ITEMS, low, allow_pickle=False)
        np.save(folder / _HIGH_BITS, high_bits, allow_pickle=False)
        is_word = self.item_words >= 0
        words = self.item_words[is_word]
        words = words.astype(np.uint16) if words.max(initial=0) < 2**16 else words
        np.save(folder / _ITEM_WORDS, words, allow_pickle=False)
        np.save(folder / _WORD_COUNTS, is_word.sum(axis=1).astype(np.uint8), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Read what `save` wrote; raises what NumPy and JSON raise where a file is not what it should be."""
        import bm25s

        scorer = bm25s.BM25.load(folder, show_progress=False, allow_pickle=False)
        columns = scorer.scores
        columns["data"] = columns["data"].astype(np.float32)
        high_bits = np.load(folder / _HIGH_BITS, allow_pickle=False)
        columns["indices"] = unpack_rows(columns["indices"], high_bits, int(columns["num_docs"]))
        counts = np.load(folder / _WORD_COUNTS, allow_pickle=False)
        words = np.full((len(counts), _MAX_ITEM_WORDS), -1, np.int32)
        words[np.arange(_MAX_ITEM_WORDS) < counts[:, None]] = np.load(folder / _ITEM_WORDS, allow_pickle=False)
        return cls(scorer, words)

    @property
    def n_items(self) -> int:
        """Number of indexed texts."""
        return int(self._scorer.scores["num_docs"])

    @property
    def vocabulary(self) -> dict[str, int]:
        """Number of each known word."""
        known: dict[str, int] = self._scorer.vocab_dict
        return known

    @cached_property
    def item_counts(self) -> np.ndarray:
        """Items that have each word, int64 `(n_words,)`."""
        return np.diff(self._scorer.scores["indptr"]).astype(np.int64)

    @cached_property
    def _frequent(self) -> dict[int, np.ndarray]:
        """Scores of all items, float32 `(n_items,)`, for the words that many have: these add up five times as fast."""
        words = np.flatnonzero(self.item_counts > _FREQUENT * self.n_items).tolist()
        columns = {word: np.zeros(self.n_items, np.float32) for word in words}
        for word, scores in columns.items():
            items, values = self._column(word)
            scores[items] = values
        return columns

    @cached_property
    def idf(self) -> np.ndarray:
        """Rarity of each word, float32 `(n_words,)`: ln(1 + (n − df + ½) / (df + ½))."""
        counts = self.item_counts
        return np.log1p((self.n_items - counts + 0.5) / (counts + 0.5)).astype(np.float32)

    @cached_property
    def is_number(self) -> np.ndarray:
        """True for the words that are digits, bool `(n_words,)`."""
        out = np.zeros(len(self.item_counts), bool)
        out[[number for word, number in self.vocabulary.items() if word.isdigit()]] = True
        return out

    def understood(self, query: str) -> QueryWords:
        """Return what a query looks for."""
        typed = words_of(query)
        unknown = sum(word not in self.vocabulary for word in typed)
        return QueryWords(tuple(self._meant(typed)), unknown / max(len(typed), 1))

    def scores(self, query: str) -> np.ndarray:
        """Return BM25 scores, float32 `(n_items,)`, 0 where no word of the query occurs."""
        return self.scores_of(self.query_words(query))

    def scores_of(self, words: Sequence[int]) -> np.ndarray:
        """Return BM25 scores for numbers of words, float32 `(n_items,)`, 0 where none of them occurs."""
        frequent = self._frequent
        columns = [frequent[word] for word in words if word in frequent]
        scores = columns[0].copy() if columns else np.zeros(self.n_items, np.float32)
        for column in columns[1:]:
            scores += column
        for word in words:
            if word not in frequent:
                np.add.at(scores, *self._column(word))
        return scores

    def scores_at(self, words: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Return BM25 scores of the rows asked for, int64 `(c,)`, for numbers of words: float32 `(c,)`."""
        scores = np.zeros(len(rows), np.float32)
        for word in words:
            items, values = self._column(word)
            if len(items):
                places = np.minimum(np.searchsorted(items, rows), len(items) - 1)
                scores += np.where(items[places] == rows, values[places], np.float32(0))
        return scores

    def query_words(self, query: str) -> list[int]:
        """Return the numbers of the words that a query looks for: its own, compounds and parts of them, mended ones."""
        return self._meant(words_of(query))

    def _meant(self, words: Sequence[str]) -> list[int]:
        meant = compounds(words, self.vocabulary)
        for word in words:
            parts = self._parts(word) if self._count(word) < _RARE else ()
            known = word in self.vocabulary
            meant += [word, *parts] if known or parts else [self._mended(word)]
        return [self.vocabulary[word] for word in meant if word in self.vocabulary]

    def _count(self, word: str) -> int:
        number = self.vocabulary.get(word)
        return 0 if number is None else int(self.item_counts[number])

    def _items_of(self, word: str) -> np.ndarray:
        return self._column(self.vocabulary[word])[0]

    def _column(self, word: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the items that have a word, int32 `(m,)`, rising, and their scores, float32 `(m,)`."""
        columns = self._scorer.scores
        part = slice(columns["indptr"][word], columns["indptr"][word + 1])
        return columns["indices"][part], columns["data"][part]

    def _parts(self, word: str) -> tuple[str, ...]:
        """Return the two words that a compound is made of: those that most items have both of."""
        if len(word) < _MIN_COMPOUND or not word.isalpha():
            return ()
        most = _MIN_TOGETHER - 1
        best: tuple[str, ...] = ()
        for at in range(_MIN_PART, len(word) - _MIN_PART + 1):
            left, right = word[:at], word[at:]
            if left in self.vocabulary and right in self.vocabulary:
                together = len(np.intersect1d(self._items_of(left), self._items_of(right), assume_unique=True))
                if together > most:
                    most, best = together, (left, right)
        return best

    def _mended(self, word: str) -> str:
        """Return the most frequent known word that is a typing error away; the first letter is seldom wrong."""
        if not (_MIN_MISSPELT <= len(word) <= _MAX_MISSPELT and word.isalpha()):
            return word
        near = {other for other in one_error_away(word, self._letters) if other in self.vocabulary}
        long = [other for other in near if len(other) >= _MIN_MISSPELT and other.isalpha()]
        return max(long, key=lambda other: (self._count(other) * (1 + (other[0] == word[0])), other), default=word)

    @cached_property
    def _letters(self) -> str:
        counts = Counter(letter for word in self.vocabulary for letter in word if letter.isalpha())
        return "".join(letter for letter, _ in counts.most_common(_MAX_LETTERS))


def _padded(numbers: Sequence[Sequence[int]]) -> np.ndarray:
    out = np.full((len(numbers), _MAX_ITEM_WORDS), -1, np.int32)
    for row, words in enumerate(numbers):
        kept = words[:_MAX_ITEM_WORDS]
        out[row, : len(kept)] = kept
    return out
