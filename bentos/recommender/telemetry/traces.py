"""OpenTelemetry spans of our calls, by setting: BentoML traces only what passes its own middlewares.

They go where BentoML's go (its setting `tracing`: exporter, sample rate), and belong to the caller's trace where the
request names one (`traceparent`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

_SERVER_ERROR = 500


class Traces:
    """Makes spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("headrace")

    @contextmanager
    def span(
        self, route: str | None, headers: Iterable[tuple[bytes, bytes]], request_id: str
    ) -> Iterator[dict[str, Any]]:
        """Open a span around a request.

        The block puts `status` and `degraded` into the dictionary that it gets. `route` is None where it is no call.
        """
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        with self._tracer.start_as_current_span(
            route or "other", context=extract(carrier), kind=SpanKind.SERVER
        ) as span:
            outcome: dict[str, Any] = {}
            yield outcome
            span.set_attributes(
                {
                    **({} if route is None else {"http.route": route}),
                    "headrace.request_id": request_id,
                    "http.response.status_code": outcome["status"],
                    "headrace.degraded": outcome["degraded"],
                }
            )
            if outcome["status"] >= _SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))


def bentoml_traces() -> Traces:
    """Return traces that go where BentoML's go."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Traces(BentoMLContainer.tracer_provider.get())
