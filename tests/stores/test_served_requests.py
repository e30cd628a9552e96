"""A sample of requests, without who asked."""

import json

import numpy as np

from pipelines.stores.day_log import DayLog, newest_rows
from pipelines.stores.served_requests import ServedRequestsLog, read_served_requests
from tests.toys.event_tables import day
from tests.toys.toy_bundle import bought


def test_a_request_is_kept_with_what_was_known_and_without_who_asked(tmp_path):
    log = ServedRequestsLog(tmp_path, share=1, keep_days=7)
    log.offer("recommend", {"user_id": "ann", "k": 3}, bought("a", at=5), answered=3, now=day(1))
    log.offer("search", {"query": "milk"}, None, answered=0, now=day(2))
    log.close()

    first, second = read_served_requests(tmp_path, limit=10)
    assert (first.call, first.body, first.answered) == ("recommend", {"k": 3}, 3)
    assert first.user is not None
    assert (first.user.item_ids, first.user.event_times) == (["a"], [5])
    assert (second.call, second.user) == ("search", None)
    assert "ann" not in "".join(path.read_text() for path in tmp_path.rglob("*.jsonl"))
    assert [request.call for request in read_served_requests(tmp_path, limit=1)] == ["search"]


def test_only_a_share_is_kept(tmp_path):
    chances = iter([0.0, 0.5])
    log = ServedRequestsLog(tmp_path, share=0.5, keep_days=7, chance=lambda: next(chances))
    for query in ("kept", "not kept"):
        if log.falls_into_sample():
            log.offer("search", {"query": query}, None, answered=1, now=day(1))
    log.close()
    assert [request.body["query"] for request in read_served_requests(tmp_path, limit=9)] == ["kept"]
    nothing = ServedRequestsLog(tmp_path / "none", share=0, keep_days=7)
    assert not nothing.falls_into_sample()
    nothing.offer("search", {}, None, answered=1, now=day(1))
    nothing.close()
    assert not (tmp_path / "none").exists()


def test_rows_of_another_version_are_passed_over(tmp_path):
    folder = tmp_path / "2026-01-02"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"requested_at": day(1).isoformat(), "call": "explain"}) + "\n")
    assert read_served_requests(tmp_path, limit=9) == []


def test_a_day_holds_so_many_rows_and_no_more(tmp_path):
    log = DayLog(tmp_path, what="rows", day_of="at", keep_days=7, max_rows_a_day=3)
    for number in range(5):
        log.offer({"at": day(1), "number": number})
    log.offer({"at": day(2), "number": 9})
    log.close()
    assert [row["number"] for row in newest_rows(tmp_path, limit=9, day_of="at")] == [0, 1, 2, 9]
    assert log.dropped == 2


def test_a_row_that_is_no_json_is_dropped_and_fails_nobody(tmp_path, caplog):
    log = DayLog(tmp_path, what="odd rows", day_of="at", keep_days=7)
    log.offer({"at": day(1), "odd": object()})
    log.offer({"at": day(1), "number": 1})
    log.close()
    assert [row["number"] for row in newest_rows(tmp_path, limit=9, day_of="at")] == [1]
    assert log.dropped == 1
    assert "The odd rows are not kept" in caplog.text


def test_a_row_is_as_it_was_when_it_was_offered(tmp_path):
    log, scores = DayLog(tmp_path, what="rows", day_of="at", keep_days=7), np.array([1.0, 2.0])
    log.offer({"at": day(1), "scores": scores})
    scores[:] = 0
    log.close()
    assert [row["scores"] for row in newest_rows(tmp_path, limit=9, day_of="at")] == [[1.0, 2.0]]
