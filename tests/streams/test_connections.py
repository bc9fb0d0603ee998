"""A reset connection fails as aiokafka expects, and brokers that have moved are found, on either event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from earlybell.streams import metrics, transport  # noqa: F401 (installs it)


def lost() -> float:
    return float(metrics.BROKER_CONNECTIONS_LOST._value.get())


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_a_request_on_a_closed_transport_is_a_lost_connection(
    kafka_bootstrap: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def send_after_a_reset() -> None:
        host, _, port = kafka_bootstrap.rpartition(":")
        connection = await create_conn(host, int(port))
        connection._writer.transport.abort()
        await asyncio.sleep(0)  # the transport is closed; its connection has not been told
        await connection.send(MetadataRequest([]))

    before = lost()
    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(KafkaConnectionError):
        runner.run(asyncio.wait_for(send_after_a_reset(), 30))
    assert lost() == before + 1


def test_a_connection_that_is_closed_in_order_is_not_lost(kafka_bootstrap: str) -> None:
    async def open_and_close() -> None:
        host, _, port = kafka_bootstrap.rpartition(":")
        await (await create_conn(host, int(port))).close(reason=CloseReason.SHUTDOWN)

    before = lost()
    asyncio.run(asyncio.wait_for(open_and_close(), 30))
    assert lost() == before


@LOOPS
def test_brokers_at_other_addresses_are_looked_for_at_every_bootstrap_server(
    kafka_bootstrap: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def find_again() -> None:
        client = AIOKafkaClient(bootstrap_servers=["127.0.0.1:1", kafka_bootstrap])
        await client.bootstrap()
        try:
            known = client.cluster._brokers
            client.cluster._brokers = {number: broker._replace(port=1) for number, broker in known.items()}
            assert await client.force_metadata_update()
            assert client.cluster._brokers == known
            assert {node for node, _ in client._conns} == set(known), "none to a bootstrap server is left"
        finally:
            await client.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(find_again(), 30))
