"""A bundle answers what users asked, in a process of its own, before it goes live.

`python -m bentos.recommender.rehearsal BUNDLE_FOLDER --requests FOLDER --limit 100` opens the bundle as the service
does, asks it derived questions and the newest kept requests through the service's own answering code, and prints a
line of JSON after each step, the last one a `Rehearsal`. HTTP, keys and the feature store are left out: they are the
same for every bundle, and the features come with the kept requests.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bentos.recommender.answering.answers import Answers
from bentos.recommender.bundles.live_bundle import BUNDLE_VARIABLE, LiveBundle
from bentos.recommender.contract.requests import Body, RecommendBody, RequestError, SearchBody, SimilarBody
from pipelines.config import ServingConfig, load_config
from pipelines.errors import BundleError, HeadraceError
from pipelines.inference.bundle import Bundle
from pipelines.inference.preprocessing import UserFeatures
from pipelines.places import Places
from pipelines.pseudonyms import Pseudonymizer
from pipelines.schemas import Rehearsal
from pipelines.stores.event_log import EventLog
from pipelines.stores.online_features import UserFeatures as StoredUser
from pipelines.stores.served_requests import KnownUser, ServedRequest, read_served_requests

_BODIES: dict[str, type[Body]] = {"search": SearchBody, "recommend": RecommendBody, "similar": SimilarBody}
_ASKED = 5
_NOBODY = KnownUser(item_ids=[], event_types=[], event_times=[], activity={})
_PATIENCE_MS = 10_000.0
"""The features come from memory: a busy machine is not the bundle's fault."""


def rehearse(
    folder: Path,
    requests: Sequence[ServedRequest],
    *,
    serving: ServingConfig,
    tell: Callable[[str], None] = lambda _: None,
) -> Rehearsal:
    """Ask a bundle.

    Args:
        folder: The bundle.
        requests: What users asked; those about items that it does not have are left out.
        serving: How the service answers.
        tell: Takes a sentence after each step.

    Raises:
        BundleError: the bundle does not open, or an answer is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-rehearsal-") as name, _opened(folder, name, serving) as stage:
        tell(f"the bundle {stage.bundle.bundle_id} is open")
        checked = {
            "files": f"{len(stage.bundle.manifest.files)} files have the SHA-256 of the manifest",
            **{question: stage.ask_derived(question, *asked) for question, asked in _derived(stage.bundle).items()},
        }
        tell(f"{len(checked) - 1} derived questions were answered")
        latencies, left_out = [], 0
        for number, request in enumerate(requests, 1):
            latency_ms = stage.replay(request)
            if latency_ms is None:
                left_out += 1
            else:
                latencies.append(latency_ms)
            tell(f"{number} of {len(requests)} kept requests were asked")
        timed = latencies or stage.derived_ms
        return Rehearsal(
            checked=checked,
            replayed=len(latencies),
            left_out=left_out,
            median_ms=round(float(np.median(timed)), 3),
            p95_ms=round(float(np.percentile(timed, 95)), 3),
        )


class _Remembered:
    """The features that came with a request, in place of the online store."""

    is_shared = False

    def __init__(self) -> None:
        self.user: UserFeatures = _NOBODY

    def stamp(self, user_id: str) -> None:  # noqa: ARG002 - every request brings its own
        return None

    def read_user(self, user_id: str) -> StoredUser:  # noqa: ARG002 - whoever it is
        return StoredUser(
            item_ids=list(self.user.item_ids),
            event_types=list(self.user.event_types),
            event_times=list(self.user.event_times),
            activity=dict(self.user.activity),
        )

    def push_events(self, events: Sequence[Any]) -> dict[str, Any]:
        raise AssertionError(f"no rehearsal sends events, found {len(events)}")

    push_at_once = push_events


class _Stage:
    """The service's answers over one bundle."""

    def __init__(self, answers: Answers, bundle: Bundle, features: _Remembered) -> None:
        self._answers = answers
        self._features = features
        self.bundle = bundle
        self.derived_ms: list[float] = []

    def ask_derived(self, question: str, call: str, body: dict[str, Any]) -> str:
        """Ask what any catalogue can answer, twice: the second time is the one that counts for the time."""
        for _ in range(2):
            items, latency_ms = self._ask(question, call, {**body, "k": _ASKED}, _NOBODY)
        self.derived_ms.append(latency_ms)
        expected = min(_ASKED, max(1, int(self.bundle.available.sum()) - 1))
        if items < expected:
            raise BundleError(
                f"The bundle {self.bundle.bundle_id} answers {question} with {items} items, {expected} are needed. "
                "The live bundle stays; train another one."
            )
        return f"{items} items"

    def replay(self, request: ServedRequest) -> float | None:
        """Ask a kept request; return the time in ms, None where it is about an item that is not there any more."""
        words = f"a kept request to /{request.call}"
        try:
            items, latency_ms = self._ask(words, request.call, request.body, request.user)
        except RequestError as error:
            if error.status == 404:
                return None
            raise BundleError(f"The bundle {self.bundle.bundle_id} refuses {words}: {error}") from error
        if request.answered and not items:
            raise BundleError(
                f"The bundle {self.bundle.bundle_id} finds nothing for {words} ({json.dumps(request.body)[:200]}), the "
                f"live one found {request.answered} items. The live bundle stays; train another one."
            )
        return latency_ms

    def _ask(self, words: str, call: str, body: dict[str, Any], user: KnownUser | None) -> tuple[int, float]:
        self._features.user = user or _NOBODY
        asked = body if user is None or call == "similar" else {**body, "user_id": "somebody"}
        parsed = _BODIES[call].model_validate(asked)
        began = time.perf_counter()
        answer = getattr(self._answers, call)(parsed)
        latency_ms = 1e3 * (time.perf_counter() - began)
        orjson.dumps(answer)
        if answer["degraded"]:
            raise BundleError(
                f"The bundle {self.bundle.bundle_id} cannot answer {words} ({'; '.join(answer['degraded_because'])}). "
                "The live bundle stays; train another one."
            )
        return len(answer["items"]), latency_ms


@contextmanager
def _opened(folder: Path, scratch: str, serving: ServingConfig) -> Iterator[_Stage]:
    places, features = Places(Path(scratch)), _Remembered()
    live = LiveBundle(places, {BUNDLE_VARIABLE: str(folder)})
    answers = Answers(
        live=live,
        features=features,
        event_log=EventLog(places.event_log),
        pseudonymizer=Pseudonymizer(secrets.token_bytes(32)),
        serving=serving.model_copy(update={"feature_timeout_ms": max(serving.feature_timeout_ms, _PATIENCE_MS)}),
        now=lambda: datetime.now(UTC),
    )
    try:
        answers.warm_up()
        yield _Stage(answers, live.current.bundle, features)
    finally:
        answers.close()


def _derived(bundle: Bundle) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return questions that every catalogue can answer: about its most popular item."""
    row = int(np.argmax(np.where(bundle.available, bundle.popularity, -1.0)))
    title, item_id = bundle.display[row]["title"], bundle.item_ids[row]
    return {
        f"search {title!r}": ("search", {"query": title[:500]}),
        "recommend to a stranger": ("recommend", {}),
        f"recommend after {item_id}": ("recommend", {"seed_items": [item_id]}),
        f"similar to {item_id}": ("similar", {"item_id": item_id}),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse as the command line says; the exit code is 0 where all is well, 3 where the bundle is refused."""
    parser = argparse.ArgumentParser(prog="rehearsal")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--limit", type=int, required=True)
    chosen = parser.parse_args(arguments)

    def tell(sentence: str) -> None:
        sys.stdout.write(json.dumps({"done": sentence}) + "\n")
        sys.stdout.flush()

    requests = read_served_requests(chosen.requests, limit=chosen.limit) if chosen.limit else ()
    try:
        found = rehearse(chosen.bundle, requests, serving=load_config().serving, tell=tell)
    except HeadraceError as error:
        sys.stdout.write(json.dumps({"refused": str(error)}) + "\n")
        return 3
    sys.stdout.write(found.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
