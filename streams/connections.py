"""Mends two faults of aiokafka's connections. It replaces methods of aiokafka 0.14.0, which is pinned;
``tests/streams/test_connections.py`` fails if they change.

A reset connection: for a turn or two of the loop its transport is closed and it does not know yet. asyncio's transport
ignores a write then; uvloop's raises a RuntimeError, which aiokafka does not expect: its fetcher or sender ends for
good. Here it is a lost connection, which is opened again.

Brokers at other addresses: a client that has reached the brokers once asks only them where they are, and never the
bootstrap servers again. When all have moved (their containers were placed anew), it looks for them at the old addresses
for ever. Here it starts again from the bootstrap servers when no known broker answers (the Java client's
``metadata.recovery.strategy=rebootstrap``, KIP-899).
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import BrokerMetadata

log = structlog.get_logger(__name__)

#: The node that aiokafka itself asks besides the known brokers, and lets go of when they answer.
BOOTSTRAP = "bootstrap"

_send = AIOKafkaConnection.send
_update = AIOKafkaClient._metadata_update


@wraps(_send)
def _send_or_close(connection: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return _send(connection, *arguments, **options)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} broken: {error}") from error


@wraps(_update)
async def _update_or_bootstrap(client: Any, metadata: Any, topics: Any) -> bool:
    if await _update(client, metadata, topics):
        return True
    for host, port, _ in client.hosts:
        client.cluster._bootstrap_brokers[BOOTSTRAP] = BrokerMetadata(BOOTSTRAP, host, port, None)
        connection = await client._get_conn(BOOTSTRAP)
        if connection is None:
            continue
        if await _update(client, metadata, topics):
            log.warning("brokers_found_again", bootstrap=f"{host}:{port}")
            return True
        connection.close()  # the next one has the same name
    return False


def install() -> None:
    """Replace the methods, once."""
    AIOKafkaConnection.send = _send_or_close
    AIOKafkaClient._metadata_update = _update_or_bootstrap
