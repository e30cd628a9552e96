"""The ledger of a mixed load, and what it takes for a good answer."""

from collections import Counter

import orjson
import pytest

from pipelines.benchmarks.http_load import Answer
from pipelines.benchmarks.mixed_load import CALLS, Entry, Ledger, Mix, Sender, problem_of

MIX = Mix(0, 1.0, users=["u1", "u2"], item_ids=["a"], queries=["milk"], event_share=0.5, once_share=0.5)


def entry(due: float, done: float, **changes) -> Entry:
    return Entry(**{"call": "search", "due_s": due, "done_s": done, "status": 200, "problem": "", **changes})


def answer(body: object, status: int = 200, head: bytes = b"") -> Answer:
    return Answer(0, status, head, body if isinstance(body, bytes) else orjson.dumps(body), 0.0, 0.0, 0.01)


@pytest.mark.parametrize(
    ("call", "given", "problem"),
    [
        pytest.param("search", answer({"items": [1], "model_version": "b"}), "", id="good"),
        pytest.param("events", answer({"accepted": 1, "model_version": "b"}, 202), "", id="events have no items"),
        pytest.param("search", answer({"items": [], "model_version": "b"}), "no items", id="empty"),
        pytest.param("search", answer({"items": [1]}), "no model_version", id="no version"),
        pytest.param("search", answer(b"<html>"), "the answer is not JSON", id="not JSON"),
        pytest.param("search", answer([]), "the answer is not an object", id="a list"),
        pytest.param("search", answer(b"busy", 503), "status 503: busy", id="refused"),
    ],
)
def test_what_a_good_answer_is(call, given, problem):
    assert problem_of(call, given)[0] == problem


def test_a_ledger_is_cut_by_when_requests_were_due_and_windows_by_when_they_were_on_their_way():
    ledger = Ledger([entry(1, 2), entry(3, 4), entry(5, 9), entry(10, 11)])
    assert ledger.between(3, 10).entries == [entry(3, 4), entry(5, 9)]
    assert ledger.outside([(3.5, 3.6), (8, 8.5)]).entries == [entry(1, 2), entry(10, 11)]


def test_what_is_counted_of_a_ledger():
    ledger = Ledger(
        [
            entry(0, 0.010),
            entry(0, 0.030, degraded="the store is slow"),
            entry(0, 5, problem="status 500: x", status=500),
            entry(0, 1, call="events", status=202, event_id="e1", once="new-1"),
            entry(0, 1, call="events", status=503, event_id="e2", once="new-2", problem="busy", retry_after=True),
        ]
    )
    assert [one.is_refused for one in ledger.entries] == [False, False, False, False, True]
    assert ledger.acknowledged == {"e1"}
    assert ledger.once_users == ["new-1"]
    assert ledger.degraded == Counter({"the store is slow": 1})
    assert ledger.percentile_ms(50) == pytest.approx(30)
    assert ledger.described_failures() == "1 x /search: status 500: x; 1 x /events: busy"


def test_every_event_has_an_id_of_its_own_and_some_a_user_of_their_own():
    sender = Sender(MIX)
    for index in range(400):
        raw = sender.next_request(index)
        call = raw.split(b" ")[1].decode().strip("/")
        body = {"accepted": 1, "items": [1], "model_version": "b"}
        sender.answered(Answer(index, 202 if call == "events" else 200, b"", orjson.dumps(body), 0.0, 0.0, 0.01))
        if call == "events":
            event = orjson.loads(raw.partition(b"\r\n\r\n")[2])["events"][0]
            assert event["event_id"] == sender.entries[-1].event_id
            assert event["user_id"] == (sender.entries[-1].once or event["user_id"])
    ledger = Ledger(sender.entries)
    events = [one for one in ledger.entries if one.call == "events"]
    assert len(ledger.acknowledged) == len(events)
    assert 150 < len(events) < 250
    assert 60 < len(set(ledger.once_users)) < 140
    assert {one.call for one in ledger.entries} == set(CALLS)
    assert not ledger.failures
