"""`earlybell redrive`: send dead letters back to the topic they came from, once the cause is fixed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import MessageSizeTooLargeError

from earlybell.streams.brokers import client_options, open_producer, reaching
from earlybell.streams.dead_letters import ADDED_HEADERS, TOPIC, VALUE_OMITTED, Origin
from earlybell.streams.settings import Settings

log = structlog.get_logger(__name__)

#: Letters that are sent before the group's offsets are committed.
BATCH_LETTERS = 500


def redrive(settings: Settings, *, limit: int | None = None, dry_run: bool = False) -> int:
    """Send each dead letter back to its topic once, and return how many were sent, or with `dry_run` would be.

    The offsets of the consumer group ``PREFIX-redrive`` remember what was sent; a crash in between sends a few letters
    twice, which is harmless downstream. Letters go to the news and sentiment topics only, whatever topic their header
    names. Others, and letters without their value, are skipped and logged.

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
            numbers = consumer.partitions_for_topic(settings.dead_topic) or set()
            partitions = [TopicPartition(settings.dead_topic, number) for number in sorted(numbers)]
            consumer.assign(partitions)
            # A message that fails again gets a new letter, beyond the end at which we started.
            ends = consumer.end_offsets(partitions)
            while limit is None or sent < limit:
                if all(consumer.position(partition) >= ends[partition] for partition in partitions):
                    break
                batch = BATCH_LETTERS if limit is None else min(BATCH_LETTERS, limit - sent)
                for partition, records in consumer.poll(timeout_ms=500, max_records=batch).items():
                    if letters := [letter for letter in records if letter.offset < ends[partition]]:
                        if dry_run:
                            sent += sum(_topic(letter, settings) is not None for letter in letters)
                            continue
                        sent += _send_back(letters, producer, settings)
                        # Not the client's position, which is also past the letters beyond the end.
                        consumer.commit({partition: OffsetAndMetadata(letters[-1].offset + 1, "", -1)})
        finally:
            consumer.close()
            producer.close()
    return sent


def _send_back(letters: Sequence[Origin], producer: KafkaProducer, settings: Settings) -> int:
    """Send letters back as the messages they were, and return how many the broker has acknowledged."""
    pending = []
    for letter in letters:
        if (topic := _topic(letter, settings)) is None:
            continue
        original = [(name, text) for name, text in letter.headers if not name.startswith(ADDED_HEADERS)]
        pending.append((letter, producer.send(topic, key=letter.key, value=letter.value, headers=original)))
    producer.flush()
    sent = 0
    for letter, future in pending:
        try:
            future.get(timeout=0)
            sent += 1
        except MessageSizeTooLargeError as error:
            # It would be refused every time, and those behind it must not wait.
            log.error("dead_letter_skipped", partition=letter.partition, offset=letter.offset, reason=str(error))
    return sent


def _topic(letter: Origin, settings: Settings) -> str | None:
    """Return the topic to which the letter goes back, or None, with the reason in the log, if it cannot."""
    # Anybody who may write a letter chooses its headers, so they select among our topics, but cannot name another.
    topics = {topic.encode(): topic for topic in (*settings.news_topics, settings.sentiment_topic)}
    headers = dict(letter.headers)
    topic = topics.get(headers.get(TOPIC[0], b""))
    if topic is None or VALUE_OMITTED in headers:
        reason = "it has no value" if topic else "its origin is not a topic of this pipeline"
        log.warning("dead_letter_skipped", partition=letter.partition, offset=letter.offset, reason=reason)
        return None
    return topic
