"""A reset connection fails as aiokafka expects, and brokers that have moved are found, on either event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
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


@pytest.mark.parametrize("broker", ["gone", "without a leader for the partition"])
def test_a_leader_is_not_looked_for_without_a_pause(
    kafka_bootstrap: str, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's fetcher asks for the leader again as soon as it is told that there is none."""
    topic, updates = f"leaderless-{broker.replace(' ', '-')}", 0
    update, fail = ClusterMetadata.update_metadata, ClusterMetadata.failed_update

    def without_leaders(cluster: Any, metadata: Any) -> None:
        nonlocal updates
        updates += 1
        update(cluster, metadata)
        cluster._partitions[topic] = {n: p._replace(leader=-1) for n, p in cluster._partitions[topic].items()}

    def count_failures(cluster: Any, error: Any) -> None:
        nonlocal updates
        updates += 1
        fail(cluster, error)

    async def updates_while_leaderless() -> tuple[int, float]:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, retry_backoff_ms=100)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.position(TopicPartition(topic, 0))  # the topic is made, and has a leader
            client, began = consumer._client, asyncio.get_running_loop().time()
            if broker == "gone":
                monkeypatch.setattr(ClusterMetadata, "failed_update", count_failures)
                client._bootstrap_servers = ["127.0.0.1:1"]
                client.cluster._brokers = {n: b._replace(port=1) for n, b in client.cluster._brokers.items()}
                partitions = client.cluster._partitions[topic]
                client.cluster._partitions[topic] = {n: p._replace(leader=-1) for n, p in partitions.items()}
                for connection in list(client._conns.values()):
                    connection.close()
            else:
                monkeypatch.setattr(ClusterMetadata, "update_metadata", without_leaders)
                await client.force_metadata_update()
            await asyncio.sleep(1.5)
            return updates, asyncio.get_running_loop().time() - began
        finally:
            monkeypatch.undo()
            await consumer.stop()

    count, elapsed = asyncio.run(asyncio.wait_for(updates_while_leaderless(), 30))
    assert 2 <= count <= elapsed / 0.1 + 2
