"""What is logged and measured, and what never is."""

import json
import logging

import pytest
from prometheus_client import generate_latest

from bentos.recommender.http.callers import Callers
from bentos.recommender.telemetry.logs import JsonLines, Text
from pipelines.errors import StoreError
from tests.bentos.test_api import Service
from tests.toys.toy_bundle import write_toy_bundle

USER, QUERY, KEY, WRONG_KEY = "ann.secret@example.com", "hidden desire", "the-right-key", "hr_guess_of-a-key"
SECRETS = (USER, QUERY, KEY, WRONG_KEY)


class Lines(logging.Handler):
    """Keeps formatted lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(params=[JsonLines, Text], ids=["json", "text"])
def lines(request):
    handler, logger = Lines(request.param()), logging.getLogger("headrace")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def service(tmp_path):
    write_toy_bundle(tmp_path / "b1")
    service = Service(tmp_path)
    service.answers.serving = service.answers.serving.model_copy(update={"log_requests": True})
    service.app.open(service.answers, callers=Callers(environment_key=KEY))
    yield service
    service.app.close()
    service.answers.close()


def fail_with(secret: str):
    def fail(*_args, **_options):
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise RuntimeError(f"cannot work with {secret!r}") from error

    return fail


def test_no_key_query_or_user_id_is_logged_or_measured_whatever_goes_wrong(service, lines, monkeypatch):
    right, event = {"X-API-Key": KEY}, {"user_id": USER, "event_type": "search", "query": QUERY[:15]}
    service.post("search", {"query": QUERY, "user_id": USER}, headers=right)
    service.post("search", {"query": QUERY, "user_id": USER}, headers={"X-API-Key": WRONG_KEY})
    service.post("search", {"query": QUERY * 9, "user_id": USER}, headers=right)
    service.post("recommend", {"user_id": USER, "k": QUERY}, headers=right)
    service.post("recommend", {"user_id": USER * 20}, headers=right)
    service.post("events", {"events": [event]}, headers=right)
    service.post(QUERY, {}, headers={**right, "X-Request-ID": "my-request-1"})
    service.features.broken = True
    service.post("recommend", {"user_id": USER}, headers=right)
    monkeypatch.setattr("bentos.recommender.answering.finding.search", fail_with(QUERY))
    assert service.post("search", {"query": QUERY}, headers=right).json()["degraded"]
    service.answers.recommend = fail_with(USER)
    bug = service.post("recommend", {"user_id": USER}, headers={**right, "X-Request-ID": "my-request-2"})
    assert bug.status_code == 500

    logged, measured = "\n".join(lines), generate_latest().decode()
    assert "RuntimeError" in logged
    assert "test_logs.py" in logged
    assert "headrace_request_seconds" in measured
    for secret in SECRETS:
        assert secret not in logged
        assert secret not in measured
    for request_id in ("my-request-1", "my-request-2"):
        assert request_id in logged


def test_a_line_is_json_with_the_request_and_the_exception(service):
    handler = Lines(JsonLines())
    logger = logging.getLogger("headrace.serving")
    logger.addHandler(handler)
    try:
        service.answers.search = fail_with("nothing")
        service.post("search", {"query": "milk"}, headers={"X-API-Key": KEY, "X-Request-ID": "r-1"})
    finally:
        logger.removeHandler(handler)
    line = json.loads(handler.lines[0])
    assert (line["level"], line["logger"], line["message"], line["request_id"]) == (
        "error",
        "headrace.serving",
        "Unexpected error in search",
        "r-1",
    )
    assert line["exception"]["type"] == "builtins.RuntimeError"
    assert line["exception"]["after"]["type"] == "builtins.KeyError"
    assert line["exception"]["at"][-1].endswith(" fail")


def test_the_message_of_an_error_of_ours_is_logged():
    error = StoreError("the disk is full")
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "It failed", None, (StoreError, error, None))
    line = json.loads(JsonLines().format(record))
    assert line["exception"] == {"type": "pipelines.errors.StoreError", "at": [], "message": "the disk is full"}
