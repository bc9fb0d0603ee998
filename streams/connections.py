"""Mends three faults of aiokafka's connections, and counts those that are lost. It replaces methods of aiokafka 0.14.0,
which is pinned; ``tests/streams/test_connections.py`` fails if they change.

A reset connection: for a turn or two of the loop its transport is closed and it does not know yet. asyncio's transport
ignores a write then; uvloop's raises a RuntimeError, which aiokafka does not expect: its fetcher or sender ends for
good. Here it is a lost connection, which is opened again.

Brokers at other addresses: a client that has reached the brokers once asks only them where they are, and never the
bootstrap servers again. When all have moved (their containers were placed anew), it looks for them at the old addresses
for ever. Here it starts again from the bootstrap servers when no known broker answers (the Java client's
``metadata.recovery.strategy=rebootstrap``, KIP-899).

A partition without a leader: aiokafka's fetcher and sender ask where the leader is, and ask again as soon as they hear
that there is none, or that no broker answers: thousands of times a second, with a core of ours and the brokers'. Here
the next question waits for ``retry_backoff_ms``.
"""

from __future__ import annotations

import asyncio
from copy import copy
from functools import wraps
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

from earlybell.streams import metrics

log = structlog.get_logger(__name__)

_send = AIOKafkaConnection.send
_close = AIOKafkaConnection.close
_update = AIOKafkaClient._metadata_update
#: What stands in a partition's metadata for its leader while it has none.
NO_LEADER = -1
#: Reasons to close a connection that was still wanted.
_LOST = (CloseReason.CONNECTION_BROKEN, CloseReason.CONNECTION_TIMEOUT, CloseReason.OUT_OF_SYNC)


@wraps(_send)
def _send_or_close(connection: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return _send(connection, *arguments, **options)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} broken: {error}") from error


@wraps(_close)
def _count_and_close(connection: Any, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
    if reason in _LOST and connection._reader is not None:  # else it is closed already
        metrics.BROKER_CONNECTIONS_LOST.inc()
    return _close(connection, reason, exc)


@wraps(_update)
async def _update_with_pauses(client: Any, metadata: Any, topics: Any) -> bool:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(vars(client).get("not_asked_before", 0.0) - loop.time())
    known = await _update_or_bootstrap(client, metadata, topics)
    leaders = (found.leader for partitions in metadata._partitions.values() for found in partitions.values())
    if not known or NO_LEADER in leaders:
        client.not_asked_before = loop.time() + client._retry_backoff
    return known


async def _update_or_bootstrap(client: Any, metadata: Any, topics: Any) -> bool:
    if await _update(client, metadata, topics):
        return True
    # A copy that knows nothing: the client's own connections wait for each other, and for the old addresses.
    scout = copy(client)
    scout.cluster, scout._conns = ClusterMetadata(metadata_max_age_ms=client._metadata_max_age_ms), {}
    try:
        await scout.bootstrap()
    except KafkaConnectionError:
        return False
    finally:
        for connection in scout._conns.values():
            connection.close()
    found, known = scout.cluster._brokers, client.cluster._brokers
    moved = [number for number, broker in found.items() if known.get(number) != broker]
    if not moved:
        return False
    log.warning("brokers_moved", brokers=[f"{found[number].host}:{found[number].port}" for number in moved])
    client.cluster._brokers = dict(found)
    for (number, _), connection in list(client._conns.items()):
        if number in moved:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
    return bool(await _update(client, metadata, topics))


def install() -> None:
    """Replace the methods, once."""
    AIOKafkaConnection.send = _send_or_close
    AIOKafkaConnection.close = _count_and_close
    AIOKafkaClient._metadata_update = _update_with_pauses
