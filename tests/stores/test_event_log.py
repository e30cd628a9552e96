"""The event log: durable, torn lines skipped, nothing lost between threads and processes, read on with a cursor."""

import json
import subprocess
import sys
import threading
import time
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


def read_on(log: EventLog, cursor: dict | None, until: datetime, **more) -> tuple[list[str], dict]:
    """Return the ids behind the cursor and the next cursor, as it comes back from a JSON file."""
    found = log.read_from(cursor, until, **more)
    return [event_id for batch in found.batches for event_id in ids(batch)], json.loads(json.dumps(found.cursor))


def segment_names(folder) -> list[str]:
    return sorted((path.name for path in folder.glob("*.jsonl")), key=lambda name: name.removesuffix(".jsonl"))


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


def test_reading_on_with_the_cursor_gives_every_event_once(tmp_path):
    log, cursor = EventLog(tmp_path, clock=Clock(NOON), segment_bytes=300), None
    for step in range(5):
        log.append([event(f"{step}a"), event(f"{step}b")])
        found, cursor = read_on(log, cursor, NOON)
        assert found == [f"{step}a", f"{step}b"]
    assert read_on(log, cursor, NOON) == ([], cursor)
    assert read_on(log, None, NOON)[0] == [f"{step}{part}" for step in range(5) for part in "ab"]


def test_a_log_without_events_has_a_cursor_from_which_the_first_one_is_read(tmp_path):
    log = EventLog(tmp_path / "log", clock=Clock(NOON))
    found, cursor = read_on(log, None, NOON)
    assert found == [] and not (tmp_path / "log").exists()
    log.append([event("1", created_timestamp=NOON - timedelta(days=3))])
    assert read_on(log, cursor, NOON, since=NOON)[0] == ["1"]


def test_what_arrived_after_the_window_waits_for_the_next_one(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock)
    for minute in range(4):
        clock.now = NOON + timedelta(minutes=minute)
        log.append([event(str(minute))])
    found, cursor = read_on(log, None, NOON + timedelta(minutes=1))
    assert found == ["0", "1"]
    assert read_on(log, cursor, NOON + timedelta(minutes=1)) == ([], cursor)
    assert read_on(log, cursor, NOON + timedelta(minutes=3))[0] == ["2", "3"]


def test_events_of_a_clock_that_was_set_back_are_neither_lost_nor_doubled(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock)
    log.append([event("1")])
    found, cursor = read_on(log, None, NOON)
    clock.now = NOON - timedelta(hours=30)
    log.append([event("2")])
    clock.now = NOON + timedelta(minutes=1)
    later, _ = read_on(log, cursor, clock.now)
    assert (found, later) == (["1"], ["2"])
    assert segment_names(tmp_path) == ["2026-03-01.jsonl"]


def test_an_event_of_a_clock_that_was_far_ahead_holds_nothing_up(tmp_path):
    clock = Clock(NOON + timedelta(days=30_000))
    log = EventLog(tmp_path, clock=clock)
    log.append([event("of the year 2108")])
    clock.now = NOON
    log.append([event("1")])
    found, cursor = read_on(log, None, NOON)
    assert found == ["of the year 2108", "1"]
    clock.now = NOON + timedelta(minutes=1)
    log.append([event("2")])
    assert read_on(log, cursor, clock.now)[0] == ["2"]


def test_tables_without_a_cursor_leave_out_what_they_read_by_time(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock)
    for hour in (0, 30, 31):
        clock.now = NOON + timedelta(hours=hour)
        log.append([event(str(hour))])
    found, cursor = read_on(log, None, clock.now, since=NOON + timedelta(hours=30))
    assert found == ["31"]
    log.append([event("again", created_timestamp=NOON)])
    assert read_on(log, cursor, clock.now, since=NOON + timedelta(hours=30))[0] == ["again"]


def test_daily_files_of_earlier_versions_are_segments(tmp_path):
    (tmp_path / "2026-02-27.jsonl").write_bytes(
        b'90152f83 [{"event_id":"old","user_id":"u","event_type":"view","item_id":"a",'
        b'"event_timestamp":"2026-02-27T12:00:00+00:00","created_timestamp":"2026-02-27T12:00:00.500000+00:00"}]\n'
    )
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event("new")])
    assert read_on(log, None, NOON)[0] == ["old", "new"]
    assert ids(log.read(None, NOON)) == ["old", "new"]


def test_a_full_segment_is_followed_by_the_next(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock, segment_bytes=1)
    for day in (0, 0, 0, 1, 1):
        clock.now = NOON + timedelta(days=day)
        log.append([event("e")])
    assert segment_names(tmp_path) == [
        "2026-03-01.jsonl",
        "2026-03-01.00001.jsonl",
        "2026-03-01.00002.jsonl",
        "2026-03-02.jsonl",
        "2026-03-02.00001.jsonl",
    ]


def test_segments_before_the_cursor_may_be_archived_and_its_own_may_not(tmp_path):
    clock = Clock(NOON)
    log = EventLog(tmp_path, clock=clock, segment_bytes=1)
    for number in range(3):
        log.append([event(str(number))])
    _, cursor = read_on(log, None, NOON)
    log.append([event("3")])
    (tmp_path / "2026-03-01.jsonl").unlink()
    (tmp_path / "2026-03-01.00001.jsonl").unlink()
    assert read_on(log, cursor, NOON)[0] == ["3"]
    (tmp_path / "2026-03-01.00002.jsonl").unlink()
    with pytest.raises(DataError, match=r"up to byte \d+ of .*00002.jsonl, and that segment is not there: put it back"):
        log.read_from(cursor, NOON)


def test_a_segment_that_was_cut_before_the_cursor_is_noticed(tmp_path):
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event("1")])
    _, cursor = read_on(log, None, NOON)
    (tmp_path / "2026-03-01.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="that segment is shorter: put it back"):
        log.read_from(cursor, NOON)


def four_records(folder) -> list[bytes]:
    log = EventLog(folder, clock=Clock(NOON))
    for event_id in "abcd":
        log.append([event(event_id, query="deadbeef [")])
    return (folder / "2026-03-01.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("start", "damage", "left"),
    [
        pytest.param(20, b"\x00" * 30, ["a", "c", "d"], id="NUL bytes"),
        pytest.param(0, b"????????", ["a", "c", "d"], id="checksum overwritten"),
        pytest.param(-1, b"\x00", ["a", "b", "c", "d"], id="only its line end"),
        pytest.param(-20, b"\x00" * 20, ["a", "c", "d"], id="tail and line end"),
        pytest.param(30, b"\n", ["a", "c", "d"], id="a line end in the middle"),
        pytest.param(-30, b"\x00" * 60, ["a", "d"], id="a page over two records"),
    ],
)
def test_a_damaged_record_costs_no_other(tmp_path, caplog, start, damage, left):
    lines = four_records(tmp_path)
    whole = bytearray(b"".join(lines))
    offset = len(lines[0]) + start % len(lines[1])
    whole[offset : offset + len(damage)] = damage
    (tmp_path / "2026-03-01.jsonl").write_bytes(whole)
    log = EventLog(tmp_path, clock=Clock(NOON))
    assert read_on(log, None, NOON)[0] == left
    assert any("fail their checksum" in record.message for record in caplog.records) == (len(left) < 4)


@pytest.mark.parametrize("kept", [0, 1, 9, 40, -1], ids=lambda kept: f"{kept} bytes left")
def test_a_torn_tail_is_skipped_now_and_after_it_was_closed(tmp_path, caplog, kept):
    lines = four_records(tmp_path)
    (tmp_path / "2026-03-01.jsonl").write_bytes(b"".join(lines[:3]) + lines[3].rstrip(b"\n")[:kept])
    log = EventLog(tmp_path, clock=Clock(NOON))
    found, cursor = read_on(log, None, NOON)
    assert found == ["a", "b", "c"]
    assert any("never acknowledged" in record.message for record in caplog.records) == (kept != 0)
    log.append([event("e")])
    assert read_on(log, cursor, NOON)[0] == ["e"]
    assert read_on(log, None, NOON)[0] == ["a", "b", "c", "e"]


def test_a_batch_holds_no_more_rows_than_fit_into_memory(tmp_path):
    log = EventLog(tmp_path, clock=Clock(NOON))
    log.append([event(str(number)) for number in range(45_000)])
    assert [batch.num_rows for batch in log.read_from(None, NOON).batches] == [20_000, 20_000, 5_000]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"user_id": None}, "Event 1 has no user_id: every event needs event_id, ", id="no user"),
        pytest.param({"position": 2**31}, "`position` 2147483648: it must be an integer of 32 bits", id="too large"),
        pytest.param({"value": "1"}, "`value` '1': it must be a finite number", id="a number as text"),
        pytest.param({"value": float("nan")}, "`value` nan: it must be a finite number", id="not a number"),
        pytest.param(
            {"event_timestamp": datetime(2026, 3, 1)},
            "must be a `datetime` with a time zone",
            id="no time zone",
        ),
        pytest.param({"query": "\ud800"}, "do not fit into JSON", id="half a character"),
        pytest.param(
            {"created_timestamp": NOON + timedelta(seconds=1)},
            "leave it out, the log stamps the arrival",
            id="arrives in the future",
        ),
    ],
)
def test_what_could_not_be_read_again_is_refused_with_its_whole_call(tmp_path, change, reason):
    log = EventLog(tmp_path, clock=Clock(NOON))
    with pytest.raises(DataError, match=reason):
        log.append([event("good"), event("bad") | change])
    assert read_on(log, None, NOON)[0] == []


FILL = """
import resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines.errors import StoreError
from pipelines.stores.event_log import EventLog

def event(event_id):
    return {"event_id": event_id, "user_id": "u", "event_type": "view", "item_id": "a",
            "event_timestamp": datetime(2026, 3, 1, tzinfo=UTC)}

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = EventLog(Path(sys.argv[1]), clock=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC))
log.append([event("kept")])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
try:
    log.append([event(f"refused {number}") for number in range(100)])
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append([event("later")])
"""


def test_a_full_disk_keeps_no_part_of_a_refused_call(tmp_path, caplog):
    answer = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "nothing was accepted. Check the disk" in answer.stdout
    assert read_on(EventLog(tmp_path, clock=Clock(NOON)), None, NOON)[0] == ["kept", "later"]
    assert not caplog.records


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
    log, cursor, seen = EventLog(tmp_path, segment_bytes=2_000), None, []
    processes = [
        subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path), f"process{number}"]) for number in range(2)
    ]

    def append(name: str) -> None:
        for number in range(20):
            log.append([event(f"{name}-{number}")])

    threads = [threading.Thread(target=append, args=(f"thread{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        found, cursor = read_on(log, cursor, datetime.now(UTC))
        seen += found
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    seen += read_on(log, cursor, datetime.now(UTC))[0]
    names = ("process0", "process1", "thread0", "thread1")
    everything = sorted(f"{name}-{number}" for name in names for number in range(20))
    assert sorted(ids(log.read(None, datetime.now(UTC)))) == everything
    assert sorted(seen) == everything
