"""Lexical retrieval over items whose texts changed, beside a BM25 index that stays as it is.

The words of a changed text are weighted as the index would: its mean length and, of the words that it knows, its
rarities. Words that it does not know are as rare as the changed texts say. A changed text is found by its new words
alone.

Source: BM25 as in Lucene, as in `lexical.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipelines.retrieval.lexical import _B, _K1, _MAX_ITEM_WORDS, LexicalIndex
from pipelines.retrieval.overlaid import PatchedRows
from pipelines.retrieval.words import compounds, words_of

_SPARE_WORDS = 256
_UNUSED_WORDS = 64
"""Words that no text has any more, from which on they are forgotten."""
_NOBODY = (np.empty(0, np.int64), np.empty(0, np.float32))


class LexicalOverlay:
    """The words of texts that changed. One thread writes; readers look through `view`."""

    def __init__(self, index: LexicalIndex) -> None:
        self.index = index
        self.vocabulary = dict(index.vocabulary)
        """Number of each known word, those of changed texts included."""
        self.counts, self.idf, self.is_number = index.item_counts, index.idf, index.is_number
        """By number of a word, as in `LexicalIndex`; longer than the vocabulary once it grew."""
        self.n_known = len(index.item_counts)
        """Words of the index."""
        self.letters = index._letters
        lengths = (index.item_words >= 0).sum(axis=1)
        self._mean_length = max(float(lengths.mean()), 1.0)
        self._postings: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._words: dict[int, tuple[int, ...]] = {}
        self._names: dict[int, str] = {}
        self._free: list[int] = []
        self._n_words = self.n_known
        self.item_words = np.full((0, _MAX_ITEM_WORDS), -1, np.int32)
        """int32 `(capacity, 24)`, by slot."""

    def put(self, texts: Mapping[int, tuple[int, str]]) -> None:
        """Take changed texts: row -> slot and text."""
        self._make_room(max((slot for slot, _ in texts.values()), default=-1) + 1)
        removed: dict[int, set[int]] = {}
        for row in texts:
            for word in self._words.get(row, ()):
                removed.setdefault(word, set()).add(row)
        added: dict[int, list[tuple[int, float]]] = {}
        for row, (slot, text) in texts.items():
            words = words_of(text)
            numbers = [self._number(word) for word in words]
            self.item_words[slot] = -1
            kept = numbers[:_MAX_ITEM_WORDS]
            self.item_words[slot, : len(kept)] = kept
            every = [*numbers, *(self.vocabulary[word] for word in compounds(words, self.vocabulary))]
            relative = _K1 * (1 - _B + _B * len(every) / self._mean_length)
            counted = Counter(every)
            for number, count in counted.items():
                added.setdefault(number, []).append((row, count / (relative + count)))
            self._words[row] = tuple(counted)
        for number in {*removed, *added}:
            self._replace(number, removed.get(number, set()), added.get(number, ()))
        self._forget_words()

    def postings_of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the changed texts that have a word: rows, int64 `(m,)`, and their shares of the word's rarity."""
        return self._postings.get(number, _NOBODY)

    def _replace(self, number: int, gone: set[int], new: Iterable[tuple[int, float]]) -> None:
        rows, shares = self.postings_of(number)
        if gone:
            kept = ~np.isin(rows, np.fromiter(gone, np.int64, len(gone)))
            rows, shares = rows[kept], shares[kept]
        more = list(new)
        rows = np.append(rows, np.array([row for row, _ in more], np.int64))
        shares = np.append(shares, np.array([share for _, share in more], np.float32))
        if number >= self.n_known:
            n_items = self.index.n_items + len(self._words)
            self.counts[number] = len(rows)
            self.idf[number] = np.log1p((n_items - len(rows) + 0.5) / (len(rows) + 0.5))
        if len(rows):
            self._postings[number] = rows, shares
        else:
            self._postings.pop(number, None)

    def _forget_words(self) -> None:
        """Forget the words that no text has any more: memory would grow with every new title of the same item.

        Requests that run see the words as they were, so that none is missing between two looks.
        """
        unused = [number for number in self._names if number not in self._postings]
        if len(unused) < _UNUSED_WORDS:
            return
        self.vocabulary = dict(self.vocabulary)
        for number in unused:
            del self.vocabulary[self._names.pop(number)]
        self._free += unused

    def _number(self, word: str) -> int:
        number = self.vocabulary.get(word)
        if number is not None:
            return number
        if self._free:
            number = self._free.pop()
        else:
            number = self._n_words
            if number >= len(self.counts):
                self._make_words()
            self._n_words += 1
        self.counts[number], self.is_number[number] = 0, word.isdigit()
        self._names[number] = word
        self.vocabulary[word] = number  # last: who finds it finds what belongs to it
        return number

    def _make_words(self) -> None:
        spare = max(_SPARE_WORDS, self._n_words // 8)
        self.counts, self.idf, self.is_number = (
            np.append(values, np.zeros(spare, values.dtype)) for values in (self.counts, self.idf, self.is_number)
        )

    def _make_room(self, slots: int) -> None:
        if slots > len(self.item_words):
            more = max(slots, 2 * len(self.item_words)) - len(self.item_words)
            filler = np.full((more, _MAX_ITEM_WORDS), -1, np.int32)
            self.item_words = np.concatenate([self.item_words, filler])


class OverlaidLexicalIndex(LexicalIndex):
    """A lexical index with an overlay, as it was when an item changed last."""

    def __init__(self, overlay: LexicalOverlay, slots: np.ndarray, changed: np.ndarray) -> None:
        """Take the slots of all items, int32 `(n_items,)`, and the rows of the changed ones, int64 `(k,)`."""
        self._overlay = overlay
        self._vocabulary = overlay.vocabulary
        self._changed = changed
        self._n_items = len(slots)
        self._slots = slots
        self._scorer = overlay.index._scorer
        self.item_words = PatchedRows(overlay.index.item_words, slots, overlay.item_words)  # type: ignore[assignment]
        self.__dict__["_letters"] = overlay.letters

    @property
    def n_items(self) -> int:
        """Number of texts."""
        return self._n_items

    @property
    def vocabulary(self) -> dict[str, int]:
        """Number of each known word."""
        return self._vocabulary

    @property
    def item_counts(self) -> np.ndarray:
        """Items that have each word, int64; changes of known words do not count before the next bundle."""
        return self._overlay.counts

    @property
    def idf(self) -> np.ndarray:
        """Rarity of each word, float32."""
        return self._overlay.idf

    @property
    def is_number(self) -> np.ndarray:
        """True for the words that are digits, bool."""
        return self._overlay.is_number

    def scores_of(self, words: Sequence[int]) -> np.ndarray:
        """Return BM25 scores for numbers of words, float32 `(n_items,)`, 0 where none of them occurs."""
        overlay = self._overlay
        scores = np.zeros(self._n_items, np.float32)
        if known := [word for word in words if word < overlay.n_known]:
            own = overlay.index.scores_of(known)
            scores[: len(own)] = own
        scores[self._changed] = 0
        for word in words:
            rows, shares = overlay.postings_of(word)
            if len(rows):
                here = rows < self._n_items  # what arrived while the request runs is behind
                scores[rows[here]] += overlay.idf[word] * shares[here]
        return scores

    def scores_at(self, words: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Return BM25 scores of the rows asked for, int64 `(c,)`, for numbers of words: float32 `(c,)`."""
        overlay = self._overlay
        scores = super().scores_at([word for word in words if word < overlay.n_known], rows)
        scores[self._slots[rows] >= 0] = 0
        for word in words:
            changed, shares = overlay.postings_of(word)
            for place in np.flatnonzero(np.isin(rows, changed)).tolist():
                scores[place] += overlay.idf[word] * float(shares[changed == rows[place]].sum())
        return scores

    def _items_of(self, word: str) -> np.ndarray:
        number = self._vocabulary[word]
        rows = np.sort(self._overlay.postings_of(number)[0])
        if number >= self._overlay.n_known:
            return rows
        own = np.setdiff1d(super()._items_of(word), self._changed, assume_unique=True)
        return np.union1d(own, rows)
