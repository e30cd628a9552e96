"""The event log in Kafka, against the mock cluster that librdkafka speaks the real protocol with."""

import json
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from pipelines.config import PreparationConfig
from pipelines.errors import ConfigError, DataError, StoreError
from pipelines.progress import SilentProgress
from pipelines.schemas import EVENTS
from pipelines.sources.tables import TablesSource
from pipelines.steps.ingest_tables import ingest_tables
from pipelines.stores.event_log import EventLog, open_event_log
from tests.toys.catalogue import NOW, pseudonymizer, toy_tables

kafka = pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")
from pipelines.stores.kafka_event_log import KafkaEventLog  # noqa: E402

pytestmark = pytest.mark.slow
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(event_id: str, **more) -> dict:
    return {"event_id": event_id, "user_id": "u", "event_type": "view", "item_id": "a", "event_timestamp": NOON, **more}


def ids(batches) -> list[str]:
    return sorted(event_id for batch in batches for event_id in batch["event_id"].to_pylist())


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def brokers():
    """Start a broker in this process; it is gone with the client that holds it."""
    holder = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    yield ",".join(f"{one.host}:{one.port}" for one in holder.list_topics(timeout=10).brokers.values())
    del holder


@pytest.fixture
def topic(brokers):
    """A topic of the test's own, with the four partitions that the mock gives it."""
    name = f"topic-{uuid.uuid4().hex[:8]}"
    maker = kafka.Producer({"bootstrap.servers": brokers, "log_level": 0})
    maker.list_topics(name, timeout=10)
    return name


@pytest.fixture
def clock():
    return Clock(NOON)


@pytest.fixture
def log(brokers, topic, clock):
    opened = KafkaEventLog(brokers, topic, options={"log_level": "0"}, clock=clock, timeout_s=5)
    yield opened
    opened.close()


def test_what_was_appended_comes_back_in_contract_form(log):
    stored = log.append([event("1", value=2.5, position=3), event("2")])
    assert [one["created_timestamp"] for one in stored] == [NOON, NOON]
    table = log.read(None, NOON)
    assert table.schema == EVENTS
    first = table.to_pylist()[0]
    assert (first["event_id"], first["value"], first["position"], first["event_timestamp"]) == ("1", 2.5, 3, NOON)
    assert first["created_timestamp"] == NOON


def test_a_window_is_open_at_its_start_and_closed_at_its_end(log, clock):
    for hour in range(3):
        clock.now = NOON + timedelta(hours=hour)
        log.append([event(str(hour))])
    assert log.read(NOON, NOON + timedelta(hours=1))["event_id"].to_pylist() == ["1"]
    assert log.read(None, NOON)["event_id"].to_pylist() == ["0"]


def test_reading_on_with_the_cursor_gives_every_event_once(log):
    cursor, found = None, []
    for step in range(4):
        log.append([event(f"{step}-{number}") for number in range(3)])
        batches, cursor = log.read_from(json.loads(json.dumps(cursor)), NOON)
        found += ids(batches)
    batches, cursor = log.read_from(cursor, NOON)
    assert ids(batches) == []
    assert found == [f"{step}-{number}" for step in range(4) for number in range(3)]


def test_what_arrived_after_the_window_waits_for_the_next_one(log, clock):
    for minute in range(8):  # over several partitions
        clock.now = NOON + timedelta(minutes=minute)
        log.append([event(str(minute))])
    first, cursor = log.read_from(None, NOON + timedelta(minutes=3))
    assert ids(first) == ["0", "1", "2", "3"]
    second, _ = log.read_from(cursor, NOON + timedelta(minutes=7))
    assert ids(second) == ["4", "5", "6", "7"]


def test_threads_share_a_producer_and_lose_nothing(log):
    def append(name: str) -> None:
        for number in range(10):
            log.append([event(f"{name}-{number}")])

    threads = [threading.Thread(target=append, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batches, _ = log.read_from(None, NOON)
    assert ids(batches) == sorted(f"{name}-{number}" for name in range(4) for number in range(10))


def test_messages_of_other_programs_are_reported_and_skipped(log, brokers, topic, caplog):
    log.append([event("before")])
    other = kafka.Producer({"bootstrap.servers": brokers, "log_level": 0})
    for value in (b"\x00\xff", b'{"hello": 1}', b'[{"created_timestamp": "2026-03-01T12:00:00+00:00", "user_id": 7}]'):
        other.produce(topic, value=value)
    assert other.flush(10) == 0
    log.append([event("after")])
    batches, cursor = log.read_from(None, NOON)
    assert ids(batches) == ["after", "before"]
    assert len([record for record in caplog.records if "is skipped" in record.message]) == 3
    assert sum(cursor[f"kafka:{topic}"].values()) == 5


def test_a_cursor_behind_the_end_is_refused(log, topic):
    log.append([event("1")])
    with pytest.raises(DataError, match=r"up to offset 99, but it holds 0 to .*deleted, or the topic was made anew"):
        log.read_from({f"kafka:{topic}": {"0": 99}}, NOON)


def test_a_home_that_changes_to_kafka_keeps_its_place_in_the_embedded_log(log, tmp_path):
    embedded = EventLog(tmp_path, clock=Clock(NOON))
    embedded.append([event("1")])
    _, cursor = embedded.read_from(None, NOON)
    log.append([event("2")])
    batches, cursor = log.read_from(cursor, NOON)
    assert ids(batches) == ["2"]
    embedded.append([event("3")])
    batches, _ = embedded.read_from(cursor, NOON)
    assert ids(batches) == ["3"]


def test_two_windows_of_ingestion_hold_every_event_once(log, clock, tmp_path):
    tables = toy_tables(tmp_path)
    for day in (1, 2):
        clock.now = NOW + timedelta(days=day)
        log.append([event(f"{day}-{number}", item_id="item-03", event_timestamp=clock.now) for number in range(3)])
        window = ingest_tables(
            TablesSource(tmp_path / "shop" / "mapping.yaml"),
            tables=tables,
            event_log=log,
            pseudonymizer=pseudonymizer(),
            preparation=PreparationConfig(repeat_gap_s=0),
            late_days=30,
            until=clock.now,
            progress=SilentProgress(),
        )
        tables.accept(window, rejections={})
    with tables.connect() as connection:
        found = connection.execute("SELECT event_id FROM events WHERE created_timestamp > ? ORDER BY 1", [NOW])
        assert [row[0] for row in found.fetchall()] == [f"{day}-{number}" for day in (1, 2) for number in range(3)]


def test_reading_into_the_future_is_refused(log):
    with pytest.raises(DataError, match="Pass a time that is over"):
        log.read_from(None, NOON + timedelta(seconds=1))
    with pytest.raises(DataError, match="Pass a time that is over"):
        log.read(None, NOON + timedelta(seconds=1))


def test_a_call_too_large_for_a_message_is_refused(log):
    with pytest.raises(DataError, match=r"more than the topic .* takes in one message.*send them in parts"):
        log.append([event("1", query="x" * 1_100_000)])


def test_a_topic_that_does_not_exist_is_named(brokers):
    with pytest.raises(StoreError, match=r"topic nowhere cannot be read .*kafka-topics.sh --create --topic nowhere"):
        KafkaEventLog(brokers, "nowhere", options={"log_level": "0"}).read_from(None, NOON)


def test_a_broker_that_does_not_answer_is_a_store_error():
    log = KafkaEventLog("127.0.0.1:1", "events", options={"log_level": "0"}, timeout_s=0.3)
    with pytest.raises(StoreError, match="did not confirm the events for the topic events"):
        log.append([event("1")])
    with pytest.raises(StoreError, match="topic events cannot be read"):
        log.read(None, NOON)
    log.close()


def test_the_address_names_brokers_topic_and_settings(brokers, topic, tmp_path):
    log = open_event_log(tmp_path, {"HEADRACE_EVENT_LOG": f"kafka://{brokers}/{topic}?client.id=shop&log_level=0"})
    log.append([event("1")])
    assert ids(log.read_from(None, datetime.now(UTC)).batches) == ["1"]
    log.close()


@pytest.mark.parametrize("address", ["kafka:///events", "kafka://host:9092", "kafka://host:9092/a/b"])
def test_an_address_without_brokers_or_topic_is_refused(address, tmp_path):
    with pytest.raises(ConfigError, match=r"it must name brokers and a topic, such as kafka://"):
        open_event_log(tmp_path, {"HEADRACE_EVENT_LOG": address})


def test_without_the_client_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[kafka\]'"):
        open_event_log(tmp_path, {"HEADRACE_EVENT_LOG": "kafka://host:9092/events"})


def test_another_kind_of_log_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"`redis://x`: it must be kafka://"):
        open_event_log(tmp_path, {"HEADRACE_EVENT_LOG": "redis://x"})
