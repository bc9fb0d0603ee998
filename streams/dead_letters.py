"""Messages that cannot be processed: kept as they came, with the reason, and sent again once the cause is mended.

A dead letter has the key and the value of the message unchanged. Its headers say why, in the two dialects that tools
read: Kafka Connect's (``__connect.errors.*``) and Kafka Streams' (``__streams.errors.*``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog
from aiokafka.errors import MessageSizeTooLargeError
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import MessageSizeTooLargeError as KafkaMessageSizeTooLargeError

from earlybell.streams.brokers import client_options, open_producer, reaching
from earlybell.streams.settings import Settings
from earlybell.streams.transport import Outgoing

log = structlog.get_logger(__name__)

#: Headers of a letter: the dialect's name for each thing that is said.
TOPIC = ("__connect.errors.topic", "__streams.errors.topic")
PARTITION = ("__connect.errors.partition", "__streams.errors.partition")
OFFSET = ("__connect.errors.offset", "__streams.errors.offset")
EXCEPTION = ("__connect.errors.exception.class.name", "__streams.errors.exception")
REASON = ("__connect.errors.exception.message", "__streams.errors.message")
STAGE = "__connect.errors.stage"
#: Present, with the number of bytes, where a broker refused the letter with its value: the original lies at the origin.
VALUE_OMITTED = "earlybell.value.omitted"
#: The headers that a letter has beyond those of its message.
OURS = ("__connect.errors.", "__streams.errors.", "earlybell.")
#: The reason is for people; a message can make it as long as it likes.
REASON_CHARACTERS = 1_000


class Origin(Protocol):
    """The message as it was read (an ``aiokafka.ConsumerRecord``)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Those of the message itself."""
        ...


def letter(message: Origin, *, stage: str, kind: str, reason: str) -> Outgoing:
    """The dead letter of a message.

    Parameters
    ----------
    message
        What could not be processed.
    stage
        Where: ``decode``, ``language``, ``inference`` or ``signal``.
    kind
        The fault's class, such as ``BadNews``.
    reason
        One sentence.
    """
    said = [
        (TOPIC, message.topic),
        (PARTITION, str(message.partition)),
        (OFFSET, str(message.offset)),
        (EXCEPTION, kind),
        (REASON, reason[:REASON_CHARACTERS]),
    ]
    headers = [(name, text.encode("utf-8", "backslashreplace")) for names, text in said for name in names]
    return Outgoing(message.key, message.value, [*message.headers, *headers, (STAGE, stage.encode())])


async def send(
    letters: Sequence[Outgoing], topic: str, send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]]
) -> None:
    """Send letters; one that the broker finds too large goes without its value, and one still too large is logged.

    Raises
    ------
    KafkaError
        The broker could not take them now: try again later.
    """
    try:
        await send_all(topic, letters)
    except MessageSizeTooLargeError:
        for one in letters:
            await _send_by_all_means(one, topic, send_all)


async def _send_by_all_means(
    one: Outgoing, topic: str, send_all: Callable[[str, Sequence[Outgoing]], Awaitable[None]]
) -> None:
    size = len(one.value or b"")
    without = Outgoing(one.key, None, [*one.headers, (VALUE_OMITTED, str(size).encode())])
    bare = Outgoing(None, None, without.headers)
    for form in (one, without, bare):
        try:
            return await send_all(topic, [form])
        except MessageSizeTooLargeError:
            continue
    origin = {name: text.decode() for name, text in one.headers if name in (TOPIC[0], PARTITION[0], OFFSET[0])}
    log.error("dead_letter_refused", size=size, **{name.rsplit(".", 1)[-1]: text for name, text in origin.items()})
    return None


def redrive(settings: Settings, *, limit: int | None = None) -> int:
    """Send dead letters to the topic that they came from, once each; returns how many.

    What was sent is remembered as the offsets of the consumer group ``PREFIX-redrive``; a crash in between sends a few
    again, which does no harm downstream. Letters without their value stay: they are logged with their origin.

    Raises
    ------
    BrokerError
        No broker answers.
    """
    sent = 0
    with reaching(settings):
        producer = open_producer(settings)
        consumer = KafkaConsumer(
            **client_options(settings),
            group_id=settings.consumer_group("redrive"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            found = consumer.partitions_for_topic(settings.dead_topic) or set()
            partitions = [TopicPartition(settings.dead_topic, number) for number in sorted(found)]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            while limit is None or sent < limit:
                left = [one for one in partitions if consumer.position(one) < ends[one]]
                if not left:
                    break
                most = 500 if limit is None else min(500, limit - sent)
                polled = consumer.poll(timeout_ms=500, max_records=most)
                # A redriven message that fails again has a new letter beyond the end that we started with.
                some = [one for partition, found in polled.items() for one in found if one.offset < ends[partition]]
                sent += _send_back(some, producer)
                consumer.commit()
        finally:
            consumer.close()
            producer.close()
    return sent


def _send_back(letters: Sequence[Origin], producer: KafkaProducer) -> int:
    """Send letters to where they came from, as they came; returns how many went when the broker has them."""
    pending = []
    for one in letters:
        headers = dict(one.headers)
        topic = headers.get(TOPIC[0])
        if topic is None or VALUE_OMITTED in headers:
            log.warning("not_redriven", partition=one.partition, offset=one.offset, reason="no origin, or no value")
            continue
        theirs = [(name, text) for name, text in one.headers if not name.startswith(OURS)]
        pending.append((one, producer.send(topic.decode(), key=one.key, value=one.value, headers=theirs)))
    producer.flush()
    sent = 0
    for one, future in pending:
        try:
            future.get(timeout=0)
            sent += 1
        except KafkaMessageSizeTooLargeError as error:
            # It would be refused for ever, and those behind it must not wait.
            log.error("not_redriven", partition=one.partition, offset=one.offset, reason=str(error))
    return sent
