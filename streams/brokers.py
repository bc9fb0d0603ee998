"""Opens the command line's Kafka clients (kafka-python), and turns their errors into one line for the user.

The roles use Faust's clients; these serve feeds, `watch`, `redrive` and the creation of topics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from earlybell.streams.exceptions import BrokerError
from earlybell.streams.records import MAX_MESSAGE_BYTES
from earlybell.streams.settings import Settings
from earlybell.streams.tls import ssl_context

#: How long a command waits for a first answer before it reports that no broker is there.
BOOTSTRAP_TIMEOUT_MS = 5_000


@contextmanager
def reaching(settings: Settings) -> Iterator[None]:
    """Turn a Kafka client's error into a `BrokerError` of one line."""
    try:
        yield
    except KafkaError as error:
        reason = "no broker answers" if "Unable to bootstrap" in str(error) else str(error)
        raise BrokerError(
            f"{settings.kafka_bootstrap}: {reason}; is Kafka running? `earlybell up` starts one, "
            "EARLYBELL_KAFKA_BOOTSTRAP names another"
        ) from error


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options of every kafka-python client: addresses, protocol and credentials."""
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
    if (context := ssl_context(settings)) is not None:
        options["ssl_context"] = context
    return options


def open_producer(settings: Settings) -> KafkaProducer:
    """Open an idempotent producer that waits for every in-sync replica.

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
            # kafka-python's cost is per batch and per message, not per byte: large batches make it fast.
            batch_size=256 * 1024,
            linger_ms=5,
            # Leave it to the broker to refuse a message over the topic's limit, so that the reason is the broker's.
            max_request_size=8 * MAX_MESSAGE_BYTES,
            allow_auto_create_topics=False,
        )


def open_consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """Open a consumer without a group, which reads values as bytes.

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
