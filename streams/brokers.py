"""How the command line's own Kafka clients (kafka-python) reach the brokers, and what it says when they cannot.

The roles have Faust's clients; these are for feeds, for `watch` and for making topics. Knows nothing of Faust.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, TopicAlreadyExistsError

from earlybell.streams.exceptions import BrokerError
from earlybell.streams.records import MAX_MESSAGE_BYTES
from earlybell.streams.settings import Settings

#: How long a command waits for a first answer before it says that there is no broker.
BOOTSTRAP_TIMEOUT_MS = 5_000
#: Room above the news topic's limit for a dead letter's headers.
DEAD_LETTER_BYTES = 2 * MAX_MESSAGE_BYTES


@contextmanager
def reaching(settings: Settings) -> Iterator[None]:
    """Turn a Kafka client's error into a `BrokerError` of one line."""
    try:
        yield
    except KafkaError as error:
        raise BrokerError(
            f"{settings.kafka_bootstrap}: {error}; is Kafka there? `earlybell up` starts one, "
            "EARLYBELL_KAFKA_BOOTSTRAP names another"
        ) from error


def client_options(settings: Settings) -> dict[str, Any]:
    """What every kafka-python client is given: the address and how to be let in."""
    options: dict[str, Any] = {
        "bootstrap_servers": [broker.strip() for broker in settings.kafka_bootstrap.split(",")],
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "security_protocol": settings.kafka_security_protocol,
        "client_id": "earlybell",
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_password
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    if settings.kafka_ca_file is not None:
        options["ssl_cafile"] = str(settings.kafka_ca_file)
    return options


def open_producer(settings: Settings) -> KafkaProducer:
    """A producer whose messages are written once and acknowledged by every in-sync replica.

    Raises
    ------
    BrokerError
        No broker answers.
    """
    with reaching(settings):
        return KafkaProducer(
            **client_options(settings),
            acks="all",
            enable_idempotence=True,
            # Larger batches are what makes kafka-python fast: its cost is by batch and by message, not by byte.
            batch_size=256 * 1024,
            linger_ms=5,
            # A message over the topic's limit is the broker's to refuse, so that the reason is its own.
            max_request_size=8 * MAX_MESSAGE_BYTES,
            allow_auto_create_topics=False,
        )


def open_consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """A consumer of no group that reads bytes.

    Raises
    ------
    BrokerError
        No broker answers.
    """
    with reaching(settings):
        return KafkaConsumer(
            **client_options(settings),
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            **options,
        )


def create_topics(settings: Settings) -> list[str]:
    """Make those of our topics that are not there yet; gives the names of those made.

    The broker's clock stamps them, so that a message's timestamp says when it came in.

    Raises
    ------
    BrokerError
        No broker answers, or it will not let us.
    """
    limits = {
        settings.news_topic: MAX_MESSAGE_BYTES,
        settings.sentiment_topic: MAX_MESSAGE_BYTES,
        settings.dead_topic: DEAD_LETTER_BYTES,
    }
    with reaching(settings):
        admin = KafkaAdminClient(**client_options(settings))
        try:
            wanted = {
                topic: {
                    "num_partitions": settings.partitions,
                    "replication_factor": settings.replication,
                    "configs": {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(limit)},
                }
                for topic, limit in limits.items()
                if topic not in set(admin.list_topics())
            }
            for topic, options in wanted.items():
                try:
                    admin.create_topics({topic: options}, wait_for_metadata=True)
                except TopicAlreadyExistsError:
                    continue  # a role that starts beside us was faster
            return list(wanted)
        finally:
            admin.close()
