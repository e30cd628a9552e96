"""The bundles that are tried beside the live one: a canary that answers some users, a shadow that only is asked."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bentos.recommender.bundles.serving import Serving, open_serving
from bentos.recommender.file_stamp import file_stamp
from pipelines.config import CanaryConfig, ShadowConfig
from pipelines.errors import HeadraceError
from pipelines.places import Places
from pipelines.rollout.assignment import is_assigned
from pipelines.rollout.guard import CanaryGuard
from pipelines.rollout.plan import CanaryStop, RolloutPlan, Trial
from pipelines.stores.item_log import ItemLog
from pipelines.stores.rollout_file import read_plan, read_stop, write_stop
from pipelines.stores.shadow_answers import ShadowAnswersLog

_WATCH_INTERVAL_S = 0.5
_CLOSE_TIMEOUT_S = 5.0
_logger = logging.getLogger("headrace.serving")


@dataclass(frozen=True)
class Canary:
    """A bundle that answers a share of the users."""

    trial: Trial
    serving: Serving
    guard: CanaryGuard


@dataclass(frozen=True)
class Shadow:
    """A bundle that is asked a share of the requests."""

    trial: Trial
    serving: Serving


@dataclass(frozen=True)
class ShadowQuestion:
    """A request that was answered, to be asked again."""

    call: str
    live: str
    """The bundle that answered."""
    live_items: Sequence[str]
    live_ms: float
    ask: Callable[[Serving], Sequence[str]]
    """Returns the item ids of another bundle's answer, best first."""
    now: datetime


class Trials:
    """Follows the plan of the rollout and holds what it names. Nothing here fails or delays a request."""

    def __init__(
        self,
        places: Places,
        canary: CanaryConfig,
        shadow: ShadowConfig,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.canary: Canary | None = None
        self.shadow: Shadow | None = None
        self.dropped = 0
        """Requests that the shadow was not asked, because it was behind."""
        self._places = places
        self._canary_config = canary
        self._shadow_config = shadow
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._plan = RolloutPlan()
        self._stopped: queue.SimpleQueue[Canary] = queue.SimpleQueue()
        self._questions: queue.Queue[ShadowQuestion | None] = queue.Queue(shadow.queue_size)
        self._answers: ShadowAnswersLog | None = None
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, name="trials-watch", daemon=True),
            threading.Thread(target=self._ask_on, name="shadow", daemon=True),
        ]

    def start(self) -> None:
        """Begin to follow the plan."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; what waits for the shadow is not asked any more."""
        self._over.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_CLOSE_TIMEOUT_S)
        self._keep_stops()
        if self._answers is not None:
            self._answers.close()

    def names(self) -> dict[str, str | None]:
        """Return the bundles that are tried, for the status."""
        canary, shadow = self.canary, self.shadow
        return {
            "canary": canary.trial.bundle if canary else None,
            "shadow": shadow.trial.bundle if shadow else None,
        }

    def canary_for(self, user_id: str | None) -> Canary | None:
        """Return the canary if it is to answer this user (a pseudonym)."""
        canary = self.canary
        if canary is None or user_id is None or not is_assigned(user_id, canary.trial.id, canary.trial.share):
            return None
        return canary

    def stop_if_bad(self, canary: Canary) -> None:
        """Take the canary out at once if its guard says so; why is written in the background."""
        current = self.canary
        if canary.guard.reason is not None and current is not None and current.guard is canary.guard:
            self.canary = None
            self._stopped.put(canary)

    def ask_shadow(self, question: ShadowQuestion, chance: float) -> None:
        """Have the shadow asked in the background, if the request belongs to its share and there is room.

        Args:
            chance: A draw from [0, 1).
        """
        shadow = self.shadow
        if shadow is None or chance >= shadow.trial.share or shadow.trial.bundle == question.live:
            return
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            self.dropped += 1

    def refresh(self) -> None:
        """Take over the plan, if it is another one, and leave out what was stopped."""
        self._keep_stops()
        stamp = file_stamp(self._places.rollout)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._plan = read_plan(self._places.rollout)
            except HeadraceError as error:
                _logger.error("%s", error)
                self._plan = RolloutPlan()
            self._take_shadow(self._plan.shadow)
            self._take_canary(self._plan.canary)
        canary = self.canary
        if canary is not None and self._is_stopped(canary.trial):
            self.canary = None
        self._follow_items()

    # Inside

    def _follow_items(self) -> None:
        """Take over what the item log says; half a second later than the live bundle at most."""
        canary, shadow = self.canary, self.shadow
        if canary is not None and (newest := canary.serving.newest()) is not canary.serving and self.canary is canary:
            self.canary = replace(canary, serving=newest)
        if shadow is None:
            return
        shared = self.canary
        if shared is not None and shared.serving.items is shadow.serving.items:
            self.shadow = replace(shadow, serving=shared.serving)
        elif (newest := shadow.serving.newest()) is not shadow.serving:
            self.shadow = replace(shadow, serving=newest)

    def _take_canary(self, wanted: Trial | None) -> None:
        before = self.canary
        if wanted is None or self._is_stopped(wanted):
            self.canary = None
        elif before is not None and before.trial.id == wanted.id:
            self.canary = Canary(wanted, before.serving, before.guard)
        elif (serving := self._open(wanted, "canary")) is not None:
            self.canary = Canary(wanted, serving, CanaryGuard(self._canary_config))
            _logger.warning("Bundle %s answers %.1f %% of the users", wanted.bundle, 100 * wanted.share)
        else:
            self.canary = None

    def _take_shadow(self, wanted: Trial | None) -> None:
        before = self.shadow
        if wanted is None:
            self.shadow = None
        elif before is not None and before.trial.bundle == wanted.bundle:
            self.shadow = Shadow(wanted, before.serving)
        elif (serving := self._open(wanted, "shadow")) is not None:
            if self._answers is None:
                self._answers = ShadowAnswersLog(self._places.shadow_answers, keep_days=self._shadow_config.keep_days)
            self.shadow = Shadow(wanted, serving)
            _logger.warning("Bundle %s is asked %.1f %% of the requests", wanted.bundle, 100 * wanted.share)
        else:
            self.shadow = None

    def _open(self, wanted: Trial, role: str) -> Serving | None:
        """Open a bundle; one that is open already is not opened again."""
        for other in (self.shadow, self.canary):
            if other is not None and other.trial.bundle == wanted.bundle:
                return other.serving
        try:
            return open_serving(
                self._places.bundles / wanted.bundle, self._places.new_items, ItemLog(self._places.item_log)
            )[0]
        except (HeadraceError, OSError) as error:
            _logger.error("The %s %s is not tried: %s", role, wanted.bundle, error)
        if role == "canary":
            self._write_stop(wanted, "the bundle cannot be opened", 0)
        return None

    def _is_stopped(self, trial: Trial) -> bool:
        try:
            return read_stop(self._places.canary_stops, trial.id) is not None
        except HeadraceError as error:
            _logger.error("%s", error)
            return True

    def _keep_stops(self) -> None:
        while True:
            try:
                canary = self._stopped.get_nowait()
            except queue.Empty:
                return
            reason = canary.guard.reason or ""
            _logger.error("The canary %s was stopped: %s", canary.trial.bundle, reason)
            self._write_stop(canary.trial, reason, canary.guard.answers)

    def _write_stop(self, trial: Trial, reason: str, answers: int) -> None:
        stop = CanaryStop(id=trial.id, bundle=trial.bundle, stopped_at=self._clock(), reason=reason, answers=answers)
        try:
            write_stop(self._places.canary_stops, stop)
        except OSError as error:
            _logger.error("Why the canary %s was stopped cannot be written: %s", trial.bundle, error)

    def _watch(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception:  # the watch must survive what it did not expect
                _logger.exception("The plan of the rollout was not followed")
            if self._over.wait(_WATCH_INTERVAL_S):
                return

    def _ask_on(self) -> None:
        while not self._over.is_set():
            try:
                question = self._questions.get(timeout=_WATCH_INTERVAL_S)
            except queue.Empty:
                continue
            shadow = self.shadow
            if shadow is None or question is None or self._answers is None:
                continue
            busy_s = self._ask(shadow, question, self._answers)
            del shadow  # held while it waits, its memory could not be given back
            share = self._shadow_config.max_busy_share
            self._over.wait(busy_s * (1 - share) / share)

    def _ask(self, shadow: Shadow, question: ShadowQuestion, answers: ShadowAnswersLog) -> float:
        """Ask the shadow and keep both lists; returns the seconds it took."""
        began, items, problem = time.perf_counter(), list[str](), ""
        try:
            items = list(question.ask(shadow.serving))
        except Exception as error:  # noqa: BLE001 - whatever it raises, it is what the next gate wants to know
            problem = f"{type(error).__name__}: {error}"[:300]
        took_s = time.perf_counter() - began
        answers.offer(
            now=question.now,
            call=question.call,
            live=question.live,
            shadow=shadow.trial.bundle,
            live_items=question.live_items,
            shadow_items=items,
            live_ms=question.live_ms,
            shadow_ms=1e3 * took_s,
            error=problem,
        )
        return took_s
