"""Tests that may be looked at after every request without more false alarms than they promise."""

import math
from collections import OrderedDict
from collections.abc import Sequence

_FACTORS = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_HIGHEST = 0.95
"""Rate that the most alarming alternative has at most: one answer is never proof."""


class RateAlarm:
    """Says when the rate of bad answers is above a bound, however long it was below it before.

    An average of CUSUMs, one for each rate p that might be the true one: W ← max(W, 1) · p/b after a bad answer and
    max(W, 1) · (1 − p)/(1 − b) after a good one. While the rate is b or less, whatever it does below b, the mean number
    of answers until the average reaches C is at least C.

    Source: Shin, Ramdas and Rinaldo, E-detectors: a nonparametric framework for sequential change detection (2022);
    Page, Continuous inspection schemes (1954).

    Args:
        bound: Rate b that is still allowed, in (0, 1).
        answers_between_alarms: C.
    """

    def __init__(self, bound: float, answers_between_alarms: float) -> None:
        rates = sorted({min(_HIGHEST, factor * bound) for factor in _FACTORS})
        self._bad = [rate / bound for rate in rates if rate > bound]
        self._good = [(1 - rate) / (1 - bound) for rate in rates if rate > bound]
        self._threshold = answers_between_alarms
        self._values = [1.0] * len(self._bad)
        self.answers = 0
        """Answers so far."""
        self.bad = 0
        """Bad ones among them."""

    @property
    def evidence(self) -> float:
        """Average of the CUSUMs; the alarm is at `answers_between_alarms`."""
        return sum(self._values) / len(self._values)

    def add(self, is_bad: bool) -> bool:
        """Take in one answer; return whether the alarm is given."""
        self.answers += 1
        self.bad += is_bad
        factors: Sequence[float] = self._bad if is_bad else self._good
        self._values = [max(1.0, value) * factor for value, factor in zip(self._values, factors, strict=True)]
        return self.evidence >= self._threshold


class UserRate:
    """Clicks per answer of many users, and how well it is known, when the answers of one user are alike.

    Source: the variance of a ratio of sums over independent users (delta method): Σ(cᵤ − r·nᵤ)² / (Σnᵤ)², r = Σc/Σn.

    Args:
        max_users: Users that are remembered; the one longest unseen makes room, and its counts stay in the sums.
    """

    def __init__(self, max_users: int = 100_000) -> None:
        self._max_users = max_users
        self._users: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._answers_squared = self._products = self._clicks_squared = 0
        self.users = 0
        """Users so far."""
        self.answers = 0
        self.clicks = 0

    @property
    def rate(self) -> float:
        """Clicks per answer, 0 before the first answer."""
        return self.clicks / self.answers if self.answers else 0.0

    @property
    def variance(self) -> float:
        """Variance of the rate; infinite before the first answer."""
        if not self.answers:
            return math.inf
        rate = self.rate
        squares = self._clicks_squared - 2 * rate * self._products + rate * rate * self._answers_squared
        return max(0.0, squares) / self.answers**2

    def add(self, user_id: str, *, answers: int = 0, clicks: int = 0) -> None:
        """Take in answers to a user, or clicks of theirs."""
        if user_id not in self._users:
            self.users += 1
            if len(self._users) >= self._max_users:
                self._users.popitem(last=False)
        n, c = self._users.get(user_id, (0, 0))
        self._users[user_id] = (n + answers, c + clicks)
        self._users.move_to_end(user_id)
        self._answers_squared += (n + answers) ** 2 - n**2
        self._products += (n + answers) * (c + clicks) - n * c
        self._clicks_squared += (c + clicks) ** 2 - c**2
        self.answers += answers
        self.clicks += clicks


class DropTest:
    """Says when one rate is lower than another by more than a bound, at most with a given chance of error ever.

    A mixture sequential probability ratio test of the difference D = (1 − bound) · rate − other rate against 0, with
    D ~ N(0, τ²) mixed under the alternative and V the estimated variance of D:

        Λ = √(V / (V + τ²)) · exp(D² τ² / (2 V (V + τ²)))

    The alarm is given where Λ ≥ 1/α and D > 0. τ is fixed at the first look: the drop that is allowed, or a tenth of
    the rate where none is. It is as right as the normal approximation, so the first look waits for enough users.

    Source: Johari, Pekelis and Walsh, Always valid inference: bringing sequential analysis to A/B testing (2015),
    equation for the normal mixture; Robbins, Statistical methods related to the law of the iterated logarithm (1970).

    Args:
        max_drop: Drop that is still allowed, relative to the rate, in [0, 1).
        alpha: Chance of an alarm, ever, where the drop is just the allowed one.
        min_users: Users on each side before the first look.
    """

    def __init__(self, max_drop: float, alpha: float, min_users: int) -> None:
        self._max_drop = max_drop
        self._alpha = alpha
        self._min_users = min_users
        self._mixture: float | None = None

    def evidence(self, usual: UserRate, tried: UserRate) -> float:
        """Return Λ where the tried rate lies below the allowed one, else 0; infinite is never returned."""
        if min(usual.users, tried.users) < self._min_users or usual.clicks == 0:
            return 0.0
        if self._mixture is None:
            self._mixture = max(self._max_drop, 0.1) * usual.rate
        drop = (1 - self._max_drop) * usual.rate - tried.rate
        variance = (1 - self._max_drop) ** 2 * usual.variance + tried.variance
        if drop <= 0 or variance <= 0:
            return 0.0
        total = variance + self._mixture**2
        exponent = drop**2 * self._mixture**2 / (2 * variance * total)
        return math.sqrt(variance / total) * math.exp(min(exponent, 700.0))

    def is_lower(self, usual: UserRate, tried: UserRate) -> bool:
        """Tell whether the tried rate is lower than allowed."""
        return self.evidence(usual, tried) >= 1 / self._alpha
