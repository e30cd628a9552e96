"""Rows that the ranker learns from: candidates as they were at a moment, and what the user then did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.progress import Progress
from pipelines.ranking.candidates import recommend_candidates
from pipelines.retrieval.dense import dense_scores

_BLOCK = 64
_NOTHING = np.empty(0)


@dataclass(frozen=True)
class RankerRows:
    """`n` lists of candidates, one after the other: list i lies from `offsets[i]` to `offsets[i + 1]`."""

    offsets: np.ndarray
    """int64 `(n + 1,)`."""
    features: np.ndarray
    """float16 `(n_candidates, n_features)`."""
    purchased: np.ndarray
    """bool `(n_candidates,)`: in the next basket."""
    clicked: np.ndarray
    """bool `(n_candidates,)`: clicked, viewed or put into the cart then."""
    new: np.ndarray
    """bool `(n_candidates,)`: the user had not touched it before."""
    users: np.ndarray
    """int64 `(n,)`, user numbers."""
    n_targets: np.ndarray
    """int64 `(n,)`, items of the next basket that are new to the user, found or not."""

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.users)

    def useful(self) -> np.ndarray:
        """Return bool `(n,)`: lists with something to learn."""
        found = np.flatnonzero(self.purchased | self.clicked)
        counts = np.bincount(np.searchsorted(self.offsets, found, side="right") - 1, minlength=len(self))
        return counts > 0


def collect_ranker_rows(
    bundle: Bundle,
    features: Sequence[UserFeatures],
    now_s: np.ndarray,
    users: Sequence[str] | np.ndarray,
    targets: Sequence[np.ndarray],
    seen: Sequence[np.ndarray],
    *,
    progress: Progress,
    clicked: Sequence[np.ndarray] | None = None,
    per_generator: int = 100,
    max_rows: int = 20_000,
) -> RankerRows:
    """Describe the candidates of each row, by the function that serves.

    Args:
        now_s: float64 `(n,)`, epoch seconds.
        users: `(n,)` ids.
        targets: Row numbers of the next basket, int64; −1 for items that the bundle does not have.
        seen: Row numbers of what the user had touched before.
        clicked: Row numbers of what was clicked, viewed or put into the cart then.
        max_rows: Rows at most, spread evenly over those with a known history.
    """
    rows = [row for row in range(len(features)) if (bundle.rows_of(features[row].item_ids) >= 0).any()]
    if len(rows) > max_rows:
        rows = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, max_rows).round().astype(int))]
    rows.sort(key=lambda row: float(now_s[row]))  # rows of one day share its trends
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        vectors, _ = bundle.user_embeddings([features[row] for row in block], now_s[block])
        dense = dense_scores(vectors, bundle.item_vectors)
        for place, row in enumerate(block):
            found = recommend_candidates(
                bundle,
                features[row],
                vectors[place],
                float(now_s[row]),
                bundle.available,
                dense_scores=dense[place],
                per_generator=per_generator,
            )
            purchased = np.isin(found.rows, targets[row])
            touched = np.zeros(len(found.rows), bool) if clicked is None else np.isin(found.rows, clicked[row])
            new = ~np.isin(found.rows, seen[row])
            parts.append([found.features.astype(np.float16), purchased, touched, new])
        progress.update("candidates described", min(start + _BLOCK, len(rows)), len(rows))
    offsets = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])]).astype(np.int64)
    _, numbers = np.unique(np.asarray([users[row] for row in rows]), return_inverse=True)
    described, purchased, touched, new = (_moved(parts, column, int(offsets[-1])) for column in range(4))
    return RankerRows(
        offsets,
        described,
        purchased,
        touched,
        new,
        users=np.asarray(numbers, np.int64),
        n_targets=np.array([len(np.setdiff1d(targets[row], seen[row])) for row in rows], np.int64),
    )


def _moved(parts: list[list[np.ndarray]], column: int, total: int) -> np.ndarray:
    """Put a column of all parts one after the other; each part is let go as it is copied: features are large."""
    if not parts:
        return np.zeros(0, bool)
    joined = np.empty((total, *parts[0][column].shape[1:]), parts[0][column].dtype)
    start = 0
    for part in parts:
        joined[start : start + len(part[column])] = part[column]
        start += len(part[column])
        part[column] = _NOTHING
    return joined
