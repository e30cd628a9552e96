"""The BentoML service: one process answers searches and recommendations from a bundle and the online features.

It imports NumPy, ONNX Runtime, Feast and no torch. `headrace serve` checks the surroundings first and tells what is
missing in one line; `bentoml serve bentos.recommender.service:Recommender` starts it directly.
"""

import gc
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml
from _bentoml_sdk import Service

from bentos.recommender.http.api import Api, ASGIApp
from bentos.recommender.http.callers import API_KEY_VARIABLE, Callers
from bentos.recommender.http.connections import limit_connections
from bentos.recommender.telemetry.logs import write_logs
from pipelines.errors import HeadraceError, StoreError

if TYPE_CHECKING:
    from bentos.recommender.answering.answers import Answers
    from bentos.recommender.telemetry.traces import Traces
    from pipelines.config import ServingConfig

_PARENT_WATCH_INTERVAL_S = 1.0
_SWITCH_INTERVAL_S = 0.0005
_COLLECTIONS = (500, 1, 10_000)
"""Thresholds of the garbage collector: full collections, which take 20 ms and more where many users are known, come a
hundred times as rarely as by default; those of what is a little older often, as ten at once take up to 8 ms."""
_PARENT_VARIABLE = "HEADRACE_SERVER_PROCESS"
"""Tells workers which process starts them; set by that process."""
if _PARENT_VARIABLE in os.environ:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it

api = Api()


class FrontedService(Service):  # type: ignore[misc]
    """A BentoML service with our application in front: its middlewares cost each request 2 to 3 ms of CPU."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the application that a worker runs; BentoML asks for it once per process, before it listens."""
        limit_connections(api)
        api.behind = super().to_asgi(is_main=is_main)
        return api


@bentoml.service(
    name="headrace",
    workers=1,
    traffic={"timeout": 10},
    http={"port": 3000},
    logging={"access": {"enabled": False}},
    service_class=FrontedService,
)
class Recommender:
    """Search, recommendations, similar items and events; see `GET /openapi.json`."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Say in one line what is missing, before any worker starts: a worker that fails would be started again."""
        try:
            check_surroundings()
        except HeadraceError as error:
            print(f"headrace: {error}", file=sys.stderr, flush=True)  # noqa: T201 - logging is not set up yet
            raise SystemExit(1) from None
        os.environ[_PARENT_VARIABLE] = str(os.getpid())

    def __init__(self) -> None:
        from bentos.recommender.bundles.live_bundle import trim_heap
        from pipelines.config import load_config

        write_logs(load_config().serving.log_format)
        self._answers = open_answers()
        serving = self._answers.serving
        api.open(self._answers, callers=open_callers(serving), traces=open_traces(serving))
        # A thread that computes keeps the interpreter for as long, by default 5 ms, while requests are there.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # Full collections over the loaded libraries take 80 to 150 ms; what is there now stays anyway.
        gc.collect()
        gc.freeze()
        trim_heap()  # reading a bundle takes more than the bundle
        gc.set_threshold(*_COLLECTIONS)
        threading.Thread(target=_end_with_parent, args=(_parent(),), name="parent-watch", daemon=True).start()

    @bentoml.on_shutdown
    def close(self) -> None:
        """Stop the background work."""
        api.close()
        self._answers.close()

    async def __is_ready__(self) -> bool:
        """Whether a bundle is loaded, and nobody waits any more who had waited for this process to start."""
        return bool(self._answers.model_version) and api.is_settled


def _parent() -> int:
    """Return the process that started this worker, also where it was killed meanwhile: opening takes seconds."""
    return int(os.environ.get(_PARENT_VARIABLE) or os.getppid())


def _end_with_parent(parent: int) -> None:
    """End this worker when the process that started it was killed: it would go on alone and keep the port."""
    while os.getppid() == parent:
        time.sleep(_PARENT_WATCH_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def check_surroundings() -> None:
    """Check settings, key and the files of the bundle.

    Raises:
        HeadraceError: something is missing or broken; the message says what to do.
    """
    from bentos.recommender.bundles.live_bundle import find_bundle
    from pipelines.config import load_config
    from pipelines.inference.manifest import read_manifest, verify_files
    from pipelines.places import Places
    from pipelines.pseudonyms import Pseudonymizer, load_pseudonym_key, require_key_of_tables
    from pipelines.stores.event_log import open_event_log
    from pipelines.stores.feast_settings import online_store_from_environment, online_store_settings
    from pipelines.stores.rules_file import read_rules

    places = Places.from_environment()
    serving = load_config().serving
    online_store_settings(places.feast, online_store_from_environment())
    open_event_log(places.event_log, os.environ)
    folder = find_bundle(places, os.environ)
    verify_files(folder, read_manifest(folder))
    require_key_of_tables(Pseudonymizer(load_pseudonym_key(places.pseudonym_key, create=False)), places.tables)
    open_callers(serving)
    if serving.rules_file is not None:
        read_rules(serving.rules_file)


def open_callers(serving: "ServingConfig") -> Callers:
    """Read the keys that callers send.

    Raises:
        ConfigError: the key file cannot be used.
    """
    from pipelines.places import Places

    return Callers(
        Places.from_environment().api_keys,
        os.environ.get(API_KEY_VARIABLE) or None,
        requests_per_second=serving.requests_per_second,
        burst_seconds=serving.burst_seconds,
    )


def open_traces(serving: "ServingConfig") -> "Traces | None":
    """Return what makes spans, where the settings want them; otherwise nothing of it is imported."""
    if not serving.traces:
        return None
    from bentos.recommender.telemetry.traces import bentoml_traces

    return bentoml_traces()


def open_answers() -> "Answers":
    """Open bundle, features, event log and key as the environment says.

    Raises:
        HeadraceError: something is missing or broken; the message says what to do.
    """
    from bentos.recommender.answering.answers import Answers
    from bentos.recommender.bundles.live_bundle import LiveBundle
    from bentos.recommender.bundles.trials import Trials
    from bentos.recommender.users.catching_up import CatchingUp
    from pipelines.config import load_config
    from pipelines.places import Places
    from pipelines.pseudonyms import Pseudonymizer, load_pseudonym_key
    from pipelines.stores.event_log import open_event_log
    from pipelines.stores.online_features import OnlineFeatures
    from pipelines.stores.push_checkpoint import PushCheckpoint
    from pipelines.stores.served_features import ServedFeaturesLog
    from pipelines.stores.served_requests import ServedRequestsLog
    from pipelines.stores.shown_lists import ShownListsLog

    places = Places.from_environment()
    pseudonymizer = Pseudonymizer(load_pseudonym_key(places.pseudonym_key, create=False))
    config = load_config()
    serving, deployment = config.serving, config.deployment
    trials = Trials(places, config.canary, config.shadow)
    live = LiveBundle(places, os.environ, beside=trials.names)
    features = OnlineFeatures(
        places.feast, history_length=config.features.history_length, preparation=config.preparation
    )
    event_log = open_event_log(places.event_log, os.environ)
    answers = Answers(
        live=live,
        features=features,
        event_log=event_log,
        pseudonymizer=pseudonymizer,
        serving=serving,
        served=ServedFeaturesLog(places.served_features, share=serving.audit_share, keep_days=serving.audit_days),
        requests=ServedRequestsLog(
            places.served_requests, share=deployment.sample_share, keep_days=deployment.sample_days
        ),
        shown=ShownListsLog(places.shown_lists, share=serving.shown_share, keep_days=serving.shown_days),
        trials=trials,
        catching_up=lambda users: CatchingUp(
            PushCheckpoint(places.feast, event_log),
            store=features,
            users=users,
            lock=places.feast / ".catching_up.lock",
            interval_s=serving.catch_up_interval_s,
            now=lambda: datetime.now(UTC),
        ),
        validation=config.validation,
        workers=places.workers,
    )
    try:
        answers.warm_up()
    except StoreError as error:  # popular items and searches work without it, and it may come back
        print(f"headrace: answers are degraded for now: {error}", file=sys.stderr, flush=True)  # noqa: T201
    live.start()
    trials.start()
    answers.start()
    return answers
