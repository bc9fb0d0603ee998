"""Makes aiokafka's connections fail on uvloop as they do on asyncio's own loop.

For a turn or two of the loop after a reset, a transport is closed and its connection does not know yet. asyncio's
transport ignores a write then; uvloop's raises a RuntimeError, which aiokafka does not expect: its fetcher or sender
ends for good. Here it is a lost connection, which is opened again. It replaces a method of aiokafka 0.14.0, which is
pinned; ``tests/streams/test_connections.py`` fails if it changes.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


@wraps(_send)
def _send_or_close(connection: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return _send(connection, *arguments, **options)
    except RuntimeError as error:
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} broken: {error}") from error


def install() -> None:
    """Replace the method, once."""
    AIOKafkaConnection.send = _send_or_close
