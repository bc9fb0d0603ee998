"""Creates the topics that are missing, with the broker's timestamps and the size limits of our contracts."""

from __future__ import annotations

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from earlybell.streams.brokers import client_options, reaching
from earlybell.streams.records import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES
from earlybell.streams.settings import Settings


def create_topics(settings: Settings) -> list[str]:
    """Create those of our topics that do not exist yet, and return their names.

    The broker stamps the messages (LogAppendTime), so that a timestamp says when a message came in.

    Raises
    ------
    BrokerError
        No broker answers, or it does not let us create topics.
    """
    limits = {
        settings.news_topic: MAX_MESSAGE_BYTES,
        settings.sentiment_topic: MAX_MESSAGE_BYTES,
        settings.dead_topic: MAX_DEAD_LETTER_BYTES,
    }
    with reaching(settings):
        admin = KafkaAdminClient(**client_options(settings))
        try:
            existing = set(admin.list_topics())
            missing = {
                topic: {
                    "num_partitions": settings.partitions,
                    "replication_factor": settings.replication,
                    "configs": {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(limit)},
                }
                for topic, limit in limits.items()
                if topic not in existing
            }
            for topic, options in missing.items():
                try:
                    admin.create_topics({topic: options}, wait_for_metadata=True)
                except TopicAlreadyExistsError:
                    continue  # another role, starting at the same time, was faster
            return list(missing)
        finally:
            admin.close()
