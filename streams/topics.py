"""Creates the topics that are missing, and checks those that exist for what the answers depend on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError

from earlybell.streams.brokers import client_options, reaching
from earlybell.streams.exceptions import TopicError
from earlybell.streams.records import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES
from earlybell.streams.settings import Settings

log = structlog.get_logger(__name__)

DAY_MS = 86_400_000
#: Copies of a partition, unless the settings say. With two of three in sync, a broker may fail and nothing stops.
MOST_COPIES = 3


def create_topics(settings: Settings) -> list[str]:
    """Create those of our topics that do not exist yet, and return their names.

    The broker stamps the messages (LogAppendTime), so that a timestamp says when a message came in.

    Raises
    ------
    BrokerError
        No broker answers, or it does not let us create topics.
    TopicError
        The cluster has fewer brokers than must have a message.
    """
    limits = {
        **dict.fromkeys(settings.news_topics, (MAX_MESSAGE_BYTES, settings.news_retention_days)),
        settings.sentiment_topic: (MAX_MESSAGE_BYTES, settings.sentiment_retention_days),
        settings.dead_topic: (MAX_DEAD_LETTER_BYTES, settings.dead_retention_days),
    }
    with reaching(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        wanted = limits.keys() - admin.list_topics()
        if not wanted:
            return []
        copies, insync = _copies(settings, len(admin.describe_cluster()["brokers"]))
        missing = {
            topic: {
                "num_partitions": settings.partitions,
                "replication_factor": copies,
                "configs": {
                    "message.timestamp.type": "LogAppendTime",
                    "max.message.bytes": str(size),
                    "min.insync.replicas": str(insync),
                    "retention.ms": str(int(days * DAY_MS) or -1),
                },
            }
            for topic, (size, days) in limits.items()
            if topic in wanted
        }
        for topic, options in missing.items():
            try:
                admin.create_topics({topic: options}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                continue  # another role, starting at the same time, was faster
        return list(missing)


def _copies(settings: Settings, brokers: int) -> tuple[int, int]:
    """Return how many copies a partition gets, and how many must have a message before it counts as acknowledged.

    Raises
    ------
    TopicError
        The cluster has fewer brokers than must have a message.
    """
    copies = settings.replication or min(MOST_COPIES, brokers)
    insync = settings.min_insync_replicas or min(2, copies)
    if insync > copies:
        raise TopicError(
            f"EARLYBELL_MIN_INSYNC_REPLICAS is {insync} but the cluster has {brokers} "
            f"broker{'s' if brokers > 1 else ''}: no message would ever be acknowledged"
        )
    return copies, insync


def check_topics(settings: Settings) -> None:
    """Check that the topics stamp messages with the broker's clock and keep dead letters.

    A topic that somebody else created may have the producers' clock: then a message could claim to have been there
    before it was, and a backtest would see the future.

    Raises
    ------
    BrokerError
        No broker answers.
    TopicError
        A topic is not as it must be. The text has the command that corrects it.
    """
    topics = (*settings.news_topics, settings.sentiment_topic, settings.dead_topic)
    with reaching(settings), closing(KafkaAdminClient(**client_options(settings))) as admin:
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        try:
            # All of it: of what we may not read the client returns nothing, as it does of what is as it always is.
            described = admin.describe_configs(resources, config_filter="all").get("topic", {})
        except KafkaError as error:
            log.warning("topics_not_checked", reason=repr(error))
            return
    configs = {
        topic: {name: entry["value"] for name, entry in described[topic].items()}
        for topic in topics
        if described.get(topic)
    }
    if unreadable := [topic for topic in topics if topic not in configs]:
        # Not everybody may read the configuration (DescribeConfigs). Each message's time is checked as well.
        log.warning("topics_not_checked", topics=unreadable, reason="their configuration may not be read")
    for topic, fault, correction in _faults(settings, configs):
        raise TopicError(
            f"topic {topic} {fault}: run `kafka-configs.sh --bootstrap-server {settings.kafka_bootstrap} --alter "
            f"--entity-type topics --entity-name {topic} --add-config {correction}`"
        )


def _faults(settings: Settings, configs: dict[str, dict[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield each topic that is not as it must be, what is wrong, and the configuration that corrects it."""
    for topic in (*settings.news_topics, settings.sentiment_topic):
        if topic in configs and configs[topic].get("message.timestamp.type") != "LogAppendTime":
            fault = "stamps messages with the producer's clock, not the broker's"
            yield topic, fault, "message.timestamp.type=LogAppendTime"
    if "compact" in configs.get(settings.dead_topic, {}).get("cleanup.policy", ""):
        yield settings.dead_topic, "is compacted, which deletes dead letters", "cleanup.policy=delete"
