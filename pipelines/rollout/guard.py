"""The guard of a canary: looks at every answer and every click, and says when to stop, and why."""

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.config import CanaryConfig
from pipelines.rollout.sequential import DropTest, RateAlarm, UserRate

_LATENCIES = 1_000
"""Last answers of the live bundle that say what is usual."""
_MIN_LATENCIES = 50
"""Fewer say nothing."""
_LATENCY_EVERY = 20
"""Answers after which the percentile is taken anew."""
_REMEMBERED_ANSWERS = 20_000


@dataclass
class _UsualLatency:
    """The 95th percentile of the last answers of the live bundle to one kind of call."""

    last_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    p95_ms: float | None = None
    seen: int = 0

    def add(self, latency_ms: float) -> None:
        self.last_ms.append(latency_ms)
        self.seen += 1
        if self.seen >= _MIN_LATENCIES and self.seen % _LATENCY_EVERY == 0:
            self.p95_ms = float(np.percentile(self.last_ms, 95))


@dataclass
class _Shown:
    """The last answer to a user."""

    is_canary: bool
    item_ids: frozenset[str]
    at_s: float
    clicked: bool = False


class CanaryGuard:
    """Watches one canary; safe for many threads. After the first reason it says nothing more."""

    def __init__(self, config: CanaryConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._failed = RateAlarm(config.max_failed_share, config.false_alarm_requests)
        self._empty = RateAlarm(config.max_empty_share, config.false_alarm_requests)
        self._slow = RateAlarm(config.max_slow_share, config.false_alarm_requests)
        self._clicks = DropTest(config.max_click_drop, config.click_alpha, config.min_users)
        self._latency: dict[str, _UsualLatency] = {}
        self._usual, self._tried = UserRate(), UserRate()
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self.reason: str | None = None
        """Why the canary is to be stopped."""

    @property
    def answers(self) -> int:
        """Answers that the canary was asked for."""
        return self._failed.answers

    def live_answer(self, call: str, user_id: str, item_ids: Collection[str], latency_ms: float, now_s: float) -> None:
        """Take in an answer of the live bundle to a user of the other side."""
        with self._lock:
            self._latency.setdefault(call, _UsualLatency()).add(latency_ms)
            self._show(user_id, item_ids, now_s, is_canary=False)

    def canary_answer(
        self, call: str, user_id: str, item_ids: Collection[str], latency_ms: float, now_s: float
    ) -> None:
        """Take in an answer of the canary that was sent out."""
        with self._lock:
            slow = self._is_slow(call, latency_ms)
            self._judge(self._failed.add(False), self._failed, "failed", self._config.max_failed_share)
            self._judge(self._empty.add(False), self._empty, "were empty", self._config.max_empty_share)
            if slow is not None:
                self._judge(self._slow.add(slow), self._slow, "were slow", self._config.max_slow_share)
            self._show(user_id, item_ids, now_s, is_canary=True)
            self._judge_clicks()

    def canary_failed(self, *, empty: bool = False) -> None:
        """Take in an answer in whose place the live bundle answered: it failed, or found nothing."""
        with self._lock:
            self._judge(self._failed.add(not empty), self._failed, "failed", self._config.max_failed_share)
            self._judge(self._empty.add(empty), self._empty, "were empty", self._config.max_empty_share)

    def clicked(self, user_id: str, item_ids: Sequence[str], now_s: float) -> None:
        """Take in items that a user clicked, put into the cart or bought."""
        with self._lock:
            shown = self._shown.get(user_id)
            if shown is None or shown.clicked or now_s - shown.at_s > 60 * self._config.click_minutes:
                return
            if shown.item_ids.isdisjoint(item_ids):
                return
            shown.clicked = True
            (self._tried if shown.is_canary else self._usual).add(user_id, clicks=1)
            self._judge_clicks()

    # Inside

    def _is_slow(self, call: str, latency_ms: float) -> bool | None:
        """Tell whether an answer is slow; None while it is not known what is usual."""
        usual = self._latency.get(call)
        if usual is None or usual.p95_ms is None:
            return None
        return latency_ms > max(self._config.slow_floor_ms, self._config.slow_ratio * usual.p95_ms)

    def _show(self, user_id: str, item_ids: Collection[str], now_s: float, *, is_canary: bool) -> None:
        (self._tried if is_canary else self._usual).add(user_id, answers=1)
        self._shown[user_id] = _Shown(is_canary, frozenset(item_ids), now_s)
        self._shown.move_to_end(user_id)
        if len(self._shown) > _REMEMBERED_ANSWERS:
            self._shown.popitem(last=False)

    def _judge(self, alarm: bool, found: RateAlarm, what: str, allowed: float) -> None:
        if alarm and self.reason is None:
            self.reason = f"{found.bad} of {found.answers} answers {what}, {allowed:.0%} are allowed"

    def _judge_clicks(self) -> None:
        if self.reason is None and self._clicks.is_lower(self._usual, self._tried):
            self.reason = (
                f"{self._tried.rate:.2%} of {self._tried.answers} answers were clicked, {self._usual.rate:.2%} of "
                f"{self._usual.answers} of the live bundle; a drop of {self._config.max_click_drop:.0%} is allowed"
            )
