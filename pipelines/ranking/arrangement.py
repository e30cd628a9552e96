"""The ordering stage: what is shown at which position, once everything is scored.

In this order: what an earlier page showed and what a rule excludes goes; boosts change the scores; what is buried goes
behind; diversity reorders; pins take their positions, and what a later page pins waits for it; caps hold back what is
too much, pinned items counted; slots are explored, never pinned ones. Every step leaves things as they are where
nothing is set, and only ratios of scores count.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.ranking.business_rules import CapOnCodes, Effect, Pin
from pipelines.ranking.diversity import diversify
from pipelines.ranking.exploration import Exploration, explore


@dataclass(frozen=True)
class Diversity:
    """How much likeness counts, and where vectors come from."""

    weight: float
    """In (0, 1)."""
    pool: int
    """Best candidates among which the order may change."""
    vectors_of: Callable[[np.ndarray], np.ndarray]
    """Row numbers to float32 `(m, dim)`, each row L2 norm 1."""


@dataclass(frozen=True)
class Page:
    """Which part of the list is wanted."""

    k: int
    first: int = 1
    """Position of its first item in the list, from 1."""
    shown: Collection[int] = ()
    """Rows on earlier pages, of those that were scored, are pinned or are fresh."""
    barred: Callable[[int], bool] = field(default=lambda _: False)
    """Whether a row may not be shown, although a rule pins it or exploration draws it."""


@dataclass(frozen=True)
class Arranged:
    """Items in the order in which they are shown."""

    rows: np.ndarray
    """int64 `(<=k,)`."""
    places: np.ndarray
    """int64 `(<=k,)`, place of each in what was scored, −1 where it was not scored."""
    propensities: tuple[float, ...]
    """Chance of each item to be at its position."""
    explored: frozenset[int]
    """Rows that exploration put there."""
    pinned: dict[int, str]
    """Row to the id of the rule that pinned it."""
    rules: tuple[str, ...]
    """Ids of the rules that touched this answer: matched a scored item, placed a pin, or held something back."""
    held_back: dict[int, str]
    """Row to the id of the cap that held it back, of those that would have come before the last one shown."""
    n_left: int
    """How many scored items neither an earlier page showed nor a rule excluded."""
    more: bool
    """Whether something is left for another page."""
    effect: Effect | None = None
    """What the rules did."""

    def rules_of(self, row: int) -> list[str]:
        """Return the ids of the rules that moved an item, held it back, or put it where it is."""
        if self.effect is None:
            return []
        placed = (self.pinned.get(row), self.held_back.get(row))
        return [*self.effect.touching(row), *(name for name in placed if name is not None)]


def arrange(
    rows: np.ndarray,
    scores: np.ndarray,
    page: Page,
    *,
    effect: Effect | None = None,
    diversity: Diversity | None = None,
    exploration: Exploration | None = None,
    fresh: Sequence[int] = (),
    seed: str | None = None,
) -> Arranged:
    """Put scored items in the order in which they are shown.

    Args:
        rows: int64 `(m,)`, distinct row numbers, best first.
        scores: float32 `(m,)`, at least 0, falling.
        fresh: Rows beside the next candidates that exploration draws from.
        seed: Decides what exploration draws; None: nothing.
    """
    order, moved, n_front = _by_rules(rows, scores, page, effect)
    if diversity is not None and diversity.weight > 0:
        best = order[: min(max(diversity.pool, page.k), n_front)]
        of_best = diversify(moved[best], diversity.vectors_of(rows[best]), diversity.weight, page.k)
        order = np.concatenate([best[of_best], order[len(best) :]])
    n_left = len(order)
    pins, later = _pins(effect, page)
    waiting, place_of = rows[order], dict[int, int]()
    for row in (*(pin.row for pin in pins.values()), *later):
        others = waiting != row
        place_of.update((row, place) for place in order[~others].tolist())
        waiting, order = waiting[others], order[others]
    walk = _Walk(effect, waiting, [pin.row for pin in pins.values()])
    base = walk.take(page.k - len(pins))
    at_the_end = walk.take_others(later)[: page.k - len(pins) - len(base)] if walk.at == len(waiting) else []
    held_back = dict(walk.held_back)
    shown = _with_pins([*base, *at_the_end], pins, page.first)
    more = walk.at < len(waiting) or len(at_the_end) < len(later)
    explored, propensities = frozenset[int](), dict[int, float]()
    if exploration is not None and base:
        slots = _slots(exploration, page.first, shown, pins)
        reserve = walk.take(exploration.pool) if slots else []
        if fresh and slots:
            known = {*page.shown, *shown, *reserve}
            reserve += walk.take_others([row for row in fresh if row not in known and not page.barred(row)])
        drawn = explore(slots, reserve, exploration.share, seed)
        for slot, row in drawn.items.items():
            shown[slot] = row
        explored, propensities, more = frozenset(drawn.items.values()), drawn.propensities, more or bool(drawn.items)
    place_of.update(zip(walk.rows, order[: walk.at].tolist(), strict=False))
    return Arranged(
        rows=np.array(shown, np.int64),
        places=np.array([place_of.get(row, -1) for row in shown], np.int64),
        propensities=tuple(propensities.get(slot, 1.0) for slot in range(len(shown))),
        explored=explored,
        pinned={pin.row: effect.ids[pin.rule] for pin in pins.values()} if effect is not None else {},
        rules=_touching(effect, rows, pins.values(), held_back),
        held_back=held_back,
        n_left=n_left,
        more=more or bool(held_back),
        effect=effect,
    )


def _by_rules(
    rows: np.ndarray, scores: np.ndarray, page: Page, effect: Effect | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the places in the order of boosted scores, all boosted scores, and how many places are not buried."""
    left = None
    if page.shown:
        shown = set(page.shown)
        left = np.fromiter((row not in shown for row in rows.tolist()), bool, len(rows))
    if effect is None:
        order = np.arange(len(rows)) if left is None else np.flatnonzero(left)
        return order, scores, len(order)
    patterns = effect.patterns[rows]
    if effect.excluded is not None:
        left = ~effect.excluded[patterns] if left is None else left & ~effect.excluded[patterns]
    order = np.arange(len(rows)) if left is None else np.flatnonzero(left)
    if effect.factors is not None:
        scores = scores * effect.factors[patterns]
        order = order[np.argsort(-scores[order], kind="stable")]
    if effect.buried is None or not (buried := effect.buried[patterns[order]]).any():
        return order, scores, len(order)
    return np.concatenate([order[~buried], order[buried]]), scores, len(order) - int(buried.sum())


def _pins(effect: Effect | None, page: Page) -> tuple[dict[int, Pin], list[int]]:
    """Return the pins of this page by position, and the rows that are pinned on later pages.

    Where two want one position, the later rule gets the next free one.
    """
    if effect is None or not effect.pins:
        return {}, []
    positions: dict[int, Pin] = {}
    for pin in effect.pins:
        excluded = effect.excluded is not None and effect.excluded[effect.patterns[pin.row]]
        if excluded or page.barred(pin.row) or any(pin.row == other.row for other in positions.values()):
            continue
        position = pin.position
        while position in positions:
            position += 1
        positions[position] = pin
    end, waiting = page.first + page.k, {at: pin for at, pin in sorted(positions.items()) if pin.row not in page.shown}
    pins = {at: pin for at, pin in waiting.items() if page.first <= at < end}
    return pins, [pin.row for at, pin in waiting.items() if at >= end]


class _Counted:
    """One cap while items are taken."""

    def __init__(self, cap: CapOnCodes, rule: str, rows: np.ndarray) -> None:
        self.rule = rule
        self.codes: list[int] = cap.codes[rows].tolist()
        """What it counts each row as."""
        self.full: set[int] = set()
        """Codes of which no more may be taken."""
        self._cap = cap
        self._counts: dict[int, int] = {}

    def code_of(self, row: int) -> int:
        """Return what it counts any row as."""
        return int(self._cap.codes[row])

    def count(self, code: int) -> None:
        """Take one more."""
        if code >= 0:
            count = self._counts[code] = self._counts.get(code, 0) + 1
            if count >= self._cap.most:
                self.full.add(code)


class _Walk:
    """Takes items one by one as long as no cap is full; what it holds back stays held back."""

    def __init__(self, effect: Effect | None, rows: np.ndarray, pinned: Iterable[int]) -> None:
        self.rows: list[int] = rows.tolist()
        self.held_back: dict[int, str] = {}
        self.at = 0
        """Place of the next item to look at."""
        self._caps = [_Counted(cap, effect.ids[cap.rule], rows) for cap in effect.caps] if effect is not None else []
        for row in pinned:
            for cap in self._caps:
                cap.count(cap.code_of(row))

    def take(self, n: int) -> list[int]:
        """Return the next `n` rows that fit."""
        if not self._caps:
            taken = self.rows[self.at : self.at + n]
            self.at += len(taken)
            return taken
        taken, caps, rows, at = [], self._caps, self.rows, self.at
        while len(taken) < n and at < len(rows):
            for cap in caps:
                if cap.codes[at] in cap.full:
                    self.held_back[rows[at]] = cap.rule
                    break
            else:
                taken.append(rows[at])
                for cap in caps:
                    cap.count(cap.codes[at])
            at += 1
        self.at = at
        return taken

    def take_others(self, rows: Iterable[int]) -> list[int]:
        """Return those of other rows that fit."""
        taken = []
        for row in rows:
            if not any(cap.code_of(row) in cap.full for cap in self._caps):
                taken.append(row)
                for cap in self._caps:
                    cap.count(cap.code_of(row))
        return taken


def _with_pins(base: Sequence[int], pins: dict[int, Pin], first: int) -> list[int]:
    """Return the rows of the page; pins beyond a short list stand at its end."""
    if not pins:
        return list(base)
    waiting, left, shown = iter(base), dict(pins), list[int]()
    total = len(base) + len(pins)
    while len(shown) < total:
        position = first + len(shown)
        if position in left:
            shown.append(left.pop(position).row)
        elif (row := next(waiting, None)) is not None:
            shown.append(row)
        else:
            shown.append(left.pop(min(left)).row)
    return shown


def _slots(exploration: Exploration, first: int, shown: Sequence[int], pins: dict[int, Pin]) -> list[int]:
    """Return the slots of this page, counted from 0, that are explored and not pinned."""
    pinned = {pin.row for pin in pins.values()}
    slots = sorted({position - first for position in exploration.positions})
    return [slot for slot in slots if 0 <= slot < len(shown) and shown[slot] not in pinned]


def _touching(
    effect: Effect | None, rows: np.ndarray, pins: Iterable[Pin], held_back: dict[int, str]
) -> tuple[str, ...]:
    if effect is None:
        return ()
    touching = 0
    for pattern in set(effect.patterns[rows].tolist()):
        touching |= effect.masks[pattern]
    others = {*(effect.ids[pin.rule] for pin in pins), *held_back.values()}
    return tuple(name for rule, name in enumerate(effect.ids) if touching >> rule & 1 or name in others)
