"""What Prometheus is told, at `/metrics`: every label has few values, and none holds a user, a query or a key.

BentoML gathers the values of all workers (Prometheus's multiprocess mode), so every gauge says how it is put together.
`docker/grafana/headrace.json` shows them.
"""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

REQUEST_SECONDS = Histogram(
    "headrace_request_seconds",
    "Seconds from the arrival of a request's head to its answer, by call and status (2xx, 4xx, 5xx).",
    ["call", "status"],
    buckets=_SECONDS,
)
IN_PROGRESS = Gauge(
    "headrace_requests_in_progress",
    "Requests that wait for their turn or are being answered, by lane.",
    ["lane"],
    multiprocess_mode="livesum",
)
SHED = Counter(
    "headrace_shed_total", "Requests refused with 503 because there were too many, by lane and reason.", ["lane", "why"]
)
RATE_LIMITED = Counter("headrace_rate_limited_total", "Requests refused with 429, by call.", ["call"])
REFUSED = Counter("headrace_refused_callers_total", "Requests refused with 401 or 403, by reason.", ["why"])
DEGRADED = Counter("headrace_degraded_total", "Answers that are not what the model says, by reason.", ["why"])
INSTEAD_OF_FRESH = Counter(
    "headrace_instead_of_fresh_total",
    "Answers with other features of the user than the online store's present ones, by what was used: `cache` (what it "
    "said last), `session` (with the events that this worker was just told of), `nothing`.",
    ["used"],
)
QUERY_CACHE = Counter(
    "headrace_query_cache_total", "Queries whose embedding was remembered (hit) or computed (miss).", ["outcome"]
)
QUERY_CACHE_HITS, QUERY_CACHE_MISSES = QUERY_CACHE.labels("hit"), QUERY_CACHE.labels("miss")
PREPARED_AHEAD = Counter(
    "headrace_prepared_ahead_total",
    "Users to be prepared after an event, before they ask: `done`, `dropped` (no time, or too many), `failed`.",
    ["outcome"],
)
ACCEPTED_EVENTS = Counter("headrace_accepted_events_total", "Events that are kept.")
EVENT_TO_EFFECT = Gauge(
    "headrace_event_to_effect_seconds",
    "Seconds from the acceptance of an event until answers take it into account, the latest.",
    multiprocess_mode="mostrecent",
)
EVENT_TO_EFFECT_SECONDS = Histogram(
    "headrace_event_to_effect_delay_seconds",
    "Seconds from the acceptance of an event until answers take it into account.",
    buckets=_SECONDS,
)
EXPLORED_SLOTS = Counter("headrace_explored_slots_total", "Slots that showed an item from further down.")
DROPPED_LISTS = Counter(
    "headrace_dropped_shown_lists_total", "Shown lists that should have been kept and were not: too many, or no disk."
)
BUNDLE = Gauge("headrace_bundle_info", "1 for the bundle that answers.", ["bundle"], multiprocess_mode="livemax")
CONNECTIONS = Gauge("headrace_connections", "Open connections.", multiprocess_mode="livesum")
CLOSED_CONNECTIONS = Counter(
    "headrace_closed_connections_total", "Connections that the service closed on its own, by reason.", ["why"]
)

_DEGRADATIONS = {
    "the feature store did not answer": "features_slow",
    "the feature store did not take": "events_slow",
    "the feature store failed;": "events_failed",
    "the feature store failed and": "features_left_alone",
    "the feature store failed,": "features_failed",
    "too many wait for the feature store": "features_overloaded",
    "the last events are not in": "events_waiting",
    "the model failed": "model_failed",
    "ordering failed": "ordering_failed",
}
"""How the sentences of `degraded_because` begin, and what they are called here."""


def count_degraded(problems: list[str]) -> None:
    """Count an answer under each of its reasons; one that is not in the list above counts as `other`."""
    for problem in problems:
        names = (name for begins, name in _DEGRADATIONS.items() if problem.startswith(begins))
        DEGRADED.labels(next(names, "other")).inc()


def tell_event_to_effect(seconds: float) -> None:
    """Note how long an accepted event took until answers take it into account."""
    EVENT_TO_EFFECT.set(seconds)
    EVENT_TO_EFFECT_SECONDS.observe(seconds)


class BundleInfo:
    """Keeps the label of `headrace_bundle_info` at the bundle that answers."""

    def __init__(self) -> None:
        self._told: str | None = None

    def tell(self, bundle_id: str) -> None:
        """Say which bundle answers now."""
        if bundle_id == self._told:
            return
        if self._told is not None:
            BUNDLE.labels(self._told).set(0)
        BUNDLE.labels(bundle_id).set(1)
        self._told = bundle_id
