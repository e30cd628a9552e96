"""Business rules: what a shop declares about the order of its answers (docs/ordering.md has an example).

A rule has a condition on the request, a condition on items, and one action. Conditions on items are looked up once per
bundle: items that the same rules match share a pattern, and a request only reads the patterns of its candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AwareDatetime, BeforeValidator, Field, model_validator

from pipelines.config import AnswerCall, Settings
from pipelines.inference.bundle import Bundle

ACTIONS = ("boost", "bury", "pin", "cap", "exclude")
MAX_RULES = 500
MAX_PIN = 100
_REMEMBERED_EFFECTS = 64
_MOST_BOOST = float(np.log(1e6))
"""Logarithm of the largest factor of all boosts of an item together; its negative is that of the smallest."""


def _start_of_day(value: Any) -> Any:
    is_day = isinstance(value, date) and not isinstance(value, datetime)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if is_day else value


Moment = Annotated[AwareDatetime, BeforeValidator(_start_of_day)]
"""A time with its zone, or a day, which begins at midnight UTC."""


class RequestCondition(Settings):
    """Which requests a rule is for; what is left out limits nothing."""

    calls: tuple[AnswerCall, ...] = ()
    queries: tuple[str, ...] = ()
    """Whole queries; upper and lower case and white space do not matter."""
    context: dict[str, tuple[str, ...] | str] = Field(default={})
    """Field of the request's `context` to the values it may have."""
    starts: Moment | None = None
    ends: Moment | None = None
    """The first moment at which the rule is over."""


class ItemCondition(Settings):
    """Which items a rule is about: all that is said must hold; what is left out limits nothing."""

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    min_price: float | None = Field(default=None, ge=0)
    max_price: float | None = Field(default=None, ge=0)


class Cap(Settings):
    """At most so many items of one brand or category in an answer."""

    per: Literal["brand", "category"]
    most: int = Field(ge=1)


class Rule(Settings):
    """One rule; it has exactly one action."""

    id: str = Field(pattern=r"^[\w.-]{1,64}$")
    when: RequestCondition = RequestCondition()
    items: ItemCondition = ItemCondition()
    boost: float | None = Field(default=None, gt=0, le=100)
    """The score counts so many times; below 1 it counts less."""
    bury: Literal[True] | None = None
    """Behind all others."""
    pin: int | None = Field(default=None, ge=1, le=MAX_PIN)
    """Position of the first of `items.item_ids`; the others follow it."""
    cap: Cap | None = None
    exclude: Literal[True] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        actions = [name for name in ACTIONS if getattr(self, name) is not None]
        if len(actions) != 1:
            found = " and ".join(actions) or "none"
            raise ValueError(f"a rule needs exactly one action of {', '.join(ACTIONS)}, found {found}")
        if self.pin is not None and not self.items.item_ids:
            raise ValueError("a pin needs `items.item_ids`, the items to be shown at its position")
        if self.when.starts and self.when.ends and self.when.starts >= self.when.ends:
            raise ValueError("`when.ends` must be later than `when.starts`")
        return self

    @property
    def action(self) -> str:
        """Name of the action."""
        return next(name for name in ACTIONS if getattr(self, name) is not None)


class RuleBook(Settings):
    """All rules, in the order of the file."""

    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [rule.id for rule in self.rules]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"the id {twice[0]!r} is given to two rules, each needs one of its own")
        return self


@dataclass(frozen=True)
class Occasion:
    """What a rule can ask of a request."""

    call: AnswerCall
    now_s: float
    query: str | None = None
    context: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Pin:
    """An item with its place."""

    position: int
    """From 1; if another pin has it, the next free one."""
    row: int
    rule: int
    """Number of the rule."""


@dataclass(frozen=True)
class CapOnCodes:
    """A cap over the codes of brands or categories."""

    most: int
    codes: np.ndarray
    """int32 `(n_items,)`, −1 for items that are not counted: other than the rule's, or without brand or category."""
    rule: int


@dataclass(frozen=True)
class Effect:
    """What the rules that apply to a request do to items, by pattern."""

    ids: tuple[str, ...]
    """Ids of all rules of the book; numbers of rules are places here."""
    patterns: np.ndarray
    """int32 `(n_items,)`."""
    touches: np.ndarray
    """bool `(n_patterns, n_rules)`, by rules that apply and boost, bury or exclude."""
    factors: np.ndarray | None
    """float32 `(n_patterns,)`; None where nothing is boosted."""
    buried: np.ndarray | None
    """bool `(n_patterns,)`."""
    excluded: np.ndarray | None
    """bool `(n_patterns,)`."""
    pins: tuple[Pin, ...]
    caps: tuple[CapOnCodes, ...]

    masks: tuple[int, ...]
    """`touches` as bits, the lowest one that of the first rule, by pattern."""

    def touching(self, row: int) -> list[str]:
        """Return the ids of the rules that boost, bury or exclude an item."""
        return [self.ids[rule] for rule in np.flatnonzero(self.touches[self.patterns[row]])]


class BundleRules:
    """A rule book over the items of one bundle. Holds no reference to the bundle; safe for several threads."""

    def __init__(self, book: RuleBook, bundle: Bundle) -> None:
        """Find the items of each rule."""
        self.book = book
        self._ids = tuple(rule.id for rule in book.rules)
        matches = [_matches(rule.items, bundle) for rule in book.rules]
        self.unmatched = tuple(rule.id for rule, found in zip(book.rules, matches, strict=True) if not len(found))
        """Ids of the rules that match no item of this bundle."""
        self._patterns, self._table = _patterns(matches, bundle.n_items)
        self._rows = [tuple(bundle.row_of(name) for name in rule.items.item_ids) for rule in book.rules]
        self._codes = {"brand": bundle.brands[1], "category": bundle.categories[1]}
        self._conditions = [_Condition.of(rule.when) for rule in book.rules]
        self._capped: dict[int, CapOnCodes] = {}
        self._effects: dict[tuple[int, ...], Effect] = {}

    def effect(self, occasion: Occasion) -> Effect | None:
        """Return what the rules do for a request; None where none applies."""
        applying = tuple(number for number, rule in enumerate(self._conditions) if rule.applies(occasion))
        if not applying:
            return None
        if applying not in self._effects:
            if len(self._effects) >= _REMEMBERED_EFFECTS:
                self._effects.clear()
            self._effects[applying] = self._effect(applying)
        return self._effects[applying]

    # Inside

    def _effect(self, applying: tuple[int, ...]) -> Effect:
        rules = {number: self.book.rules[number] for number in applying}
        touches = np.zeros_like(self._table)
        for number, rule in rules.items():
            if rule.action in ("boost", "bury", "exclude"):
                touches[:, number] = self._table[:, number]
        boosts = [number for number, rule in rules.items() if rule.boost is not None]
        factors = None
        if boosts:
            logs = np.log(np.array([rules[number].boost for number in boosts], np.float64))
            together = np.clip(self._table[:, boosts] @ logs, -_MOST_BOOST, _MOST_BOOST)
            factors = np.exp(together).astype(np.float32)
        return Effect(
            ids=self._ids,
            patterns=self._patterns,
            touches=touches,
            masks=tuple(sum(1 << number for number in np.flatnonzero(of).tolist()) for of in touches),
            factors=factors,
            buried=self._any([number for number, rule in rules.items() if rule.bury]),
            excluded=self._any([number for number, rule in rules.items() if rule.exclude]),
            pins=tuple(pin for number, rule in rules.items() if rule.pin is not None for pin in self._pins(number)),
            caps=tuple(self._cap(number, rule.cap) for number, rule in rules.items() if rule.cap is not None),
        )

    def _any(self, numbers: Sequence[int]) -> np.ndarray | None:
        if not numbers:
            return None
        return np.asarray(self._table[:, numbers].any(axis=1))

    def _cap(self, number: int, cap: Cap) -> CapOnCodes:
        if number not in self._capped:
            codes = self._codes[cap.per]
            self._capped[number] = CapOnCodes(
                cap.most, np.where(self._table[self._patterns, number], codes, np.int32(-1)), number
            )
        return self._capped[number]

    def _pins(self, number: int) -> list[Pin]:
        position = self.book.rules[number].pin
        assert position is not None  # noqa: S101 - it was asked before
        rows = [row for row in self._rows[number] if row is not None and self._table[self._patterns[row], number]]
        return [Pin(position, row, number) for row in rows]


@dataclass(frozen=True)
class _Condition:
    """A condition on requests, prepared to be asked often."""

    calls: frozenset[str]
    queries: frozenset[str]
    context: tuple[tuple[str, frozenset[str]], ...]
    starts_s: float
    ends_s: float

    @classmethod
    def of(cls, condition: RequestCondition) -> "_Condition":
        return cls(
            calls=frozenset(condition.calls),
            queries=frozenset(map(_plain, condition.queries)),
            context=tuple(
                (name, frozenset((values,) if isinstance(values, str) else values))
                for name, values in condition.context.items()
            ),
            starts_s=condition.starts.timestamp() if condition.starts else -np.inf,
            ends_s=condition.ends.timestamp() if condition.ends else np.inf,
        )

    def applies(self, occasion: Occasion) -> bool:
        """Whether the rule is for this request."""
        if self.calls and occasion.call not in self.calls:
            return False
        if not self.starts_s <= occasion.now_s < self.ends_s:
            return False
        if self.queries and (occasion.query is None or _plain(occasion.query) not in self.queries):
            return False
        given = occasion.context or {}
        return all(given.get(name) in values for name, values in self.context)


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())


def _matches(condition: ItemCondition, bundle: Bundle) -> np.ndarray:
    """Return the rows of the items that a condition matches, available or not, int64 rising."""
    matching = np.ones(bundle.n_items, bool)
    for names, (numbers, codes) in ((condition.categories, bundle.categories), (condition.brands, bundle.brands)):
        if names:
            wanted = np.zeros(len(numbers) + 1, bool)  # the last one is that of items without any, whose code is -1
            wanted[[numbers[name.casefold()] for name in names if name.casefold() in numbers]] = True
            matching &= wanted[codes]
    if condition.min_price is not None:
        matching &= bundle.prices >= condition.min_price
    if condition.max_price is not None:
        matching &= bundle.prices <= condition.max_price
    rows = np.flatnonzero(matching)
    return np.intersect1d(rows, bundle.rows_of(condition.item_ids)) if condition.item_ids else rows


def _patterns(matches: Sequence[np.ndarray], n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pattern of each item, int32 `(n_items,)`, and which rules each matches, bool `(n_patterns, n_rules)`.

    Rule by rule, so that no array of all items and rules is needed: a pattern of which a rule matches some items and
    others not becomes two.
    """
    patterns, table = np.zeros(n_items, np.int32), np.zeros((1, len(matches)), bool)
    sizes = np.array([n_items])
    for number, rows in enumerate(matches):
        matched = np.bincount(patterns[rows], minlength=len(table))
        whole = (matched > 0) & (matched == sizes)
        table[whole, number] = True
        split = np.flatnonzero((matched > 0) & ~whole)
        renamed = np.arange(len(table), dtype=np.int32)
        renamed[split] = np.arange(len(table), len(table) + len(split))
        patterns[rows] = renamed[patterns[rows]]
        parts = table[split]
        parts[:, number] = True
        table = np.concatenate([table, parts])
        sizes[split] -= matched[split]
        sizes = np.concatenate([sizes, matched[split]])
    return patterns, table
