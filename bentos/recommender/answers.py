"""What the service answers, apart from HTTP: who asks, which bundle answers, who learns of it, and what goes out."""

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bentos.recommender.catching_up import CatchingUp
from bentos.recommender.current_request import remaining_s, request_id
from bentos.recommender.event_intake import EventIntake
from bentos.recommender.finding import Find, Finder, Found, require_items, sound, timed
from bentos.recommender.item_intake import ItemIntake
from bentos.recommender.live_bundle import LiveBundle, Serving
from bentos.recommender.requests import (
    AnswerBody,
    Body,
    DeleteItemBody,
    EventsBody,
    ItemsBody,
    RecommendBody,
    ReloadBody,
    RequestError,
    SearchBody,
    SimilarBody,
)
from bentos.recommender.stopwatch import Stopwatch
from bentos.recommender.trials import Canary, ShadowQuestion, Trials
from bentos.recommender.user_states import FeatureAnswer, OnlineFeatureStore, UserStates
from pipelines.config import ServingConfig, ValidationConfig
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.event_log import EventLogStore
from pipelines.stores.served_features import ServedFeaturesLog
from pipelines.stores.served_requests import Call, ServedRequestsLog

_CLICKS = frozenset({"click", "view", "cart", "purchase"})
"""What counts as a click on an item that was shown."""
_logger = logging.getLogger("headrace.serving")


class Answers:
    """The calls of the service; each takes a parsed body and returns what goes out as JSON."""

    def __init__(
        self,
        *,
        live: LiveBundle,
        features: OnlineFeatureStore,
        event_log: EventLogStore,
        pseudonymizer: Pseudonymizer,
        serving: ServingConfig,
        served: ServedFeaturesLog | None = None,
        requests: ServedRequestsLog | None = None,
        trials: Trials | None = None,
        catching_up: Callable[[UserStates], CatchingUp] | None = None,
        validation: ValidationConfig | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take what was opened.

        Args:
            served: Keeps a sample of the features that were used; None keeps none.
            requests: Keeps a sample of the requests; None keeps none.
            trials: The bundles that are tried beside the live one; None tries none.
            catching_up: Makes what pushes the events of the log that the feature store lacks; None pushes none.
            validation: What an item must look like; None means the production defaults.
        """
        self.serving = serving
        self._served = served
        self._requests = requests
        self._trials = trials
        self._live = live
        self._users = UserStates(features, serving, clock=lambda: now().timestamp())
        self._pseudonymizer = pseudonymizer
        self._finder = Finder(serving)
        self._intake = EventIntake(
            event_log=event_log,
            users=self._users,
            pseudonymizer=pseudonymizer,
            max_events=serving.max_events,
        )
        self._item_intake = ItemIntake(
            log=live.item_log,
            changed=live.items_changed,
            max_items=serving.max_items,
            validation=validation or ValidationConfig(),
        )
        self._now = now
        self._catching_up = catching_up(self._users) if catching_up is not None else None

    @property
    def model_version(self) -> str:
        """Id of the bundle that answers now."""
        return self._live.current.bundle.bundle_id

    def warm_up(self) -> None:
        """Take every path of an answer once, so that the first request is as quick as the next.

        Raises:
            StoreError: the feature store does not answer; everything else is warm then.
        """
        self._warm_up_bundle()
        self._users.warm_up()

    def _warm_up_bundle(self) -> None:
        """Ask the bundle; apart, because a library that keeps the frames above its import would keep the bundle."""
        self._finder.warm_up(self._live.current, self._now().timestamp())

    def start(self) -> None:
        """Begin to push the events of the log that the feature store lacks."""
        if self._catching_up is not None:
            self._catching_up.start()

    def close(self) -> None:
        """Stop the background work."""
        self._live.close()
        for part in (self._catching_up, self._users, self._trials, self._served, self._requests):
            if part is not None:
                part.close()

    def must_wait(self, body: Body) -> bool:
        """Whether an answer to this call has to wait for the feature store; the event loop must not, then."""
        raw_user_id = body.user_id if isinstance(body, SearchBody | RecommendBody) else None
        return raw_user_id is not None and self._users.fresh(self._pseudonymizer.pseudonym(raw_user_id)) is None

    def search(self, body: SearchBody) -> dict[str, Any]:
        """Items for a query, best first."""
        query = body.query.strip()
        if not any(character.isprintable() and not character.isspace() for character in query):
            raise RequestError(422, "`query` is empty: send the words to search for.")
        limit = self.serving.max_query_characters
        if len(query) > limit:
            raise RequestError(
                422, f"`query` has {len(query):,} characters, at most {limit:,} are allowed: shorten it."
            )
        k = self._items_wanted(body)
        watch = Stopwatch()
        user_id, user = self._known(body.user_id)
        watch.lap("features")
        return self._answer(
            "search",
            body,
            user_id,
            user,
            watch,
            lambda serving: self._finder.search(
                serving, query, k=k, body=body, user=user, now_s=self._now().timestamp(), watch=watch
            ),
        )

    def recommend(self, body: RecommendBody) -> dict[str, Any]:
        """Items for a user, best first; popular ones for a stranger."""
        k = self._items_wanted(body)
        watch = Stopwatch()
        require_items(self._live.current, body)
        user_id, user = self._known(body.user_id)
        watch.lap("features")
        return self._answer(
            "recommend",
            body,
            user_id,
            user,
            watch,
            lambda serving: self._finder.recommend(serving, k=k, body=body, user=user, now_s=self._now().timestamp()),
        )

    def similar(self, body: SimilarBody) -> dict[str, Any]:
        """Items like an item, or bought with it."""
        k = self._items_wanted(body)
        nobody = FeatureAnswer(None)
        return self._answer(
            "similar", body, None, nobody, Stopwatch(), lambda serving: self._finder.similar(serving, k=k, body=body)
        )

    def events(self, body: EventsBody) -> dict[str, Any]:
        """Keep events: on disk first, then in the users' histories."""
        now = self._now()
        kept = self._intake.keep(body, now)
        self._count_clicks(kept.events, now)
        return {
            "accepted": len(kept.events),
            **self._common(self._live.current, [kept.problem] if kept.problem else []),
        }

    def put_items(self, body: ItemsBody) -> dict[str, Any]:
        """Take items as they are now, new ones and known ones: on disk first, in every answer within a second."""
        return {"accepted": self._item_intake.put(body), **self._common(self._live.current, [])}

    def delete_item(self, body: DeleteItemBody) -> dict[str, Any]:
        """Take an item out of every answer within a second; one that is not there is no error."""
        return {"accepted": self._item_intake.delete(body), **self._common(self._live.current, [])}

    def reload(self, body: ReloadBody) -> dict[str, Any]:  # noqa: ARG002 - as all calls
        """Take over the deployed bundle now, also one that was refused before."""
        if not self._live.follows:
            raise RequestError(
                409, "This server answers from the bundle that it was started with: deploy another one where it runs."
            )
        return {"changed": self._live.reload(), **self._common(self._live.current, [])}

    # Which bundle answers, and who learns of it

    def _answer(
        self, call: Call, body: AnswerBody, user_id: str | None, user: FeatureAnswer, watch: Stopwatch, find: Find
    ) -> dict[str, Any]:
        canary = self._trials.canary_for(user_id) if self._trials is not None else None
        found = self._by_canary(canary, call, user_id, find) if canary is not None and user_id is not None else None
        if found is None:
            found = self._by_live(call, user_id, find, has_canary=canary is not None)
        watch.lap("rank")
        if self._requests is not None:
            asked = body.model_dump(mode="json", exclude_unset=True, exclude={"timings"})
            answered = len(found.ranking.rows)
            self._requests.offer(call, asked, user.features, answered=answered, now=self._now())
        return self._as_json(found, body, watch, [why for why in (user.problem, found.problem) if why])

    def _by_live(self, call: Call, user_id: str | None, find: Find, *, has_canary: bool) -> Found:
        """Answer from the live bundle; the guard of a canary and the shadow learn of it."""
        found = timed(find, self._live.current)
        if self._trials is None:
            return found
        now = self._now()
        canary = self._trials.canary
        if canary is not None and user_id is not None and not has_canary:
            canary.guard.live_answer(call, user_id, found.item_ids, found.latency_ms, now.timestamp())
            self._trials.stop_if_bad(canary)
        if self._trials.shadow is not None:
            question = ShadowQuestion(
                call=call,
                live=found.serving.bundle.bundle_id,
                live_items=found.item_ids,
                live_ms=found.latency_ms,
                ask=lambda serving: sound(find(serving)).item_ids,
                now=now,
            )
            self._trials.ask_shadow(question, random.random())  # noqa: S311 - a sample, not a secret
        return found

    def _by_canary(self, canary: Canary, call: Call, user_id: str, find: Find) -> Found | None:
        """Answer from the canary; None where it fails or finds nothing, which its guard learns."""
        assert self._trials is not None  # noqa: S101 - it gave the canary
        if canary.serving.bundle.bundle_id == self._live.current.bundle.bundle_id:
            return None  # promoted meanwhile
        try:
            found = timed(find, canary.serving)
            is_sound = found.problem is None
        except RequestError:  # about an item that the canary does not have: not its fault, nor a failure
            return None
        except Exception:
            _logger.exception("The canary %s failed", canary.trial.bundle)
            found, is_sound = None, False
        if found is None or not is_sound or not len(found.ranking.rows):
            instead = find(self._live.current)  # raises what is wrong with the request itself
            if not is_sound and instead.problem is None:
                canary.guard.canary_failed()
            elif is_sound and len(instead.ranking.rows):
                canary.guard.canary_failed(empty=True)
            self._trials.stop_if_bad(canary)
            return instead
        try:
            canary.guard.canary_answer(call, user_id, found.item_ids, found.latency_ms, self._now().timestamp())
            self._trials.stop_if_bad(canary)
        except Exception:  # an answer that is there is sent, whatever its guard makes of it
            _logger.exception("The guard of the canary %s failed", canary.trial.bundle)
        return found

    def _count_clicks(self, events: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Tell the guard of a canary what users did with what they were shown."""
        canary = self._trials.canary if self._trials is not None else None
        if canary is None or self._trials is None:
            return
        clicked: dict[str, list[str]] = {}
        for event in events:
            if event["event_type"] in _CLICKS:
                clicked.setdefault(event["user_id"], []).append(event["item_id"])
        for user_id, item_ids in clicked.items():
            canary.guard.clicked(user_id, item_ids, now.timestamp())
        self._trials.stop_if_bad(canary)

    def _known(self, raw_user_id: str | None) -> tuple[str | None, FeatureAnswer]:
        """Return the pseudonym and the features of a user, a sample of which is kept for the skew audit."""
        if raw_user_id is None:
            return None, FeatureAnswer(None)
        user_id = self._pseudonymizer.pseudonym(raw_user_id)
        answer = self._users.read(user_id, within_s=remaining_s())
        if self._served is not None and answer.features is not None and answer.source != "session":
            self._served.offer(user_id, answer.features, bundle=self.model_version, now=self._now())
        return user_id, answer

    def _items_wanted(self, body: AnswerBody) -> int:
        limit = self.serving.max_k
        if body.k > limit and "k" in body.model_fields_set:
            raise RequestError(422, f"`k` is {body.k:,}, at most {limit:,} is allowed: ask for fewer items.")
        return min(body.k, limit)

    def _as_json(self, found: Found, body: AnswerBody, watch: Stopwatch, problems: list[str]) -> dict[str, Any]:
        display, ranking = found.serving.bundle.display, found.ranking
        items = [
            {**display[row], "score": round(float(score), 6)}
            for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)
            if math.isfinite(score)
        ]
        answer = {"items": items, "personalized": ranking.personalized, **self._common(found.serving, problems)}
        if body.timings:
            answer["timings_ms"] = watch.total()
        return answer

    @staticmethod
    def _common(serving: Serving, problems: list[str]) -> dict[str, Any]:
        common: dict[str, Any] = {
            "request_id": request_id(),
            "model_version": serving.bundle.bundle_id,
            "degraded": bool(problems),
        }
        if problems:
            common["degraded_because"] = problems
        return common
