"""What the service answers, apart from HTTP: who asks, who learns of it, and what goes out."""

import logging
import math
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bentos.recommender.answering.arranging import Asked
from bentos.recommender.answering.bundle_choice import BundleChoice
from bentos.recommender.answering.cursors import BEGINNING, Cursors, bundle_mark
from bentos.recommender.answering.explaining import Explainer, Remembered
from bentos.recommender.answering.finding import Finder, Found, filters_of, require_items
from bentos.recommender.answering.following import Following
from bentos.recommender.answering.live_rules import LiveRules
from bentos.recommender.answering.preparing import Preparing
from bentos.recommender.answering.shared_explanations import SharedExplanations
from bentos.recommender.bundles.item_intake import ItemIntake
from bentos.recommender.bundles.live_bundle import LiveBundle
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.bundles.trials import Trials
from bentos.recommender.contract.requests import (
    AnswerBody,
    Body,
    DeleteItemBody,
    EventsBody,
    ExplainBody,
    ItemsBody,
    RecommendBody,
    ReloadBody,
    RequestError,
    SearchBody,
    SimilarBody,
)
from bentos.recommender.current_request import remaining_s, request_id
from bentos.recommender.telemetry import metrics
from bentos.recommender.telemetry.stopwatch import Stopwatch
from bentos.recommender.users.catching_up import CatchingUp
from bentos.recommender.users.event_intake import EventIntake
from bentos.recommender.users.user_states import FeatureAnswer, OnlineFeatureStore, UserStates
from pipelines.config import ServingConfig, ValidationConfig
from pipelines.pseudonyms import Pseudonymizer
from pipelines.stores.event_log import EventLogStore
from pipelines.stores.served_features import ServedFeaturesLog
from pipelines.stores.served_requests import Call, ServedRequestsLog
from pipelines.stores.shown_lists import ShownListsLog

_NOT_KEPT = {"timings", "cursor", "rules", "context"}
"""Fields of a body that say nothing about how a bundle answers, or whatever a caller puts there."""
_just_known: ContextVar[tuple[str, str, FeatureAnswer] | None] = ContextVar("headrace_just_known", default=None)
"""Raw id, pseudonym and features of the user of this request, from asking whether it must wait; it is answered then."""
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
        shown: ShownListsLog | None = None,
        trials: Trials | None = None,
        catching_up: Callable[[UserStates], CatchingUp] | None = None,
        validation: ValidationConfig | None = None,
        workers: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take what was opened.

        Args:
            served: Keeps a sample of the features that were used; None keeps none.
            requests: Keeps a sample of the requests; None keeps none.
            shown: Keeps what was shown, with propensities; None keeps nothing.
            trials: The bundles that are tried beside the live one; None tries none.
            catching_up: Makes what pushes the events of the log that the feature store lacks; None pushes none.
            validation: What an item must look like; None means the production defaults.
            workers: Where the processes of this machine find each other; None: this one is alone.
        """
        self.serving = serving
        self._served = served
        self._requests = requests
        self._shown = shown
        self._dropped_lists = 0
        self._cursors = Cursors(pseudonymizer.derived_key("cursors"))
        self._trials = trials
        self._live = live
        self._choice = BundleChoice(live, trials, now)
        self._users = UserStates(features, serving, clock=lambda: now().timestamp())
        self._pseudonymizer = pseudonymizer
        self._preparing = Preparing(live, serving, now=now)
        self._users.changed = self._preparing.changed
        self._finder = Finder(serving)
        self._explainer = Explainer(self._finder, serving)
        self._explanations = SharedExplanations(self._explainer, lambda: live.current, workers)
        self._following = Following(
            self._users, has_others=lambda: self._explanations.has_others, most_users=serving.prepared_ahead
        )
        live.prepare = self.rules.of
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

    @property
    def rules(self) -> LiveRules:
        """The business rules that hold now."""
        return self._finder.arranger.rules

    def warm_up(self) -> None:
        """Take every path of an answer once, so that the first request is as quick as the next.

        Raises:
            StoreError: the feature store does not answer; everything else is warm then.
        """
        self.rules.start()
        self._warm_up_bundle()
        self._users.warm_up()

    def _warm_up_bundle(self) -> None:
        """Ask the bundle; apart, because a library that keeps the frames above its import would keep the bundle."""
        self._finder.warm_up(self._live.current, self._now().timestamp())

    def start(self) -> None:
        """Begin to push the events of the log that the feature store lacks, and to answer the other processes."""
        if self._catching_up is not None:
            self._catching_up.start()
        self._explanations.start()
        self._following.start()

    def close(self) -> None:
        """Stop the background work."""
        self._live.close()
        self.rules.close()
        self._following.close()
        self._preparing.close()
        self._explanations.close()
        for part in (self._catching_up, self._users, self._trials, self._served, self._requests, self._shown):
            if part is not None:
                part.close()

    def give_way(self, is_busy: Callable[[], bool]) -> None:
        """Leave what can be done before anybody asks for it to the moments when that says that no request is there."""
        self._preparing.give_way(is_busy)
        self._following.give_way(is_busy)

    def must_wait(self, body: Body) -> bool:
        """Whether an answer to this call takes long or has to wait for the feature store; the event loop must not."""
        if isinstance(body, ExplainBody):
            return True
        raw_user_id = body.user_id if isinstance(body, SearchBody | RecommendBody) else None
        if raw_user_id is None:
            return False
        user_id = self._pseudonymizer.pseudonym(raw_user_id)
        fresh = self._users.fresh(user_id)
        _just_known.set(None if fresh is None else (raw_user_id, user_id, fresh))
        return fresh is None

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
        return self._answer(self._asked("search", body, query=query), body, body.user_id)

    def recommend(self, body: RecommendBody) -> dict[str, Any]:
        """Items for a user, best first; popular ones for a stranger."""
        asked = self._asked("recommend", body, seed_items=tuple(body.seed_items))
        require_items(self._live.current, asked.seed_items)
        return self._answer(asked, body, body.user_id)

    def similar(self, body: SimilarBody) -> dict[str, Any]:
        """Items like an item, or bought with it."""
        about = {"item_id": body.item_id, "kind": body.kind, "other_categories": body.other_categories}
        return self._answer(self._asked("similar", body, **about), body, None)

    def explain(self, body: ExplainBody) -> dict[str, Any]:
        """Why an answer shows what it shows, or why a user is or is not shown an item."""
        if body.request_id is not None:
            explanation = self._explanations.of_request(body.request_id, body.item_id)
        elif body.item_id is None or (body.user_id is None and body.query is None):
            raise RequestError(
                422, "An explanation needs `request_id`, or `item_id` with `user_id`, `query` or both: add them."
            )
        else:
            user_id, user = self._known(body.user_id)
            asked = Asked(
                request_id="",
                call="recommend" if body.query is None else "search",
                k=self.serving.explained_k,
                now_s=self._now().timestamp(),
                query=body.query,
            )
            explanation = self._explainer.of_item(self._choice.serving_of(user_id), asked, user, body.item_id)
        return {**explanation, "request_id": request_id()}

    def events(self, body: EventsBody) -> dict[str, Any]:
        """Keep events: on disk first, then in the users' histories."""
        now = self._now()
        kept = self._intake.keep(body, now)
        self._choice.count_clicks(kept.events, now)
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
        changed = self._live.reload()
        if (refused := self._live.refused) is not None:
            raise RequestError(409, f"Bundle {self.model_version} goes on answering: {refused}")
        return {"changed": changed, **self._common(self._live.current, [])}

    # Inside

    def _answer(self, asked: Asked, body: AnswerBody, raw_user_id: str | None) -> dict[str, Any]:
        call, watch = asked.call, Stopwatch()
        user_id, user = self._known(raw_user_id)
        watch.lap("features")

        def find(serving: Serving) -> Found:
            return self._finder.find(serving, asked, user, watch)

        found = self._choice.ask(call, user_id, find)
        watch.lap("rank")
        if self._requests is not None and self._requests.falls_into_sample():
            question = body.model_dump(mode="json", exclude_unset=True, exclude=_NOT_KEPT)
            answered = len(found.ranking.rows)
            self._requests.offer(call, question, user.features, answered=answered, now=self._now())
        index = found.serving.bundle.vector_index
        problems = [why for why in (user.problem, found.problem, index.problem) if why]
        try:
            self._explainer.remember(Remembered.of(asked, user, found, problems))
            self._keep_shown(asked, user_id, found, problems)
        except Exception:  # an answer that is there is sent, whatever becomes of its traces
            _logger.exception("An answer was not noted")
        return self._as_json(asked, found, body, watch, problems)

    def _keep_shown(self, asked: Asked, user_id: str | None, found: Found, problems: list[str]) -> None:
        """Log what is shown, with propensities."""
        ranking, arranged = found.ranking, found.arranged
        if arranged is not None and arranged.explored:
            metrics.EXPLORED_SLOTS.inc(len(arranged.explored))
        if self._shown is None:
            return
        self._shown.offer(
            now=self._now(),
            request_id=asked.request_id,
            user_id=user_id,
            call=asked.call,
            bundle=found.serving.bundle.bundle_id,
            first_position=asked.position.n_shown + 1,
            item_ids=found.item_ids,
            scores=ranking.scores,
            propensities=arranged.propensities if arranged is not None else None,
            parts=ranking.parts,
            rules=arranged.rules if arranged is not None else (),
            seed=asked.seed,
            degraded=bool(problems),
        )
        if (dropped := self._shown.dropped) > self._dropped_lists:
            metrics.DROPPED_LISTS.inc(dropped - self._dropped_lists)
            self._dropped_lists = dropped

    def _known(self, raw_user_id: str | None) -> tuple[str | None, FeatureAnswer]:
        """Return the pseudonym and the features of a user, a sample of which is kept for the skew audit."""
        if raw_user_id is None:
            return None, FeatureAnswer(None)
        known = _just_known.get()
        _just_known.set(None)
        if known is not None and known[0] == raw_user_id:
            user_id, answer = known[1], self._users.read(known[1], fresh=known[2])
        else:
            user_id = self._pseudonymizer.pseudonym(raw_user_id)
            answer = self._users.read(user_id, within_s=remaining_s())
        if self._served is not None and answer.features is not None and answer.source != "session":
            self._served.offer(user_id, answer.features, bundle=self.model_version, now=self._now())
        return user_id, answer

    def _asked(self, call: Call, body: AnswerBody, **about: Any) -> Asked:
        """Return what is asked for, and from where on.

        Raises:
            RequestError: 422, `k` is too large, or the cursor is not one for this question.
        """
        k, position = self._items_wanted(body), BEGINNING
        if body.cursor is not None:
            position = self._cursors.read(body.cursor, self._cursors.question(call, body))
        return Asked(
            request_id=request_id(),
            call=call,
            k=max(0, min(k, self.serving.max_depth - position.n_shown)),
            now_s=self._now().timestamp(),
            position=position,
            filters=filters_of(body),
            context=body.context,
            seed=uuid.uuid4().hex if self._finder.arranger.explores(call) else None,
            **about,
        )

    def _items_wanted(self, body: AnswerBody) -> int:
        limit = self.serving.max_k
        if body.k > limit and "k" in body.model_fields_set:
            raise RequestError(422, f"`k` is {body.k:,}, at most {limit:,} is allowed: ask for fewer items.")
        return min(body.k, limit)

    def _as_json(
        self, asked: Asked, found: Found, body: AnswerBody, watch: Stopwatch, problems: list[str]
    ) -> dict[str, Any]:
        ranking, arranged = found.ranking, found.arranged
        answer = {
            "items": self._items(found, with_propensity=asked.seed is not None, with_rules=body.rules),
            "personalized": ranking.personalized,
            **self._common(found.serving, problems, asked.request_id),
            **self._paging(asked, found, body),
        }
        if body.rules:
            answer["rules"] = list(arranged.rules) if arranged is not None else []
        if body.timings:
            answer["timings_ms"] = watch.total()
        return answer

    @staticmethod
    def _items(found: Found, *, with_propensity: bool, with_rules: bool) -> list[dict[str, Any]]:
        display, ranking, arranged = found.serving.bundle.display, found.ranking, found.arranged
        items = []
        for place, (row, score) in enumerate(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)):
            if not math.isfinite(score):
                continue
            item = {**display[row], "score": round(float(score), 6)}
            if with_propensity:
                item["propensity"] = arranged.propensities[place] if arranged is not None else 1.0
            if with_rules:
                item["rules"] = arranged.rules_of(row) if arranged is not None else []
            items.append(item)
        return items

    def _paging(self, asked: Asked, found: Found, body: AnswerBody) -> dict[str, Any]:
        """Return the cursor of the next page, where there may be one, and where this page stands."""
        paging: dict[str, Any] = {}
        bundle_id, before = found.serving.bundle.bundle_id, asked.position
        n_shown = before.n_shown + len(found.ranking.rows)
        if found.more and len(found.ranking.rows) and n_shown < self.serving.max_depth:
            question = self._cursors.question(asked.call, body)
            paging["cursor"] = self._cursors.write(question, bundle_id, before, found.item_ids)
        if before.bundle is not None:
            paging["page"] = {
                "first_position": before.n_shown + 1,
                "bundle_changed": before.bundle != bundle_mark(bundle_id),
            }
        return paging

    @staticmethod
    def _common(serving: Serving, problems: list[str], answer_id: str | None = None) -> dict[str, Any]:
        common: dict[str, Any] = {
            "request_id": answer_id or request_id(),
            "model_version": serving.bundle.bundle_id,
            "degraded": bool(problems),
        }
        if problems:
            common["degraded_because"] = problems
        return common
