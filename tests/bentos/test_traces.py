"""Spans of our calls."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from bentos.recommender.telemetry.traces import Traces
from tests.bentos.test_api import Service
from tests.toys.toy_bundle import write_toy_bundle


def test_a_call_is_a_span_of_the_callers_trace(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    service = Service(tmp_path)
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    service.app.open(service.answers, traces=Traces(provider))
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    service.post("search", {"query": "milk"}, headers={**parent, "X-Request-ID": "r-1"})
    service.answers.search = lambda body: {}["nothing"]
    service.post("search", {"query": "milk"})
    service.app.close()
    service.answers.close()
    sound, broken = spans.get_finished_spans()
    assert format(sound.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert sound.name == "/search"
    assert dict(sound.attributes) == {
        "http.route": "/search",
        "headrace.request_id": "r-1",
        "http.response.status_code": 200,
        "headrace.degraded": False,
    }
    assert (sound.status.status_code, broken.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
