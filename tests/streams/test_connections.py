"""A connection that is reset fails in a way that aiokafka expects, on either event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from earlybell.streams import transport  # noqa: F401 (installs it)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_request_on_a_closed_transport_is_a_lost_connection(
    kafka_bootstrap: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def send_after_a_reset() -> None:
        host, _, port = kafka_bootstrap.rpartition(":")
        connection = await create_conn(host, int(port))
        connection._writer.transport.abort()
        await asyncio.sleep(0)  # the transport is closed; its connection has not been told
        await connection.send(MetadataRequest([]))

    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(KafkaConnectionError):
        runner.run(asyncio.wait_for(send_after_a_reset(), 30))
