"""What an index is asked typically: made-up users and queries of a bundle, as its own models see them.

Nothing of real users is needed, and the same bundle gives the same vectors.
"""

from dataclasses import dataclass, field

import numpy as np

from pipelines.inference.bundle import ITEM_TO_ITEM, Bundle
from pipelines.retrieval.vector_index import Asker

_USERS, _QUERIES, _ITEMS = 2_048, 1_536, 1_024
_AT_ONCE = 8
"""Users or queries embedded at once: what ONNX Runtime takes for many it keeps, 174 MiB for 256 users."""
_LEAPS, _NEIGHBORS = 0.3, 0.5
"""Share of the events that follow from no earlier one, and of the others that follow by what was bought together."""
_BASKET, _DAYS_BETWEEN = 5, 7
"""Events of one moment at most, and days between two moments on average."""
_MOST_WORDS = 4
_DAY_S = 86_400
_SEED = 0


@dataclass(frozen=True)
class MadeUpUser:
    """A history that nobody had."""

    item_ids: list[str]
    event_types: list[str]
    event_times: list[int]
    activity: dict[str, float | None] = field(default_factory=dict)


def typical_vectors(bundle: Bundle) -> dict[Asker, np.ndarray]:
    """Return what each asker is likely to ask the index of a bundle."""
    return {"user": typical_users(bundle), "query": typical_queries(bundle)}


def typical_users(bundle: Bundle, count: int = _USERS) -> np.ndarray:
    """Return vectors of made-up users, float32 `(count, dim)`, each row L2 norm 1.

    Histories of one to two events are as frequent as those of 25 to 50.
    """
    chooser = np.random.default_rng(_SEED)
    shoppers = _Shoppers(bundle, chooser)
    longest = bundle.preprocessing.max_history
    lengths = np.sort(np.exp(chooser.uniform(0, np.log(longest + 1), count)).astype(int))
    users = [shoppers.made_up(length) for length in lengths.tolist()]
    parts = [users[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]  # of much the same length
    return np.concatenate([bundle.user_embeddings(part, [shoppers.now_s] * len(part))[0] for part in parts])


def typical_queries(bundle: Bundle, count: int = _QUERIES, items: int = _ITEMS) -> np.ndarray:
    """Return vectors of made-up queries and of items, which are asked for in the same way, each row L2 norm 1.

    A query is a few words of a title, half of the time in any order, half of the time with a word of another title.

    Returns:
        float32 `(count + items, dim)`, or fewer items where there are fewer.
    """
    chooser = np.random.default_rng(_SEED)
    texts = sorted((_made_up_query(bundle.titles, chooser) for _ in range(count)), key=len)
    parts = [texts[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]
    rows = chooser.choice(bundle.n_items, min(items, bundle.n_items), replace=False)
    return np.concatenate([*map(bundle.encode_queries, parts), bundle.item_vectors[rows]])


def _made_up_query(titles: list[str], chooser: np.random.Generator) -> str:
    title, other = (titles[row].replace(",", " ").split() for row in chooser.integers(len(titles), size=2))
    if chooser.random() < 0.5:
        title = chooser.permutation(title).tolist()
    return " ".join([*title[: chooser.integers(1, _MOST_WORDS)], *other[: chooser.integers(2)]]) or "new"


class _Shoppers:
    """Makes up users of a bundle."""

    def __init__(self, bundle: Bundle, chooser: np.random.Generator) -> None:
        self.now_s = bundle.manifest.created_at.timestamp()
        self._bundle, self._chooser = bundle, chooser
        names, self._categories = bundle.categories
        self._of_category = [bundle.category_rows[name] for name in names]
        self._chances = np.cumsum(bundle.popularity + 1.0, dtype=np.float64)

    def made_up(self, length: int) -> MadeUpUser:
        """Return a user of `length` events: each of a popular item, or of one that goes with an earlier one."""
        chooser, bundle = self._chooser, self._bundle
        rows: list[int] = []
        for _ in range(length):
            leaps = not rows or chooser.random() < _LEAPS
            rows.append(self._popular() if leaps else self._goes_with(rows[chooser.integers(len(rows))]))
        moments = np.arange(length) // chooser.integers(1, _BASKET + 1)
        ages = np.cumsum(chooser.exponential(_DAYS_BETWEEN * _DAY_S, length))[::-1]
        times = self.now_s - ages[moments]
        kinds = bundle.preprocessing.event_types
        kind = kinds[chooser.integers(len(kinds))]
        return MadeUpUser([bundle.item_ids[row] for row in rows], [kind] * length, times.astype(int).tolist())

    def _popular(self) -> int:
        return int(np.searchsorted(self._chances, self._chooser.random() * self._chances[-1], side="right"))

    def _goes_with(self, row: int) -> int:
        """Return a neighbor of an item or another one of its category; the item itself where there is neither."""
        others, _ = self._bundle.links.of(ITEM_TO_ITEM, row)
        if self._categories[row] >= 0 and (len(others) == 0 or self._chooser.random() >= _NEIGHBORS):
            others = self._of_category[self._categories[row]]
        return int(others[self._chooser.integers(len(others))]) if len(others) else row
