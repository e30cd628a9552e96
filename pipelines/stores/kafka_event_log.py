"""The event log in a Kafka topic: for services on several machines.

One message is one accepted call, its events as a JSON list, so that a call is kept as a whole or not at all. The
topic's retention must be longer than the pause between two ingestions.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, DataError, StoreError
from pipelines.schemas import EVENTS
from pipelines.stores.event_log import EVENT_LOG_VARIABLE, WRONG_CLOCK, EventsRead, require_past, utc_now
from pipelines.stores.event_rows import (
    ARRIVAL,
    Event,
    from_json,
    newest_arrival,
    record_batches,
    require_contract,
    stamped,
    to_json,
)

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, Producer

_CLOCKS_DIFFER = timedelta(minutes=5)
"""What clocks of several machines may differ: a time range is searched from so much earlier on."""
_LOOK_BACK = 10_000
_logger = logging.getLogger(__name__)


class KafkaEventLog:
    """Events in one topic; safe for many threads, processes and machines."""

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        options: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = utc_now,
        timeout_s: float = 10.0,
    ) -> None:
        """Name the topic; nothing is connected before the first call.

        Args:
            servers: `host:port` of some brokers, separated by commas.
            topic: Must exist, unless the brokers create topics by themselves.
            options: Settings of librdkafka, such as `security.protocol`.
            clock: Stamps the arrivals.
            timeout_s: Seconds after which a broker that does not answer is given up.

        Raises:
            ConfigError: the client library is not installed.
        """
        try:
            import confluent_kafka
        except ImportError:
            raise ConfigError(
                f"{EVENT_LOG_VARIABLE} names Kafka, but its client is not installed: pip install 'headrace[kafka]'."
            ) from None
        self._kafka = confluent_kafka
        self._topic = topic
        self._shared = {**(options or {}), "bootstrap.servers": servers}
        self._clock = clock
        self._timeout_s = timeout_s
        self._producer_lock = threading.Lock()
        self._producer: _Delivering | None = None

    @classmethod
    def from_address(cls, address: str) -> "KafkaEventLog":
        """Open `kafka://host:9092,host2:9092/topic?security.protocol=SSL`.

        Raises:
            ConfigError: hosts or topic are missing, or the client library is not installed.
        """
        parts = urlsplit(address)
        topic = parts.path.strip("/")
        if not parts.netloc or not topic or "/" in topic:
            raise ConfigError(
                f"{EVENT_LOG_VARIABLE} is `{address.partition('?')[0]}`: it must name brokers and a topic, such as "
                "kafka://host:9092,host2:9092/topic."
            )
        return cls(parts.netloc, topic, options=dict(parse_qsl(parts.query, strict_parsing=bool(parts.query))))

    def append(self, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Wait until all replicas in sync have the events; see `EventLogStore`.

        After a StoreError the events may still have arrived: send them again under the same ids.
        """
        if not events:
            return []
        now = self._clock()
        require_contract(events, now)
        stored = stamped(events, now)
        newest_ms = int(max(event[ARRIVAL] for event in stored).timestamp() * 1000)
        producer = self._open_producer()
        error = producer.deliver(self._topic, to_json(stored), newest_ms)
        if error is None:
            return stored
        if error.fatal():
            self._drop(producer)
        if error.code() == self._kafka.KafkaError.MSG_SIZE_TOO_LARGE:
            raise DataError(
                f"{len(events):,} events in one call are more than the topic {self._topic} takes in one message "
                f"({error.str()}): send them in parts, or raise message.max.bytes there and in {EVENT_LOG_VARIABLE}."
            )
        raise StoreError(
            f"Kafka did not confirm the events for the topic {self._topic} ({error.str()}): nothing was "
            "acknowledged. Check the brokers, then send the events again under the same ids."
        )

    def read(self, since: datetime | None, until: datetime) -> pa.Table:
        """Return the events that arrived in `(since, until]`; see `EventLogStore`."""
        require_past(until, self._clock())
        with self._consumer() as consumer:
            spans = self._written(consumer)
            if since is not None:
                spans = self._from_time(consumer, spans, since - _CLOCKS_DIFFER)
            messages = self._messages(consumer, spans)
            table = pa.Table.from_batches(record_batches(events for _, _, events in messages), schema=EVENTS)
        table = table.filter(pc.less_equal(table[ARRIVAL], until))
        if since is not None:
            table = table.filter(pc.greater(table[ARRIVAL], since))
        return table.take(pc.sort_indices(table[ARRIVAL]))

    def read_from(
        self,
        cursor: Mapping[str, Any] | None,
        until: datetime,
        *,
        since: datetime | None = None,  # noqa: ARG002 - tables without a cursor never read from Kafka
    ) -> EventsRead:
        """Return the events behind the cursor that arrived up to `until`; see `EventLogStore`.

        They are copied to a temporary file first: what is returned needs no broker any more.
        """
        now = self._clock()
        require_past(until, now)
        key = f"kafka:{self._topic}"
        others = dict(cursor or {})
        with self._consumer() as consumer:
            spans = self._behind(others.get(key) or {}, self._written(consumer))
            ends = {partition: end for partition, (_, end) in spans.items()}
            wanted = self._before_later_arrivals(self._messages(consumer, spans), ends, until, now)
            batches = _spooled(record_batches(wanted))
        return EventsRead(batches, {**others, key: {str(partition): end for partition, end in ends.items()}})

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        if self._producer is not None:
            self._drop(self._producer)

    def _open_producer(self) -> "_Delivering":
        with self._producer_lock:
            if self._producer is None:
                settings = {
                    "compression.type": "lz4",
                    "linger.ms": 1,
                    **self._shared,
                    "acks": "all",
                    "enable.idempotence": True,
                    "delivery.timeout.ms": int(self._timeout_s * 1000),
                    "logger": _logger,
                }
                self._producer = _Delivering(self._kafka.Producer(settings), timeout_s=self._timeout_s)
            return self._producer

    def _drop(self, producer: "_Delivering") -> None:
        with self._producer_lock:
            if self._producer is producer:
                self._producer = None
        producer.close()

    @contextmanager
    def _consumer(self) -> Iterator["Consumer"]:
        """Open a reader outside of any group: where it is in the topic is for our cursor to say."""
        own = {
            "group.id": "headrace",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "logger": _logger,
        }
        consumer = self._kafka.Consumer({**self._shared, **own})
        try:
            yield consumer
        except self._kafka.KafkaException as error:
            raise self._read_error(error.args[0].str()) from error
        finally:
            consumer.close()

    def _read_error(self, reason: str) -> StoreError:
        return StoreError(
            f"The topic {self._topic} cannot be read ({reason}). Check {EVENT_LOG_VARIABLE} and the brokers, and that "
            f"the topic exists (kafka-topics.sh --create --topic {self._topic}); then run this again."
        )

    def _written(self, consumer: "Consumer") -> dict[int, tuple[int, int]]:
        """Return first and next offset of every partition."""
        topic = consumer.list_topics(self._topic, timeout=self._timeout_s).topics[self._topic]
        if topic.error is not None:
            raise self._read_error(topic.error.str())
        return {
            partition: consumer.get_watermark_offsets(
                self._kafka.TopicPartition(self._topic, partition), timeout=self._timeout_s
            )
            for partition in sorted(topic.partitions)
        }

    def _behind(self, offsets: Mapping[str, int], spans: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return what follows the cursor.

        Raises:
            DataError: the topic no longer holds what comes next.
        """
        behind = {}
        for partition, (low, high) in spans.items():
            start = offsets.get(str(partition), low)
            if not low <= start <= high:
                raise DataError(
                    f"Ingestion read partition {partition} of the topic {self._topic} up to offset {start:,}, but it "
                    f"holds {low:,} to {high:,}: the events between were deleted, or the topic was made anew. Bring "
                    "them back, or name another topic; and let the retention be longer than a pause of ingestion."
                )
            behind[partition] = (start, high)
        return behind

    def _from_time(
        self, consumer: "Consumer", spans: dict[int, tuple[int, int]], earliest: datetime
    ) -> dict[int, tuple[int, int]]:
        """Return the spans from the first message on whose time is `earliest` or later."""
        asked = int(earliest.timestamp() * 1000)
        found = consumer.offsets_for_times(
            [self._kafka.TopicPartition(self._topic, partition, asked) for partition in spans],
            timeout=self._timeout_s,
        )
        starts = {}
        for answer in found:
            low, high = spans[answer.partition]
            # A broker that cannot look times up answers as if nothing newer were there.
            start = answer.offset if answer.offset >= 0 else high - _LOOK_BACK
            starts[answer.partition] = (max(low, start), high)
        return starts

    def _messages(
        self, consumer: "Consumer", spans: dict[int, tuple[int, int]]
    ) -> Iterator[tuple[int, int, list[Event]]]:
        """Yield partition, offset and events of every message in the spans."""
        left = {partition: end for partition, (start, end) in spans.items() if start < end}
        consumer.assign([self._kafka.TopicPartition(self._topic, partition, spans[partition][0]) for partition in left])
        while left:
            message = consumer.poll(self._timeout_s)
            if message is None:
                raise self._read_error(f"no answer within {self._timeout_s:g} s")
            partition, offset = message.partition(), message.offset()
            if message.error() is not None and message.error().code() != self._kafka.KafkaError._PARTITION_EOF:
                raise self._read_error(message.error().str())
            if partition not in left:
                continue
            if message.error() is None and offset < left[partition]:
                events = self._events_of(message)
                if events is not None:
                    yield partition, offset, events
            if offset >= left[partition] - (message.error() is None):
                del left[partition]

    def _events_of(self, message: "Message") -> list[Event] | None:
        events = from_json(message.value() or b"")
        if events is None:
            _logger.error(
                "The message at offset %d of partition %d of %s holds no events of ours and is skipped",
                message.offset(),
                message.partition(),
                self._topic,
            )
        return events

    def _before_later_arrivals(
        self, messages: Iterator[tuple[int, int, list[Event]]], ends: dict[int, int], until: datetime, now: datetime
    ) -> Iterator[list[Event]]:
        """Yield the events of each partition before its first message that arrived after `until`; correct `ends`."""
        for partition, offset, events in messages:
            if offset >= ends[partition]:
                continue
            if until < newest_arrival(events) <= now + WRONG_CLOCK:
                ends[partition] = offset
            else:
                yield events


class _Delivering:
    """A producer whose callers wait for the brokers' answer; a thread of its own hands the answers out."""

    def __init__(self, producer: "Producer", *, timeout_s: float) -> None:
        self._producer = producer
        self._timeout_s = timeout_s
        self._is_closed = False
        self._thread = threading.Thread(target=self._hand_out, name="kafka-event-log", daemon=True)
        self._thread.start()

    def deliver(self, topic: str, value: bytes, timestamp_ms: int) -> "KafkaError | None":
        """Send a message and return what went wrong with it; None once all replicas in sync have it."""
        from confluent_kafka import KafkaError, KafkaException

        answered = threading.Event()
        answer: list[KafkaError | None] = []

        def on_delivery(error: "KafkaError | None", _: "Message") -> None:
            answer.append(error)
            answered.set()

        try:
            self._producer.produce(topic, value=value, timestamp=timestamp_ms, on_delivery=on_delivery)
        except BufferError:
            return KafkaError(KafkaError._QUEUE_FULL)
        except KafkaException as error:
            return error.args[0]
        if not answered.wait(2 * self._timeout_s):
            return KafkaError(KafkaError._TIMED_OUT)
        return answer[0]

    def close(self) -> None:
        """Stop the thread; callers that still wait are answered first."""
        self._producer.flush(self._timeout_s)
        self._is_closed = True
        self._thread.join(self._timeout_s)

    def _hand_out(self) -> None:
        while not self._is_closed:
            self._producer.poll(0.1)


def _spooled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Copy the batches to a temporary file now, and return them from there."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the batches do
    with pa.ipc.new_stream(file, EVENTS) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file.seek(0)
    return _batches_in(file)


def _batches_in(file: Any) -> Iterator[pa.RecordBatch]:
    with file, pa.ipc.open_stream(file) as reader:
        yield from reader
