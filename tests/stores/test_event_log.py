"""The event log: durable, torn lines skipped, nothing lost between threads and processes."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.errors import DataError, StoreError
from pipelines.schemas import EVENTS
from pipelines.stores.event_log import EventLog

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(event_id: str, **more) -> dict:
    return {"event_id": event_id, "user_id": "u", "event_type": "view", "item_id": "a", "event_timestamp": NOON, **more}


def ids(table) -> list[str]:
    return table["event_id"].to_pylist()


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def test_what_was_appended_comes_back_in_contract_form(tmp_path):
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event("1", value=2.5, position=3)])
    table = log.read(None, NOON)
    assert table.schema == EVENTS
    assert table.to_pylist() == [
        {
            "event_id": "1",
            "user_id": "u",
            "session_id": None,
            "event_type": "view",
            "item_id": "a",
            "query": None,
            "position": 3,
            "propensity": None,
            "value": 2.5,
            "event_timestamp": NOON,
            "created_timestamp": NOON,
        }
    ]


def test_a_window_is_open_at_its_start_and_closed_at_its_end(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock)
    for hour in range(3):
        clock.now = NOON + timedelta(hours=hour)
        log.append([event(str(hour))])
    assert ids(log.read(NOON, NOON + timedelta(hours=1))) == ["1"]
    assert ids(log.read(None, NOON)) == ["0"]


def test_arrivals_around_midnight_are_read_from_both_days(tmp_path):
    clock = Clock(datetime(2026, 3, 1, 23, 59, tzinfo=UTC))
    log = EventLog(tmp_path, clock=clock)
    log.append([event("before")])
    clock.now += timedelta(minutes=2)
    log.append([event("after")])
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["2026-03-01.jsonl", "2026-03-02.jsonl"]
    assert ids(log.read(NOON, clock.now)) == ["before", "after"]


@pytest.mark.parametrize("kept", [1, 5, 9, 30, -1], ids=lambda kept: f"{kept} bytes left")
def test_a_line_torn_by_a_crash_is_skipped_and_later_ones_are_kept(tmp_path, kept):
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event("whole")])
    path = tmp_path / "2026-03-01.jsonl"
    whole = path.read_bytes()
    log.append([event("torn"), event("torn too")])
    second = path.read_bytes()[len(whole) :].rstrip(b"\n")
    path.write_bytes(whole + second[:kept])
    log.append([event("later")])
    assert ids(log.read(None, NOON)) == ["whole", "later"]


def test_a_changed_byte_is_noticed(tmp_path):
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event("first")])
    path = tmp_path / "2026-03-01.jsonl"
    path.write_bytes(path.read_bytes().replace(b"first", b"f1rst"))
    assert ids(log.read(None, NOON)) == []


def test_reading_into_the_future_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read until 2026-03-01T13:00.*Pass a time that is over"):
        EventLog(tmp_path, clock=Clock(NOON)).read(None, NOON + timedelta(hours=1))


def test_an_unknown_column_is_refused_and_nothing_is_written(tmp_path):
    log = EventLog(tmp_path, clock=Clock(NOON))
    with pytest.raises(DataError, match="unknown columns colour"):
        log.append([event("1"), event("2", colour="red")])
    assert ids(log.read(None, NOON)) == []


def test_a_refused_write_is_a_store_error(tmp_path):
    (tmp_path / "log").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="nothing was accepted"):
        EventLog(tmp_path / "log", clock=Clock(NOON)).append([event("1")])


APPEND = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.stores.event_log import EventLog

log = EventLog(Path(sys.argv[1]))
for number in range(20):
    log.append([{"event_id": f"{sys.argv[2]}-{number}", "user_id": "u", "event_type": "view", "item_id": "a",
                 "event_timestamp": datetime(2026, 3, 1, tzinfo=UTC)}])
"""


def test_threads_and_processes_lose_nothing(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path), f"process{number}"]) for number in range(2)
    ]
    log = EventLog(tmp_path)

    def append(name: str) -> None:
        for number in range(20):
            log.append([event(f"{name}-{number}")])

    threads = [threading.Thread(target=append, args=(f"thread{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    found = ids(log.read(None, datetime.now(UTC)))
    names = ("process0", "process1", "thread0", "thread1")
    assert sorted(found) == sorted(f"{name}-{number}" for name in names for number in range(20))
